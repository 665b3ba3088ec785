"""The page of a comparison: an HTML file, the same as CSV, and a short form for the terminal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import ChoiceLoader, Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from qlstm_bench.compare.conformance import Conformance
from qlstm_bench.compare.durations import Duration
from qlstm_bench.compare.standings import Standing, Standings
from qlstm_bench.compare.suite import Kind, Suite
from qlstm_bench.report.figures import draw_sizes
from qlstm_bench.report.published import format_figure
from qlstm_bench.report.table import LEFT
from qlstm_bench.speed.training import PEER
from qlstm_bench.tables import aligned, shorten, to_csv
from qlstm_bench.training.result import format_growth
from qlstm_core.files import replace_file
from qlstm_core.printable import printable

_WORDS = {"quantizer": "quantizers", "normalizer": "normalisers", "cell": "cells"}

_LEFT = (*LEFT, "method", "origin")
"""Headings of columns of words."""


@dataclass(frozen=True)
class Page:
    """What a comparison came to.

    Args:
        suite: the suite.
        standings: the contests, those of one kind together.
        durations: what methods cost, and the peer, by kind and name.
        conformance: of the named methods.
        machine: what the durations were measured on.
        shipped_machine: what the shipped runs were trained on.
        remarks: what was left out, what is not shipped, what failed.
    """

    suite: Suite
    standings: Sequence[Standings]
    durations: Mapping[Kind, Mapping[str, Duration]]
    conformance: Sequence[Conformance]
    machine: str
    shipped_machine: str
    remarks: Sequence[str]

    def by_kind(self) -> dict[Kind, list[Standings]]:
        """Return the contests of each kind."""
        return {kind: list(group) for kind, group in groupby(self.standings, lambda one: one.contest.kind)}

    def overview(self, kind: Kind) -> pd.DataFrame:
        """Return a row for each method of a kind as text: rank and figure on each task, size, growth, cost.

        The best mean rank comes first; named methods are marked with an asterisk.
        """
        found = self.by_kind()[kind]
        places = {one.contest.task: {row.method: row for row in one.rows} for one in found}
        methods = list(dict.fromkeys(row.method for one in found for row in one.rows))
        of_method = {
            method: [places[task][method] for task in places if method in places[task]] for method in methods
        }
        means = {method: _mean_rank(rows) for method, rows in of_method.items()}
        methods.sort(key=lambda method: (math.isnan(means[method]), means[method]))
        columns: dict[str, list[str]] = {
            "method": [f"{method} *" if of_method[method][0].named else method for method in methods]
        }
        for task, rows in places.items():
            columns[shorten(task)] = [_place(rows.get(method)) for method in methods]
        columns["mean rank"] = [
            "–" if math.isnan(means[method]) else f"{means[method]:.1f}" for method in methods
        ]
        columns["KB"] = ["/".join(f"{_size(row):.0f}" for row in of_method[method]) for method in methods]
        columns["growth"] = [format_growth(_growth(of_method[method])) for method in methods]
        costs = [self.durations[kind][method] for method in methods]
        columns["training ms"] = [_number(cost.training_ms) for cost in costs]
        columns["× torch"] = [_number(cost.training_ratio) for cost in costs]
        columns["packed µs"] = [_number(cost.packed_us) for cost in costs]
        columns["× faster"] = [_number(cost.packed_ratio) for cost in costs]
        columns["checks"] = [self._checks(kind, of_method[method][0]) for method in methods]
        return pd.DataFrame(columns).map(shorten)

    def _checks(self, kind: Kind, row: Standing) -> str:
        """Return how many checks a method passes, as text; a dash for a rival."""
        config = row.line.config
        found = (one.summary for one in self.conformance if one.kind == kind and one.is_of(config))
        return next(found, "–")

    def frame(self) -> pd.DataFrame:
        """Return a row for each method and task: what :meth:`Standings.frame` has, durations and checks."""
        parts = []
        for one in self.standings:
            part = one.frame()
            kind = one.contest.kind
            for name in ("training_ms", "training_ratio", "packed_us", "packed_ratio"):
                part[name] = [getattr(self.durations[kind][row.method], name) for row in one.rows]
            part["checks"] = [self._checks(kind, row) for row in one.rows]
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    @property
    def all_remarks(self) -> list[str]:
        """The remarks, with what could not be measured and which checks fail."""
        costs = [
            f"{name}: {cost.remark}"
            for of_kind in self.durations.values()
            for name, cost in of_kind.items()
            if cost.remark
        ]
        checks = [
            f"{one.text}: {result.name} fails: {result.reason}"
            for one in self.conformance
            for result in one.failed
        ]
        troubles = [f"{one.text}: {one.trouble}" for one in self.conformance if one.trouble]
        return [*self.remarks, *costs, *checks, *troubles]

    @property
    def one_seed(self) -> bool:
        """Whether no method has a spread between seeds."""
        return all(len(row.line.records) == 1 for one in self.standings for row in one.rows)

    @property
    def circumstances(self) -> dict[str, str]:
        """What the runs were trained with: data, versions and commits; several where they differ."""
        results = [record.result for one in self.standings for record in one.records]
        values = {f"SHA-256 of {result.dataset.name}": {result.dataset.sha256} for result in results}
        for result in results:
            values.setdefault("commit", set()).add(str(result.git_commit))
            values.setdefault("device", set()).add(result.device)
            for package, version in result.versions.items():
                values.setdefault(package, set()).add(version)
        return {name: ", ".join(sorted(found)) for name, found in values.items()}


def print_page(page: Page) -> None:
    """Print a table for each kind, of which durations are on the page, and the remarks."""
    for kind in page.by_kind():
        table = page.overview(kind).drop(columns=["training ms", "packed µs"], errors="ignore")
        print(f"\n{_WORDS[kind]}: rank and {_metrics(page, kind)} in test\n")
        print(aligned(list(table.columns), table.to_numpy().tolist(), _LEFT))
    if page.all_remarks:
        print()
    for remark in page.all_remarks:
        print(printable(shorten(" ".join(remark.split()), 400)))


def write_page(page: Page, folder: Path) -> tuple[Path, Path]:
    """Write ``comparison.html`` and ``comparison.csv``; return their paths.

    Args:
        page: what a comparison came to.
        folder: folder of the files; it must exist.
    """
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("qlstm_bench.compare", "."), PackageLoader("qlstm_bench.report", ".")]
        ),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html, csv = folder / "comparison.html", folder / "comparison.csv"
    kinds = [_of_kind(page, kind) for kind in page.by_kind()]
    replace_file(html, environment.get_template("comparison.html").render(page=page, kinds=kinds, left=_LEFT))
    replace_file(csv, to_csv(page.frame()))
    return html, csv


def _of_kind(page: Page, kind: Kind) -> dict[str, Any]:
    """Return what the template shows of one kind of method."""
    table = page.overview(kind)
    return {
        "title": _WORDS[kind],
        "headings": list(table.columns),
        "rows": [
            {"cells": cells, "named": cells[0].endswith(" *"), "good": True}
            for cells in table.to_numpy().tolist()
        ],
        "peer": page.durations[kind][PEER],
        "tasks": [_task(one) for one in page.by_kind()[kind]],
    }


def _task(one: Standings) -> dict[str, Any]:
    table = one.shown()
    first = one.records[0].result
    colors = one.contest.tried_with[0] if one.contest.tried_with else one.contest.kind
    return {
        "title": f"{one.contest.task}: {first.task} on {first.dataset.name}",
        "metric": first.metric_title,
        "better": "higher" if first.higher_is_better else "lower",
        "headings": list(table.columns),
        "rows": [
            {"cells": cells, "named": row.named, "good": row.line.learnt}
            for cells, row in zip(table.to_numpy().tolist(), one.rows, strict=True)
        ],
        "sizes": Markup(draw_sizes(one.records, one.contest.kind, colors)),
        "seeds": max(len(row.line.records) for row in one.rows),
    }


def _mean_rank(rows: Sequence[Standing]) -> float:
    known = [row.rank for row in rows if row.rank is not None]
    return statistics.fmean(known) if known else math.nan


def _place(row: Standing | None) -> str:
    """Return rank and figure, as in ``2: 1.51 ±0.01``."""
    if row is None:
        return "–"
    figure = format_figure(row.line.mean("test"), row.line.spread("test"))
    return f"{row.place}: {figure}" if row.line.learnt else f"{row.place}: {row.line.fate}"


def _size(row: Standing) -> float:
    return row.line.records[0].result.storage_bytes / 1024


def _growth(rows: Sequence[Standing]) -> float:
    """Return the largest growth of the gradient on any task; NaN where none was measured."""
    found = [
        record.result.metrics.get("gradient_growth", math.nan) for row in rows for record in row.line.records
    ]
    return max((growth for growth in found if not math.isnan(growth)), default=math.nan)


def _metrics(page: Page, kind: Kind) -> str:
    """Return what the figures are, in words, each task's once."""
    titles = dict.fromkeys(one.records[0].result.metric_title for one in page.by_kind()[kind])
    return shorten(" or ".join(titles))


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
