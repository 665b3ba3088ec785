"""The table of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TextIO

import pandas as pd

from qlstm_bench.report.collect import Record
from qlstm_bench.results import format_growth
from qlstm_bench.text_table import aligned

_LEFT = ("quantizer", "normaliser", "status")


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


def format_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame's shown columns as text, under their headings."""
    shown = pd.DataFrame(index=frame.index)
    shown["quantizer"] = frame["quantizer"]
    shown["normaliser"] = frame["normalizer"]
    for name in ("valid", "test"):
        shown[name] = ["–" if math.isnan(value) else f"{value:.3f}" for value in frame[name]]
    shown["KB"] = [f"{value:.0f}" for value in frame["size_kb"]]
    shown["ratio"] = [f"{value:.1f}" for value in frame["ratio"]]
    shown["growth"] = [format_growth(value) for value in frame["gradient_growth"]]
    shown["status"] = frame["status"]
    return shown


def print_table(records: Sequence[Record], file: TextIO | None = None) -> None:
    """Print one table per task and dataset, as plain text that fits 80 columns where names do."""
    frame = results_frame(records)
    for (task, dataset), part in frame.groupby(["task", "dataset"], sort=False):
        metric = next(record.result.metric_title for record in records if record.section == (task, dataset))
        print(f"\n{task} on {dataset}\n", file=file)
        shown = format_frame(part)
        print(aligned(list(shown.columns), shown.to_numpy().tolist(), _LEFT, group=True), file=file)
        print(f"\n{legend(metric)}", file=file)


def legend(metric_title: str) -> str:
    """Return what the table's columns show, a line each."""
    return "\n".join(
        (
            f"valid, test  {metric_title} in validation and test; lower is better",
            "KB           size of the recurrent layer as deployed, in 1024 bytes",
            "ratio        how many times smaller than the same layer in float32",
            "growth       gradient norm at the first time step over that at the last:",
            "             far above 1 it explodes on its way back",
        )
    )
