"""The tables of a report: as text for a terminal, and in the forms that papers and spreadsheets take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TextIO

import pandas as pd

from qlstm_bench import tables
from qlstm_bench.report.records import Record
from qlstm_bench.report.summary import differing, lines, summary_frame
from qlstm_bench.tables import aligned, shorten
from qlstm_bench.training.result import format_growth

LEFT = ("quantizer", "normaliser", "status")
"""Headings of columns of words."""


def results_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row of figures per run.

    Columns: task, dataset, quantizer, normalizer; valid and test, figures of merit, NaN where the run did not
    complete; size_kb of the recurrent layer, in 1024 bytes; ratio to float32; gradient_growth; status; steps;
    seed; run.
    """
    return pd.DataFrame([_row(record) for record in records])


def _row(record: Record) -> dict[str, object]:
    result = record.result
    completed = result.status == "completed"
    return {
        "task": result.task,
        "dataset": result.dataset.name,
        "quantizer": result.quantizer,
        "normalizer": result.normalizer,
        "valid": result.figure("valid") if completed else math.nan,
        "test": result.figure("test") if completed else math.nan,
        "size_kb": result.storage_bytes / 1024,
        "ratio": result.float32_bytes / result.storage_bytes,
        "gradient_growth": result.metrics.get("gradient_growth", math.nan),
        "status": result.fate,
        "steps": result.steps,
        "seed": result.seed,
        "run": record.run.name,
    }


def sections(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records by task and dataset: only runs of one section can be compared."""
    return [list(group) for _, group in groupby(records, key=lambda record: record.section)]


def section_title(records: Sequence[Record]) -> str:
    """Return task and dataset of a section, in words."""
    first = records[0].result
    return shorten(f"{first.task} on {first.dataset.name}")


def shown_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return the table of one section as text under its headings.

    Columns in which no row has anything to say (the paper's figure, say) are left out.
    """
    frame = summary_frame(records)
    settings = differing(lines(records))
    hidden = [line.config.hidden for line in lines(records)]
    shown = pd.DataFrame(index=frame.index)
    shown["bits"] = ["?" if pd.isna(bits) else str(int(bits)) for bits in frame["bits"]]
    shown["quantizer"] = frame["quantizer"]
    shown["normaliser"] = frame["normalizer"]
    for name in settings:
        shown[name] = ["–" if value is None or value != value else str(value) for value in frame[name]]
    for kind in ("valid", "test"):
        pairs = zip(frame[f"{kind}_mean"], frame[f"{kind}_spread"], strict=True)
        shown[kind] = [format_figure(mean, spread) for mean, spread in pairs]
    if frame["published"].notna().any():
        papers = zip(frame["published"], frame["published_hidden"], hidden, strict=True)
        shown["paper"] = [_format_published(figure, size, own) for figure, size, own in papers]
    shown["KB"] = [f"{value:.0f}" for value in frame["size_kb"]]
    shown["ratio"] = [f"{value:.1f}" for value in frame["ratio"]]
    shown["growth"] = [format_growth(value) for value in frame["gradient_growth"]]
    if (frame["runs"] > 1).any():
        shown["seeds"] = frame["runs"].astype(str)
    shown["status"] = frame["status"]
    return shown.map(shorten)


def format_figure(mean: float, spread: float = math.nan) -> str:
    """Return a figure of merit with its spread, as in ``2.351 ±0.012``; a dash for NaN."""
    if math.isnan(mean):
        return "–"
    form = ".3f" if abs(mean) < 20 else ".1f" if abs(mean) < 1e6 else ".3g"
    return f"{mean:{form}}" if math.isnan(spread) else f"{mean:{form}} ±{spread:{form}}"


def _format_published(figure: float, hidden: float, own: int) -> str:
    if math.isnan(figure):
        return "–"
    text = f"{figure:.2f}" if figure < 20 else f"{figure:.1f}"
    return text if hidden == own else f"{text} @{hidden:.0f}"


def print_table(records: Sequence[Record], file: TextIO | None = None) -> None:
    """Print one table per task and dataset, as plain text that fits 80 columns where names do."""
    for section in sections(records):
        shown = shown_frame(section).drop(columns="bits")  # a quantizer's name tells them
        print(f"\n{section_title(section)}\n", file=file)
        print(aligned(list(shown.columns), shown.to_numpy().tolist(), LEFT, group=True), file=file)
        print(f"\n{legend(section, list(shown.columns))}", file=file)


def legend(records: Sequence[Record], headings: Sequence[str]) -> str:
    """Return what the table's columns show, a line each."""
    first = records[0].result
    better = "higher" if first.higher_is_better else "lower"
    notes = {
        "valid, test": f"{shorten(first.metric_title)} in validation and test; {better} is better",
        "paper": "the figure that the paper published; @512: with 512 units",
        "KB": "size of the recurrent layer as deployed, in 1024 bytes",
        "ratio": "how many times smaller than the same layer in float32",
        "growth": "gradient norm at the first time step over that at the last:\n"
        "             far above 1 it explodes on its way back",
        "seeds": "±: standard deviation between them; growth: the largest of them",
    }
    optional = {"paper", "seeds"} - set(headings)
    return "\n".join(f"{name:<13}{note}" for name, note in notes.items() if name not in optional)


def to_markdown(records: Sequence[Record]) -> str:
    """Return one table per section in Markdown."""
    return _join(records, tables.to_markdown, lambda title: f"## {tables.in_markdown(title)}\n\n")


def to_latex(records: Sequence[Record]) -> str:
    """Return one ``tabular`` per section, with rules of plain LaTeX."""
    return _join(records, tables.to_latex, lambda title: f"% {title}\n")


def to_csv(records: Sequence[Record]) -> str:
    """Return one table of all sections, numbers in full; see :func:`summary_frame` for its columns."""
    return tables.to_csv(summary_frame(records))


def _join(records: Sequence[Record], form: Callable[..., str], heading: Callable[[str], str]) -> str:
    parts = []
    for section in sections(records):
        shown = shown_frame(section)
        table = form(list(shown.columns), shown.to_numpy().tolist(), LEFT)
        parts.append(heading(section_title(section)) + table)
    return "\n\n".join(parts) + "\n"
