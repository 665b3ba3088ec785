"""Measure two commits by turns with asv, and say what became worse.

    python asv_compare.py BASE HEAD [--bench REGEX] [--reuse]

Exit code 0: nothing worse; 1: something worse, or it fails now; 2: not measured. (asv itself ends with 1 both
for "slower" and for "no environment".) What is called worse depends on how far a figure moves by itself:
accuracy, gradients and sizes are the same in each run of one commit on one machine, durations are not.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
"""The folder of asv.conf.json."""

FACTORS = {"accuracy": 1.01, "gradients": 1.05, "size": 1.001, "memory": 1.1}
"""By how much a figure of each family must grow to be called worse."""

FACTOR = 1.3
"""Of the families that measure durations."""

WORSE, BETTER = "+!", "-*"
"""asv's marks: slower, fails now; faster, works now."""


@dataclass(frozen=True)
class Change:
    """A benchmark whose figure differs: asv's mark, both figures, their ratio, and the benchmark."""

    mark: str
    before: str
    after: str
    ratio: str
    benchmark: str


class NotMeasuredError(Exception):
    """The comparison has nothing to stand on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="commit to compare with, such as main or HEAD~3")
    parser.add_argument("head", help="commit to judge")
    parser.add_argument("--bench", metavar="REGEX", help="only these benchmarks, such as 'packed|size'")
    parser.add_argument("--reuse", action="store_true", help="compare results of before; measure nothing")
    parser.add_argument("--factor", type=float, default=FACTOR, help=f"of durations; default {FACTOR}")
    options = parser.parse_args(arguments)
    try:
        commits = [commit_hash(name) for name in (options.base, options.head)]
        if commits[0] == commits[1]:
            raise NotMeasuredError(f"{options.base} and {options.head} are the same commit, {commits[0][:8]}")
        if not options.reuse:
            measure(commits, options.bench)
        for name, commit in zip((options.base, options.head), commits, strict=True):
            print(f"{name} ({commit[:8]}): {count_results(commit)} figures")
        changes = compare(commits, options.factor, options.bench)
    except NotMeasuredError as error:
        print(f"asv-compare: not measured: {error}", file=sys.stderr)
        return 2
    return judge(changes)


def commit_hash(name: str) -> str:
    """Return the full hash of a commit."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise NotMeasuredError(f"git knows no commit {name!r}")
    return found.stdout.strip()


def measure(commits: Sequence[str], bench: str | None) -> None:
    """Let asv measure the commits, a round of one after a round of the other."""
    _asv("machine", "--yes")
    with tempfile.TemporaryDirectory() as folder:
        hashes = Path(folder, "hashes")
        hashes.write_text("".join(f"{commit}\n" for commit in commits), encoding="utf-8")
        chosen = ["--bench", bench] if bench else []
        code = subprocess.run(
            ["asv", "run", "--interleave-rounds", "--show-stderr", *chosen, f"HASHFILE:{hashes}"],
            cwd=HERE,
            check=False,
        ).returncode
    if code not in (0, 2):  # 2: some benchmark failed, which the comparison shows
        raise NotMeasuredError(f"asv run ended with {code}; what it printed says why")


def count_results(commit: str) -> int:
    """Return how many figures there are for a commit.

    Raises:
        NotMeasuredError: none.
    """
    results = HERE / ".asv" / "results"
    count = 0
    for path in results.glob(f"*/{commit[:8]}*.json"):
        stored = json.loads(path.read_text(encoding="utf-8"))
        for row in stored["results"].values():
            count += sum(figure is not None for figure in row[0] or ())
    if not count:
        raise NotMeasuredError(f"no results for {commit[:8]} below {results}")
    return count


def compare(commits: Sequence[str], factor: float, bench: str | None) -> list[Change]:
    """Return what differs by more than its family's factor."""
    changes = []
    for family_factor in sorted({*FACTORS.values(), factor}):
        table = _asv("compare", "--only-changed", "--factor", str(family_factor), *commits)
        for change in parse(table):
            family = change.benchmark.partition(".")[0]
            wanted = not bench or re.search(bench, change.benchmark)
            if wanted and FACTORS.get(family, factor) == family_factor:
                changes.append(change)
    return changes


def parse(table: str) -> list[Change]:
    """Return the rows of what ``asv compare --only-changed`` prints."""
    changes = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 5 and cells[0] and cells[0] in WORSE + BETTER:
            changes.append(Change(*cells))
    return changes


def judge(changes: Sequence[Change]) -> int:
    """Print the changes and return the exit code."""
    worse = [change for change in changes if change.mark in WORSE]
    better = [change for change in changes if change.mark in BETTER]
    for title, part in (("worse", worse), ("better", better)):
        print(f"\n{title}: {len(part)}")
        for change in part:
            print(f"  {change.ratio:>7}  {change.before} -> {change.after}  {change.benchmark}")
    return 1 if worse else 0


def _asv(*arguments: str) -> str:
    done = subprocess.run(["asv", *arguments], cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # `asv compare` ends with 1 where something is worse
        raise NotMeasuredError(f"asv {arguments[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
