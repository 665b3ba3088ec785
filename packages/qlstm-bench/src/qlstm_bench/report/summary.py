"""Runs that differ in nothing but the seed, taken together: a line of the papers' tables."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from qlstm_bench.config import RunConfig
from qlstm_bench.papers.published import PublishedFigure, published
from qlstm_bench.report.records import NOT_COMPARED, Record
from qlstm_core.plugins import PluginError, registry


@dataclass(frozen=True)
class Line:
    """The runs of one setting.

    Args:
        records: one for each seed; at least one.
    """

    records: tuple[Record, ...]

    @property
    def config(self) -> RunConfig:
        """The settings, but for the seed."""
        return self.records[0].run.config

    @property
    def bits(self) -> int | None:
        """Stored for each weight; ``None`` where the quantizer is not installed here."""
        return weight_bits(self.config.quantizer)

    @property
    def published(self) -> list[PublishedFigure]:
        """What papers give for it, those for layers of its size first."""
        return published(self.config, self.records[0].result.dataset.name)

    @property
    def epochs(self) -> float:
        """Passes over the training data, the mean over the runs; NaN where none logged how many."""
        known = [record.epochs for record in self.records if not math.isnan(record.epochs)]
        return statistics.fmean(known) if known else math.nan

    @property
    def fate(self) -> str:
        """What became of the runs, in words."""
        fates = Counter(record.result.fate for record in self.records)
        if len(fates) == 1:
            return next(iter(fates))
        return ", ".join(f"{count} {fate}" for fate, count in fates.most_common())

    @property
    def learnt(self) -> bool:
        """Whether all runs ended better than without looking at their input."""
        return all(record.result.learnt for record in self.records)

    def mean(self, kind: str) -> float:
        """Return the mean of ``"valid"`` or ``"test"`` over the runs that completed; NaN for none."""
        values = self._values(kind)
        with np.errstate(all="ignore"):  # of infinite or huge figures
            return float(np.mean(values)) if values else math.nan

    def spread(self, kind: str) -> float:
        """Return the standard deviation between the seeds; NaN for fewer than two."""
        values = self._values(kind)
        with np.errstate(all="ignore"):
            return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    def _values(self, kind: str) -> list[float]:
        results = [record.result for record in self.records if record.result.status == "completed"]
        return [result.figure(kind) for result in results]


def lines(records: Sequence[Record]) -> list[Line]:
    """Return the records by everything but their seed, in their order."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        key = record.run.config.model_dump_json(exclude=NOT_COMPARED) + str(record.section)
        groups.setdefault(key, []).append(record)
    return [Line(tuple(group)) for group in groups.values()]


def differing(found: Sequence[Line]) -> list[str]:
    """Return the settings, beside quantizer and normaliser, in which lines of one section differ."""
    names = [name for name in RunConfig.model_fields if name not in NOT_COMPARED]
    return [
        name
        for name in names
        if name not in ("task", "quantizer", "normalizer")
        and any(getattr(line.config, name) != getattr(found[0].config, name) for line in found)
    ]


def summary_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row of figures per setting.

    Columns: task, dataset, bits, quantizer, normalizer, the settings that differ; metric; runs, completed;
    test_mean, test_spread, valid_mean, valid_spread over the completed ones (standard deviation between
    seeds); size_kb of the recurrent layer, in 1024 bytes; ratio to float32; model_kb and model_ratio, the
    same of the whole model; gradient_growth, the largest; steps, epochs and seconds, means; status;
    published, difference (test_mean − published), published_size_kb, published_hidden, published_epochs,
    published_source. Where several papers have a figure, that for the line's own size counts;
    :func:`qlstm_bench.published_frame` has them all.
    """
    found = lines(records)
    settings = differing(found) if found else []
    return pd.DataFrame([_row(line, settings) for line in found])


def _row(line: Line, settings: Sequence[str]) -> dict[str, Any]:
    first = line.records[0].result
    results = [record.result for record in line.records]
    paper = next(iter(line.published), None)
    return {
        "task": first.task,
        "dataset": first.dataset.name,
        "bits": line.bits,
        "quantizer": first.quantizer,
        "normalizer": first.normalizer,
        **{name: getattr(line.config, name) for name in settings},
        "metric": first.metric,
        "runs": len(results),
        "completed": sum(result.status == "completed" for result in results),
        **{f"{kind}_mean": line.mean(kind) for kind in ("test", "valid")},
        **{f"{kind}_spread": line.spread(kind) for kind in ("test", "valid")},
        "size_kb": first.storage_bytes / 1024,
        "ratio": first.float32_bytes / first.storage_bytes,
        "model_kb": first.model_bytes / 1024,
        "model_ratio": first.model_float32_bytes / first.model_bytes,
        "gradient_growth": max(
            (result.metrics.get("gradient_growth", math.nan) for result in results),
            key=lambda growth: -math.inf if math.isnan(growth) else growth,
        ),
        "steps": statistics.fmean(result.steps for result in results),
        "epochs": line.epochs,
        "seconds": statistics.fmean(result.wall_s for result in results),
        "status": line.fate,
        "published": paper.figure if paper else math.nan,
        "difference": line.mean("test") - paper.figure if paper else math.nan,
        "published_size_kb": paper.size_kb if paper and paper.size_kb is not None else math.nan,
        "published_hidden": paper.hidden if paper else None,
        "published_epochs": paper.epochs if paper and paper.epochs is not None else math.nan,
        "published_source": paper.source if paper else "",
    }


@cache
def weight_bits(quantizer: str) -> int | None:
    """Return the bits that a quantizer stores for each weight; ``None`` where it is not installed here."""
    try:
        bits: int = registry.quantizers.create(quantizer).bits
    except PluginError:
        return None
    return bits
