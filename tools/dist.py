"""Build what a package index gets, and see that it is whole.

    python tools/dist.py                  the sdists and wheels of all four packages, in dist/

A wheel built from the sdist must have the files and contents of one built from the tree: what an sdist lacks
would be missing only for those who build from it. ``twine check --strict`` looks at the metadata and at how
an index will show the README.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("qlstm-core", "qlstm-quant", "qlstm-norm", "qlstm-bench")


def main() -> int:
    """Build everything into dist/ and return the exit code."""
    out = ROOT / "dist"
    shutil.rmtree(out, ignore_errors=True)
    wrong = False
    for package in PACKAGES:
        sdist = build(ROOT / "packages" / package, "sdist", out)
        wheel = build(ROOT / "packages" / package, "wheel", out)
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(sdist) as archive:
                archive.extractall(folder, filter="data")
            (source,) = Path(folder).iterdir()
            again = build(source, "wheel", Path(folder) / "dist")
            for line in differences(wheel, again):
                wrong = True
                print(f"{wheel.name}: {line}", file=sys.stderr)
    checked = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *sorted(out.iterdir())])
    return 1 if wrong else checked.returncode


def build(source: Path, kind: str, out: Path) -> Path:
    """Build an sdist or a wheel with the backend that is installed, and return the file."""
    before = set(out.glob("*"))
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        f"--{kind}",
        "--outdir",
        str(out),
        str(source),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (made,) = set(out.glob("*")) - before
    return made


def differences(wheel: Path, again: Path) -> list[str]:
    """Return what the second wheel lacks, has besides, or has otherwise."""
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        contents, others = ({name: file.read(name) for name in file.namelist()} for file in (one, other))
    return [
        *(
            f"{name} is not in the wheel built from the sdist"
            for name in sorted(contents.keys() - others.keys())
        ),
        *(
            f"{name} is only in the wheel built from the sdist"
            for name in sorted(others.keys() - contents.keys())
        ),
        *(
            f"{name} is another in the wheel built from the sdist"
            for name in sorted(contents.keys() & others.keys())
            if contents[name] != others[name]
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
