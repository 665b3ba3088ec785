"""Plant three regressions in a clone of this repository, and see whether asv-compare names each.

    python asv_planted.py                          all three; a quarter of an hour
    python asv_planted.py slower-kernel            one of them
    python asv_planted.py --folder DIR --base main

The clone has an asv environment of its own, and is removed at the end unless ``--folder`` says where it lies.
Exit code 0: asv-compare named each, and ended with 1 as it should; 1: it missed one; 2: nothing to plant in.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Regression:
    """A change for the worse.

    Args:
        path: of the file that is changed.
        place: regular expression of what is replaced; found once.
        planted: what replaces it.
        bench: benchmarks that are measured.
        named: regular expression of one that must then be called worse.
    """

    path: str
    place: str
    planted: str
    bench: str
    named: str


REGRESSIONS = {
    # Each product with the recurrent weights is made twice.
    "slower-kernel": Regression(
        "packages/qlstm-core/src/qlstm_core/packed/engine/loop.py",
        r"(?m)^( +side\(memory, cell\.inner_hh, .*\)\n)",
        r"\1\1",
        r"^packed\.(Quantizers|Streaming)",
        r"packed\.Quantizers\.time_sequence\('bwn'\)",
    ),
    # The scale of BWN is a tenth of the mean magnitude.
    "worse-quantizer": Regression(
        "packages/qlstm-quant/src/qlstm_quant/binary.py",
        r"binary_scale\(mean_magnitude\(weight, per_row=self\.per_row\), weight\.dtype\)",
        r"0.1 * \g<0>",
        "^accuracy",
        r"accuracy\.\w+\.track_validation\('bwn', 'none'\)",
    ),
    # Weights are drawn from a range four times as wide.
    "wilder-gradient": Regression(
        "packages/qlstm-core/src/qlstm_core/layers/weights.py",
        r"return 1\.0 / math\.sqrt\(self\.hidden_size\)",
        r"return 4.0 / math.sqrt(self.hidden_size)",
        "^gradients",
        r"gradients\.\w+\.track_\w+\('none', 'none'\)",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(REGRESSIONS)}; default: all")
    parser.add_argument("--base", default="HEAD", help="the commit to make worse; default HEAD")
    parser.add_argument("--folder", type=Path, help="where the clone is made and kept")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in REGRESSIONS]:
        parser.error(f"no regression is called {unknown[0]!r}; there are {', '.join(REGRESSIONS)}")
    with tempfile.TemporaryDirectory() as scratch:
        clone = options.folder or Path(scratch, "clone")
        _git(REPOSITORY, "clone", "--quiet", str(REPOSITORY), str(clone))
        base = _git(REPOSITORY, "rev-parse", "--verify", f"{options.base}^{{commit}}")
        try:
            commits = {name: plant(clone, base, name) for name in options.names or REGRESSIONS}
        except LookupError as error:
            print(f"asv-planted: {error}", file=sys.stderr)
            return 2
        missed = [name for name, commit in commits.items() if not caught(clone, base, commit, name)]
    print(f"\ncaught: {len(commits) - len(missed)} of {len(commits)}")
    for name in missed:
        print(f"missed: {name}")
    return 1 if missed else 0


def plant(clone: Path, base: str, name: str) -> str:
    """Commit a regression on top of the base, and return the commit's hash.

    Raises:
        LookupError: the code has changed, and the place is not there any more.
    """
    regression = REGRESSIONS[name]
    _git(clone, "checkout", "--quiet", "--detach", base)
    path = clone / regression.path
    text, count = re.subn(regression.place, regression.planted, path.read_text(encoding="utf-8"))
    if count != 1:
        raise LookupError(f"{regression.path} has {count} places for {name}: {regression.place}")
    path.write_text(text, encoding="utf-8")
    author = ("-c", "user.name=asv-planted", "-c", "user.email=asv-planted@localhost")
    _git(clone, *author, "commit", "--quiet", "--all", "--message", f"Planted: {name}")
    return _git(clone, "rev-parse", "HEAD")


def caught(clone: Path, base: str, commit: str, name: str) -> bool:
    """Return whether asv-compare names what must be worse."""
    regression = REGRESSIONS[name]
    print(f"\n=== {name}: {base[:8]} against {commit[:8]}", flush=True)
    done = subprocess.run(
        [sys.executable, "tools/asv_compare.py", base, commit, "--bench", regression.bench],
        cwd=clone / "packages" / "qlstm-bench",
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    said = done.stdout[done.stdout.rfind(f"{base} (") :]  # what comes before is asv's own progress
    print(said, end="", flush=True)
    worse = said.partition("\nworse:")[2].partition("\nbetter:")[0]
    return done.returncode == 1 and re.search(regression.named, worse) is not None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
