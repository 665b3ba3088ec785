"""Finding finished runs among folders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlstm_bench.gradients.recording import recordings
from qlstm_bench.results import Result
from qlstm_bench.runs import Run, RunError


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
        found = sorted(config.parent for config in path.rglob("config.yaml")) if path.is_dir() else []
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
        else:
            records.append(Record(run, result, rows))
    return sorted(records, key=lambda record: record.order), problems
