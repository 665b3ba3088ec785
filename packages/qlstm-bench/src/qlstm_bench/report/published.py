"""The papers' tables: our figures, the published ones, and what lies between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from qlstm_bench.papers.published import PublishedFigure
from qlstm_bench.report.records import Record
from qlstm_bench.report.summary import Line, differing, lines
from qlstm_bench.tables import shorten

_TOLD_APART = {"hidden", "epochs", "steps"}
"""Settings that have columns of their own here."""


def published_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row for each line of runs and published figure.

    Columns: task, dataset, quantizer, normalizer, the settings that differ; metric; runs, completed;
    test_mean, test_spread, as in :func:`qlstm_bench.summary_frame`; published; difference, test_mean −
    published; epochs trained, published_epochs; hidden and published_hidden, units; size_kb,
    published_size_kb; status; published_source. NaN stands for what is not known.
    """
    found = lines(records)
    settings = _settings(found)
    rows = [_row(line, paper, settings) for line in found for paper in line.published]
    return pd.DataFrame(rows, columns=[*_BEFORE, *settings, *_AFTER])


_BEFORE = ["task", "dataset", "quantizer", "normalizer"]
_AFTER = [
    "metric", "runs", "completed", "test_mean", "test_spread", "published", "difference", "epochs",
    "published_epochs", "hidden", "published_hidden", "size_kb", "published_size_kb", "status",
    "published_source",
]  # fmt: skip


def _settings(found: Sequence[Line]) -> list[str]:
    """Return the settings that tell lines with a published figure apart, beside those with a column."""
    with_figure = [line for line in found if line.published]
    return [name for name in differing(with_figure) if name not in _TOLD_APART]


def _row(line: Line, paper: PublishedFigure, settings: Sequence[str]) -> dict[str, Any]:
    first = line.records[0].result
    mean = line.mean("test")
    return {
        "task": first.task,
        "dataset": first.dataset.name,
        "quantizer": first.quantizer,
        "normalizer": first.normalizer,
        **{name: getattr(line.config, name) for name in settings},
        "metric": first.metric,
        "runs": len(line.records),
        "completed": sum(record.result.status == "completed" for record in line.records),
        "test_mean": mean,
        "test_spread": line.spread("test"),
        "published": paper.figure,
        "difference": mean - paper.figure,
        "epochs": line.epochs,
        "published_epochs": math.nan if paper.epochs is None else paper.epochs,
        "hidden": line.config.hidden,
        "published_hidden": paper.hidden,
        "size_kb": first.storage_bytes / 1024,
        "published_size_kb": math.nan if paper.size_kb is None else paper.size_kb,
        "status": line.fate,
        "published_source": paper.source,
    }


def shown_published(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """Return the tables beside the papers as text under its headings, by the papers' sources.

    Args:
        records: the runs of one section.
    """
    frame = published_frame(records)
    return {source: _shown(rows) for source, rows in frame.groupby("published_source", sort=False)}


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame(index=frame.index)
    shown["quantizer"] = frame["quantizer"]
    shown["normaliser"] = frame["normalizer"]
    for name in frame.columns[len(_BEFORE) : -len(_AFTER)]:
        if frame[name].nunique(dropna=False) > 1:
            shown[name] = ["–" if value is None or value != value else str(value) for value in frame[name]]
    pairs = zip(frame["test_mean"], frame["test_spread"], strict=True)
    shown["ours"] = [format_figure(mean, spread) for mean, spread in pairs]
    shown["paper"] = [format_published(figure) for figure in frame["published"]]
    shown["difference"] = [_signed(value) for value in frame["difference"]]
    shown["epochs"] = [_number(value) for value in frame["epochs"]]
    shown["paper's epochs"] = [_number(value) for value in frame["published_epochs"]]
    if (frame["hidden"] != frame["published_hidden"]).any():
        shown["units"] = frame["hidden"].astype(str)
        shown["paper's units"] = frame["published_hidden"].astype(str)
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


def format_published(figure: float) -> str:
    """Return a published figure with the digits that papers print."""
    return f"{figure:.2f}" if figure < 20 else f"{figure:.1f}"


def _signed(difference: float) -> str:
    text = format_figure(difference)
    return f"+{text}" if difference > 0 else text


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
