"""The report of experiments: one HTML file with every figure and table, and a CSV file per table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from jinja2 import ChoiceLoader, Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from qlstm_bench.report.drawing import STYLE, to_svg
from qlstm_bench.tables import aligned, cells, text_columns, to_csv
from qlstm_bench.theory.experiment import Experiment, Findings
from qlstm_core.files import replace_file


@dataclass(frozen=True)
class Ended:
    """An experiment that has run.

    Args:
        name: name of the experiment.
        title: its summary in one line.
        experiment: the experiment, with its settings.
        findings: what it has found.
        seconds: how long it took.
    """

    name: str
    title: str
    experiment: Experiment
    findings: Findings
    seconds: float


def write_report(ended: Sequence[Ended], folder: Path) -> Path:
    """Write ``report.html``, ``NAME.csv`` and ``NAME-DETAIL.csv``; return the page's path.

    Args:
        ended: experiments that have run, in the order of the report.
        folder: folder of the files; it must exist.
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
            replace_file(folder / f"{name}.csv", to_csv(table))
    page = environment.get_template("template.html").render(sections=[_section(one) for one in ended])
    path = folder / "report.html"
    replace_file(path, page)
    return path


def as_text(table: pd.DataFrame) -> str:
    """Return a table for the terminal."""
    return aligned(list(table.columns), cells(table, _number), text_columns(table))


def _number(value: float) -> str:
    return f"{value:.4g}"


def _section(one: Ended) -> dict[str, Any]:
    findings, table = one.findings, one.findings.table
    left = text_columns(table)
    return {
        "name": one.name,
        "title": one.title,
        "equation": one.experiment.equation(),
        "figure": Markup(draw(findings)),
        "caption": findings.caption,
        "remarks": findings.remarks,
        "headings": [(name, name in left) for name in table.columns],
        "rows": [
            list(zip(row, (name in left for name in table.columns), strict=True))
            for row in cells(table, _number)
        ],
        "settings": one.experiment.model_dump(),
    }


def draw(findings: Findings) -> str:
    """Return an experiment's figure as an ``<svg>`` element."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=findings.size, layout="constrained")
        findings.draw(figure)
        return to_svg(figure)
