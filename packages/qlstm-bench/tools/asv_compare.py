"""Measure two commits by turns with asv, and say what became worse.

    python asv_compare.py BASE HEAD [--bench REGEX] [--reuse]

Exit code 0: nothing worse; 1: something worse, or it fails or is skipped now; 2: not measured. (asv itself
ends with 1 both for "slower" and for "no environment".) What is called worse depends on how far a figure
moves by itself: see RULES.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
"""The folder of asv.conf.json."""

FACTOR = 1.3
"""By how much a duration must grow to be called worse."""

CONTROL = r"^(training|memory)\..*'torch'\)"
"""Figures of torch's own layer, which no commit changes: where they move, the machine did."""

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


@dataclass(frozen=True)
class Rule:
    """What the figures of some benchmarks must exceed to be called worse: ``factor · before + slack``.

    But for durations and memory, figures of one commit repeat exactly. A commit that only adds in another
    order trains other networks, though: factors are above what a rounding error in the weights makes of each.
    """

    benchmarks: str
    factor: float
    slack: float = 0.0


RULES = (
    # Gradients that explode make of a rounding error what they make of everything.
    Rule(r"^(accuracy|gradients)\..*'(binary|ter)-connect', 'none'", 1.5),
    Rule(r"^accuracy\.(Characters|Cells)", 1.02),
    Rule(r"^accuracy\.Digits", 1.2),
    Rule(r"^gradients\..*clipped", 1.2, slack=10.0),
    Rule(r"^gradients\..*decades", 1.2, slack=0.5),
    Rule(r"^gradients\..*lambda1", 1.2, slack=1.0),
    Rule(r"^size", 1.001),
    Rule(r"^memory", 1.1),
    # Compilation takes too long to be repeated.
    Rule(r"^first_call.*'cold'", 2.0),
)
"""The first that matches holds; for durations, ``FACTOR``."""


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
        figures = [results(commit, options.bench) for commit in commits]
        for name, commit, found in zip((options.base, options.head), commits, figures, strict=True):
            print(f"{name} ({commit[:8]}): {found.total()} figures")
        changes = compare(commits, options.factor, options.bench)
    except NotMeasuredError as error:
        print(f"asv-compare: not measured: {error}", file=sys.stderr)
        return 2
    return judge(changes, figures[0] - figures[1])


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
        # Without samples, asv calls two durations equal wherever the outermost ones overlap.
        options = ["--interleave-rounds", "--record-samples", "--show-stderr"]
        chosen = ["--bench", bench] if bench else []
        command = ["asv", "run", *options, *chosen, f"HASHFILE:{hashes}"]
        code = subprocess.run(command, cwd=HERE, check=False).returncode
    if code not in (0, 2):  # 2: some benchmark failed, which the comparison shows
        raise NotMeasuredError(f"asv run ended with {code}; what it printed says why")


def results(commit: str, bench: str | None) -> Counter[str]:
    """Return how many figures each benchmark has of a commit.

    Raises:
        NotMeasuredError: none has any.
    """
    folder = HERE / ".asv" / "results"
    count: Counter[str] = Counter()
    for path in folder.glob(f"*/{commit[:8]}*.json"):
        for name, row in json.loads(path.read_text(encoding="utf-8"))["results"].items():
            if not bench or re.search(bench, name):
                count[name] += sum(figure is not None and math.isfinite(figure) for figure in row[0] or ())
    if not count.total():
        raise NotMeasuredError(f"no results for {commit[:8]} below {folder}")
    return count


def compare(commits: Sequence[str], factor: float, bench: str | None) -> list[Change]:
    """Return what differs by more than its rule allows."""
    rules = (*RULES, Rule("", factor))
    changes = []
    for each in sorted({rule.factor for rule in rules}):
        table = _asv("compare", "--only-changed", "--factor", str(each), *commits)
        for change in parse(table):
            rule = next(rule for rule in rules if re.search(rule.benchmarks, change.benchmark))
            wanted = not bench or re.search(bench, change.benchmark)
            if wanted and rule.factor == each and exceeds(change, rule):
                changes.append(change)
    return changes


def exceeds(change: Change, rule: Rule) -> bool:
    """Return whether a change is beyond the rule's slack, too; what failed or works now is."""
    if not rule.slack or "n/a" in change.ratio:
        return True
    low, high = sorted((float(change.before), float(change.after)))
    return high > rule.factor * low + rule.slack


def parse(table: str) -> list[Change]:
    """Return the rows of what ``asv compare --only-changed`` prints."""
    changes = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 5 and cells[0] and cells[0] in WORSE + BETTER:
            changes.append(Change(*cells))
    return changes


def judge(changes: Sequence[Change], lost: Counter[str]) -> int:
    """Print what changed, and what has fewer figures than before; return the exit code."""
    control = [change for change in changes if re.search(CONTROL, change.benchmark)]
    judged = [change for change in changes if change not in control]
    worse = [change for change in judged if change.mark in WORSE]
    better = [change for change in judged if change.mark in BETTER]
    groups = [("worse", worse), ("better", better)]
    if control:
        groups.append(("torch.nn.LSTM moved, so that durations of these two runs say little", control))
    for title, part in groups:
        print(f"\n{title}: {len(part)}")
        for change in part:
            print(f"  {change.ratio:>7}  {change.before} -> {change.after}  {change.benchmark}")
    if lost:  # asv calls what is skipped neither
        print(f"\nnot measured any more: {lost.total()}")
        for name, count in lost.items():
            print(f"  {count} of {name}")
    return 1 if worse or lost else 0


def _asv(*arguments: str) -> str:
    done = subprocess.run(["asv", *arguments], cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # `asv compare` ends with 1 where something is worse
        raise NotMeasuredError(f"asv {arguments[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
