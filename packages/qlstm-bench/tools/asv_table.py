"""Write asv's results as a table: a line for each figure, a column for each file of results.

    python asv_table.py .asv/results/MACHINE/*.json > figures.csv         commits beside one another
    python asv_table.py --spread first.json second.json third.json        one commit, measured repeatedly

``--spread`` adds (largest − smallest) / median, and prints the median and the worst of each family on stderr.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

Key = tuple[str, str]
"""A benchmark and its parameters."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="results, in the order of the columns")
    parser.add_argument("--spread", action="store_true")
    options = parser.parse_args(arguments)
    read = [json.loads(path.read_text(encoding="utf-8")) for path in options.files]
    columns = [dict(figures(results)) for results in read]
    commits = [results["commit_hash"][:8] for results in read]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = [f"run {k + 1}" for k in range(len(read))] if options.spread else commits
    writer.writerow(["benchmark", "parameters", *names, *(["spread"] if options.spread else [])])
    spreads: dict[str, list[float]] = {}
    for key in sorted(set().union(*columns)):
        values = [column.get(key) for column in columns]
        cells = [("" if value is None else f"{value:.6g}") for value in values]
        if options.spread:
            share = spread([value for value in values if value is not None])
            spreads.setdefault(key[0].partition(".")[0], []).append(share)
            cells.append(f"{share:.4f}")
        writer.writerow([*key, *cells])
    for family, shares in spreads.items():
        print(f"{family}: median {statistics.median(shares):.1%}, worst {max(shares):.1%}", file=sys.stderr)
    return 0


def figures(results: dict[str, object]) -> Iterator[tuple[Key, float]]:
    """Yield what was measured of one commit; without what failed or was skipped."""
    rows = results["results"]
    assert isinstance(rows, dict)
    for benchmark, (values, parameters, *_) in rows.items():
        combinations = itertools.product(*parameters)
        for combination, value in zip(combinations, values or (), strict=False):
            if value is not None and math.isfinite(value):
                yield (benchmark, ", ".join(text.strip("'") for text in combination)), value


def spread(values: Sequence[float]) -> float:
    """Return (largest − smallest) / median."""
    return (max(values) - min(values)) / statistics.median(values)


if __name__ == "__main__":
    raise SystemExit(main())
