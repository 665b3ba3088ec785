"""What the papers published, to stand beside our figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from qlstm_bench.config import RunConfig


@dataclass(frozen=True)
class Published:
    """A figure that a paper gives.

    Args:
        figure: the published figure, in the unit of the task's figure of merit.
        size_kb: size of the recurrent layer in 1024 bytes, if the paper gives it.
        hidden: units of the paper's layer.
        source: paper and table.
    """

    figure: float
    size_kb: float | None
    hidden: int
    source: str


def published(config: RunConfig, dataset: str) -> Published | None:
    """Return what a paper gives for a run's task, data, quantizer, normaliser and cell, if any does.

    Where the paper has several sizes, that of the run, else the smallest.
    """
    found = [
        Published(figure, size, table["settings"]["hidden"], f"{table['paper']}, {table['where']}")
        for table in _tables()
        if (table["task"], table["data"]) == (config.task.partition(":")[0], dataset) and _fits(table, config)
        for quantizer, normalizer, figure, size in table["rows"]
        if quantizer == _as_published(config.quantizer)
        if normalizer == _as_published(config.normalizer)
    ]
    return min(found, key=lambda one: (one.hidden != config.hidden, one.hidden), default=None)


def _fits(table: dict[str, Any], config: RunConfig) -> bool:
    """Return whether a run is what a table is about, but for the number of units."""
    wanted = {"cell": "lstm", "state_quantizer": "none"} | table["settings"]
    return all(getattr(config, name) == value for name, value in wanted.items() if name != "hidden")


def _as_published(method: str) -> str:
    """Return a quantizer or normaliser without the options that a paper's table does not tell.

    They are how long sequences are, where a gain starts, and whether full-precision weights are clipped.
    """
    name, _, options = method.partition(":")
    untold = ("max_steps=", "gain", "clip=")
    kept = [option for option in options.split(",") if option and not option.startswith(untold)]
    return f"{name}:{','.join(kept)}" if kept else name


@cache
def _tables() -> list[dict[str, Any]]:
    text = (files("qlstm_bench.report") / "published.yaml").read_text(encoding="utf-8")
    tables: list[dict[str, Any]] = yaml.safe_load(text)
    return tables
