"""The table of a report."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table

from qlstm_bench.report.collect import Record
from qlstm_bench.results import describe_status, format_growth

GROWTH_MEANING = (
    "norm of the gradient at the first time step over that at the last; above 1 it explodes on its way back"
)
"""What the column of gradient growth shows."""


def results_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row of figures per run.

    Columns: task, dataset, quantizer, normalizer; valid and test, figures of merit, NaN where the run did not
    complete; size_kb of the recurrent layer, in 1024 bytes; ratio to float32; gradient_growth; status; steps;
    seed; run.
    """
    return pd.DataFrame([_row(record) for record in records])


def _row(record: Record) -> dict[str, object]:
    result = record.result
    metric, metrics = result["metric"], result["metrics"]
    completed = result["status"] == "completed"
    task, dataset = record.section
    return {
        "task": task,
        "dataset": dataset,
        "quantizer": result["quantizer"],
        "normalizer": result["normalizer"],
        "valid": metrics[f"valid_{metric}"] if completed else float("nan"),
        "test": metrics[f"test_{metric}"] if completed else float("nan"),
        "size_kb": result["storage_bytes"] / 1024,
        "ratio": result["float32_bytes"] / result["storage_bytes"],
        "gradient_growth": metrics.get("gradient_growth", float("nan")),
        "status": describe_status(result),
        "steps": result["steps"],
        "seed": result["seed"],
        "run": record.run.name,
    }


def format_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame's shown columns as text, under their headings."""
    shown = pd.DataFrame(index=frame.index)
    shown["quantizer"] = frame["quantizer"]
    shown["normaliser"] = frame["normalizer"]
    for name in ("valid", "test"):
        shown[name] = [f"{value:.3f}" if value == value else "–" for value in frame[name]]
    shown["size KB"] = [f"{value:.0f}" for value in frame["size_kb"]]
    shown["smaller"] = [f"{value:.1f}×" for value in frame["ratio"]]
    shown["gradient growth"] = [
        format_growth(value) if value == value else "–" for value in frame["gradient_growth"]
    ]
    shown["status"] = frame["status"]
    return shown


def print_table(records: Sequence[Record], console: Console | None = None) -> None:
    """Print one table per task and dataset."""
    console = console or Console()
    frame = results_frame(records)
    titles = {record.section: record.result["metric_title"] for record in records}
    for (task, dataset), part in frame.groupby(["task", "dataset"], sort=False):
        shown = format_frame(part)
        table = Table(
            title=f"{task} on {dataset}: {titles[task, dataset]} in validation and test", title_justify="left"
        )
        for heading in shown.columns:
            numeric = heading not in ("quantizer", "normaliser", "status")
            table.add_column(heading, justify="right" if numeric else "left", no_wrap=heading != "status")
        previous = None
        for row in shown.itertuples(index=False):
            if previous not in (None, row[0]):
                table.add_section()
            previous = row[0]
            table.add_row(*row)
        console.print(table)
    console.print(f"gradient growth: {GROWTH_MEANING}", style="dim", highlight=False)
