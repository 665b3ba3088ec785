"""The tables of a report: as text for a terminal, and in the forms that papers and spreadsheets take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TextIO

import pandas as pd

from qlstm_bench import tables
from qlstm_bench.errors import ConfigError
from qlstm_bench.report.published import format_figure, format_published, published_frame, shown_published
from qlstm_bench.report.records import Record
from qlstm_bench.report.summary import differing, lines, summary_frame
from qlstm_bench.report.verdicts import claims_frame, decide_claims, shown_claims
from qlstm_bench.tables import aligned, shorten
from qlstm_bench.training.result import format_growth
from qlstm_core.plugins.errors import suggest

LEFT = ("quantizer", "normaliser", "status", "verdict", "claim", "source", "runs", "why")
"""Headings of columns of words."""

SENTENCES = ("claim", "source", "why")
"""Headings of those that hold sentences."""

_FRAMES = {"lines": summary_frame, "published": published_frame, "claims": claims_frame}
"""The tables of a report: lines of runs, lines beside published figures, and verdicts on claims."""


def results_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row of figures per run.

    Columns: task, dataset, quantizer, normalizer; valid and test, figures of merit, NaN where the run did not
    complete; size_kb of the recurrent layer, in 1024 bytes; ratio to float32; model_kb and model_ratio, the
    same of the whole model; gradient_growth; status; steps; seed; run.
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
        "model_kb": result.model_bytes / 1024,
        "model_ratio": result.model_float32_bytes / result.model_bytes,
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
    shown["model KB"] = [f"{value:.0f}" for value in frame["model_kb"]]
    shown["growth"] = [format_growth(value) for value in frame["gradient_growth"]]
    if (frame["runs"] > 1).any():
        shown["seeds"] = frame["runs"].astype(str)
    shown["status"] = frame["status"]
    return shown.map(shorten)


def _format_published(figure: float, hidden: float, own: int) -> str:
    if math.isnan(figure):
        return "–"
    text = format_published(figure)
    return text if hidden == own else f"{text} @{hidden:.0f}"


def print_table(records: Sequence[Record], file: TextIO | None = None) -> None:
    """Print one table per task and dataset, as plain text that fits 80 columns where names do."""
    for section in sections(records):
        # A quantizer's name tells its bits, and a run's own line the size of its whole model.
        shown = shown_frame(section).drop(columns=["bits", "model KB"])
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
        "model KB": "size of the whole model as deployed",
        "growth": "gradient norm at the first time step over that at the last:\n"
        "             far above 1 it explodes on its way back",
        "seeds": "±: standard deviation between them; growth: the largest of them",
    }
    optional = {"paper", "model KB", "seeds"} - set(headings)
    return "\n".join(f"{name:<13}{note}" for name, note in notes.items() if name not in optional)


def print_claims(records: Sequence[Record], file: TextIO | None = None) -> None:
    """Print what the runs say of the papers' claims that they are about, those not decidable yet last."""
    for section in sections(records):
        verdicts = decide_claims(section)
        if verdicts:
            print(f"\n{section_title(section)}: claims of the papers\n", file=file)
        for verdict in sorted(verdicts, key=lambda one: one.outcome == "not trained"):
            if verdict.outcome == "not trained":
                print(f"not trained: {verdict.claim.name} ({verdict.scale})", file=file)
                continue
            print(f"{verdict.outcome}: {shorten(verdict.claim.statement)} ({verdict.scale})", file=file)
            print(f"    {shorten(verdict.reason, 400)}", file=file)


def to_markdown(records: Sequence[Record], only: str | None = None) -> str:
    """Return the tables of each section in Markdown.

    Args:
        records: runs that have ended.
        only: ``"lines"``, ``"published"`` or ``"claims"``; default: all that have rows.

    Raises:
        ConfigError: no such table.
    """
    parts = []
    for section in sections(records):
        shown = _tables(section, only)
        parts += [f"## {tables.in_markdown(section_title(section))}"] if shown else []
        for title, frame in shown:
            parts += [f"### {tables.in_markdown(title)}"] if title else []
            parts.append(tables.to_markdown(list(frame.columns), frame.to_numpy().tolist(), LEFT))
    return "\n\n".join(parts) + "\n"


def to_latex(records: Sequence[Record], only: str | None = None) -> str:
    """Return the tables of each section as ``tabular``, with rules of plain LaTeX; arguments as above."""
    parts = []
    for section in sections(records):
        for title, frame in _tables(section, only):
            comment = ": ".join(filter(None, (section_title(section), shorten(title))))
            table = tables.to_latex(list(frame.columns), frame.to_numpy().tolist(), LEFT, SENTENCES)
            parts.append(f"% {comment}\n{table}")
    return "\n\n".join(parts) + "\n"


def to_csv(records: Sequence[Record], only: str | None = None) -> str:
    """Return one table of all sections, numbers in full.

    Args:
        records: runs that have ended.
        only: ``"lines"`` (the default), ``"published"`` or ``"claims"``: the table of :func:`summary_frame`,
            :func:`published_frame` or :func:`claims_frame`.
    """
    _check(only)
    return tables.to_csv(_FRAMES[only or "lines"](records))


def _check(only: str | None) -> None:
    if only is not None and only not in _FRAMES:
        raise ConfigError(f"no table {only!r}{suggest(only, _FRAMES)}; allowed: {', '.join(_FRAMES)}")


def _tables(section: Sequence[Record], only: str | None) -> list[tuple[str, pd.DataFrame]]:
    """Return the tables of one section as text, each with its title; that of the lines has none."""
    _check(only)
    found: list[tuple[str, pd.DataFrame]] = []
    if only in (None, "lines"):
        found.append(("", shown_frame(section)))
    if only in (None, "published"):
        found += [(f"Beside {source}", frame) for source, frame in shown_published(section).items()]
    if only in (None, "claims"):
        found.append(("Claims of the papers", shown_claims(section)))
    return [(title, frame) for title, frame in found if len(frame)]
