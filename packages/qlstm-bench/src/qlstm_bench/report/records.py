"""Finding finished runs among folders."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlstm_bench.errors import RunError
from qlstm_bench.gradients.study.recording import recordings
from qlstm_bench.training.folder import Run
from qlstm_bench.training.result import Result

NOT_COMPARED = {"seed", "data", "device", "log_every", "checkpoint_seconds", "log"}
"""Settings in which the runs of one line may differ; the data's name is in the section's."""


@dataclass(frozen=True)
class Record:
    """A run that has ended.

    Args:
        run: its directory and settings.
        result: what result.json holds.
        rows: the lines of metrics.jsonl.
    """

    run: Run
    result: Result
    rows: list[dict[str, float]]

    @property
    def section(self) -> tuple[str, str]:
        """Task and dataset: only runs of one section can be compared."""
        return self.result.task, self.result.dataset.name

    @property
    def order(self) -> tuple[Any, ...]:
        """Full precision and no normalisation first, the rest by name."""
        names = (self.result.quantizer, self.result.normalizer)
        sizes = (self.run.config.hidden, self.run.config.layers, self.result.seed)
        return (*self.section, *((name != "none", name) for name in names), *sizes, self.run.name)

    @property
    def epochs(self) -> float:
        """Passes over the training data, from the lines that say how many; NaN where none does."""
        rates = [row["epoch"] / row["step"] for row in self.rows if row.get("epoch") and row["step"]]
        return self.result.steps * rates[-1] if rates else math.nan

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Return the steps at which a figure was logged, and its values."""
        points = [(row["step"], row[name]) for row in self.rows if name in row]
        return [step for step, _ in points], [value for _, value in points]


def collect(paths: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """Return the runs that have ended, in the order of the table, and what was left out and why.

    Args:
        paths: run folders, or folders that hold run folders at any depth.
    """
    directories: dict[Path, None] = {}
    problems = []
    for path in paths:
        found = sorted(config.parent for config in path.rglob("config.yaml")) if os.path.isdir(path) else []
        if not found:
            problems.append(f"{path}: no run folder: expected config.yaml in it or below")
        directories.update(dict.fromkeys(found))
    records = []
    for directory in directories:
        try:
            run = Run.read(directory)
            result = run.result()
            rows = run.metrics()
            recordings(directory)  # which the page draws: damage is told here
        except RunError as error:
            problems.append(str(error))
            continue
        if result is None:
            problems.append(f"{directory}: has not ended: no result.json")
        elif others := [name for name in _SETTINGS if getattr(result, name) != getattr(run.config, name)]:
            problems.append(f"{directory}: result.json and config.yaml differ in {' and '.join(others)}")
        else:
            records.append(Record(run, result, rows))
    return sorted(_each_once(records, problems), key=lambda record: record.order), problems


_SETTINGS = ("task", "quantizer", "normalizer", "seed")
"""What result.json repeats of config.yaml."""


def _each_once(records: Iterable[Record], problems: list[str]) -> list[Record]:
    """Return the records without copies of a run's folder, which are no further seeds.

    Args:
        records: the runs in the order in which they were found.
        problems: gets a line for each that is left out.
    """
    kept: dict[tuple[str, ...], Record] = {}
    for record in records:
        settings = record.run.config.model_dump_json(exclude=NOT_COMPARED - {"seed"})
        data = (*record.section, record.result.dataset.sha256)
        first = kept.setdefault((settings, *data), record)
        if first is not record:
            problems.append(
                f"{record.run.directory}: the same settings, seed and data as {first.run.directory}: "
                "it counts once"
            )
    return list(kept.values())
