"""Write asv's web pages, with the scripts that they load beside them; asv alone leaves them to the network.

python asv_publish.py [--config FILE] [--html-dir FOLDER] [RANGE]     as `asv publish`
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
"""The folder of asv.conf.json."""

SCRIPTS = Path(__file__).resolve().parent / "asv_page"
"""Scripts and styles that the page loads, each under the file name of its address."""

REFERENCE = re.compile(
    r'<(?P<tag>script|link)\b[^>]*\b(?:src|href)="(?P<address>https://[^"]+/(?P<name>[^"/]+\.(?:js|css)))"[^>]*>'
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("range", nargs="?", help="commits, such as v0.1.0..main; default: all measured")
    parser.add_argument("--config", type=Path, default=HERE / "asv.conf.json")
    parser.add_argument("--html-dir", type=Path, default=HERE / ".asv" / "html")
    options = parser.parse_args(arguments)
    command = ["asv", "publish", "--config", str(options.config), "--html-dir", str(options.html_dir)]
    code = subprocess.run([*command, *filter(None, [options.range])], check=False).returncode
    if code:
        return code
    for address in keep_scripts(options.html_dir):
        print(f"asv-publish: the page needs the network for {address}", file=sys.stderr)
    print(f"To look: python -m http.server --directory {options.html_dir}")
    return 0


def keep_scripts(html: Path) -> list[str]:
    """Copy what the page loads beside it, and let it load that; return the addresses that are left."""
    (html / SCRIPTS.name).mkdir(exist_ok=True)
    left = []

    def local(found: re.Match[str]) -> str:
        script = SCRIPTS / found["name"]
        if not script.exists():
            left.append(found["address"])
            return found[0]
        shutil.copy(script, html / SCRIPTS.name)
        path = f"{SCRIPTS.name}/{script.name}"
        if found["tag"] == "link":
            return f'<link rel="stylesheet" href="{path}">'
        return f'<script src="{path}">'

    page = html / "index.html"
    page.write_text(REFERENCE.sub(local, page.read_text(encoding="utf-8")), encoding="utf-8")
    return left


if __name__ == "__main__":
    raise SystemExit(main())
