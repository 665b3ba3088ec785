"""The report of experiments: one HTML file with every figure and table, and a CSV file per table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from jinja2 import ChoiceLoader, Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from qlstm_bench.report.svg import STYLE, to_svg
from qlstm_bench.theory.experiment import Experiment, Findings
from qlstm_bench.training.folder import replace_file


@dataclass(frozen=True)
class Ended:
    """An experiment that has run.

    Args:
        name: what the user calls it.
        experiment: with its settings.
        findings: what it has found.
        seconds: that it took.
    """

    name: str
    experiment: Experiment
    findings: Findings
    seconds: float


def write_report(ended: Sequence[Ended], folder: Path) -> Path:
    """Write ``report.html``, ``NAME.csv`` and ``NAME-DETAIL.csv``; return the page's path.

    Args:
        ended: in the order of the report.
        folder: that exists.
    """
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("qlstm_bench.theory", "."), PackageLoader("qlstm_bench.report", ".")]
        ),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for one in ended:
        tables = {one.name: one.findings.table}
        tables |= {f"{one.name}-{detail}": table for detail, table in one.findings.details.items()}
        for name, table in tables.items():
            replace_file(folder / f"{name}.csv", table.to_csv(index=False).encode())
    page = environment.get_template("template.html").render(sections=[_section(one) for one in ended])
    path = folder / "report.html"
    replace_file(path, page.encode())
    return path


def cells(table: pd.DataFrame) -> list[list[str]]:
    """Return the table's cells as text, numbers with four digits."""
    return [[_cell(value) for value in row] for row in table.itertuples(index=False)]


def text_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns that do not hold numbers."""
    return [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return "–" if math.isnan(value) else f"{value:.4g}"


def _section(one: Ended) -> dict[str, Any]:
    findings, table = one.findings, one.findings.table
    left = text_columns(table)
    return {
        "name": one.name,
        "title": one.experiment.title,
        "equation": one.experiment.equation(),
        "figure": Markup(draw(findings)),
        "caption": findings.caption,
        "remarks": findings.remarks,
        "headings": [(name, name in left) for name in table.columns],
        "rows": [
            list(zip(row, (name in left for name in table.columns), strict=True)) for row in cells(table)
        ],
        "settings": one.experiment.model_dump(),
    }


def draw(findings: Findings) -> str:
    """Return an experiment's figure as an ``<svg>`` element."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=findings.size, layout="constrained")
        findings.draw(figure)
        return to_svg(figure)
