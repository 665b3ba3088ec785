"""Methods on one task in order: ranks that seeds can tell apart, and where each line comes from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from qlstm_bench.compare.suite import Contest
from qlstm_bench.report.differences import Difference
from qlstm_bench.report.records import Record
from qlstm_bench.report.summary import Line, lines, summary_frame
from qlstm_bench.report.table import shown_frame
from qlstm_bench.report.verdicts import badness


def ranks(figures: Sequence[Sequence[float]]) -> list[int]:
    """Return 1 plus the number of others that each is worse than, beyond the spread between seeds.

    One is worse than another where a one-sided Welch test at 5 % says so, see
    :mod:`qlstm_bench.report.differences`; with one seed each, where its figure is larger. So those that seeds
    cannot tell apart share a rank, and a rank does not depend on the order.

    Args:
        figures: a figure of each seed, larger is worse, for each method; at least one seed.
    """
    return [
        1 + sum(Difference.between(own, other).decide("worse", 0.0) is True for other in figures)
        for own in figures
    ]


@dataclass(frozen=True)
class Standing:
    """A method in a contest.

    Args:
        method: what it is called.
        line: its runs.
        named: whether the user named it; else it is a rival.
        rank: counted from 1; ``None`` where all its runs failed.
        origin: ``"trained here"`` or ``"shipped"``, with commits.
        number: which line of :func:`qlstm_bench.report.summary.lines` it is.
    """

    method: str
    line: Line
    named: bool
    rank: int | None
    origin: str
    number: int

    @property
    def place(self) -> str:
        """The rank as text."""
        return "–" if self.rank is None else str(self.rank)


@dataclass(frozen=True)
class Standings:
    """A contest that has been held.

    Args:
        contest: what is compared.
        records: runs of it that have ended; at least one.
        named: folders of the named methods' runs.
        shipped: folders where runs would be that were not trained here.
    """

    contest: Contest
    records: Sequence[Record]
    named: Collection[Path]
    shipped: Collection[Path]

    @cached_property
    def rows(self) -> list[Standing]:
        """The methods, the best first."""
        found = lines(self.records)
        figures = [_figures(line) for line in found]
        ranked = iter(ranks([seeds for seeds in figures if seeds]))
        rows = [
            Standing(
                method=self.contest.method(line.config),
                line=line,
                named=any(record.run.directory in self.named for record in line.records),
                rank=next(ranked) if seeds else None,
                origin=self._origin(line),
                number=number,
            )
            for number, (line, seeds) in enumerate(zip(found, figures, strict=True))
        ]
        means = [sum(seeds) / len(seeds) if seeds else math.inf for seeds in figures]
        return sorted(rows, key=lambda row: (row.rank or math.inf, means[row.number]))

    def _origin(self, line: Line) -> str:
        """Return where the runs of a line come from: one origin, or how many of each."""
        origins = Counter(
            f"{'shipped' if record.run.directory in self.shipped else 'trained here'}"
            f" ({(record.result.git_commit or 'no commit')[:9]})"
            for record in line.records
        )
        if len(origins) == 1:
            return next(iter(origins))
        return ", ".join(f"{count} {origin}" for origin, count in origins.items())

    def shown(self) -> pd.DataFrame:
        """Return the table as text under its headings, as a report has it, with rank and origin."""
        table = shown_frame(self.records).iloc[[row.number for row in self.rows]]
        table.insert(0, "rank", [row.place for row in self.rows])
        table["origin"] = [row.origin for row in self.rows]
        return table

    def frame(self) -> pd.DataFrame:
        """Return the columns of :func:`qlstm_bench.summary_frame` without the papers', a row for each method.

        Before them stand kind, suite_task, method, named and rank; origin and commits come last.
        """
        table = summary_frame(self.records).iloc[[row.number for row in self.rows]]
        table = table[[name for name in table if not name.startswith(("published", "difference"))]]
        first = {
            "kind": self.contest.kind,
            "suite_task": self.contest.task,
            "method": [row.method for row in self.rows],
            "named": [row.named for row in self.rows],
            "rank": [math.nan if row.rank is None else row.rank for row in self.rows],
        }
        for place, (name, values) in enumerate(first.items()):
            table.insert(place, name, values)
        return table.assign(origin=[row.origin for row in self.rows])


def _figures(line: Line) -> list[float]:
    """Return the figure of each seed in test, larger is worse; without runs that failed or have none."""
    found = [badness(record) for record in line.records if record.result.status != "failed"]
    return [figure for figure in found if math.isfinite(figure)]
