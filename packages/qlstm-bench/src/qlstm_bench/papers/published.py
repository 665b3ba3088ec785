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
        if (quantizer, normalizer) == (config.quantizer, _without_length(config.normalizer))
    ]
    return min(found, key=lambda one: (one.hidden != config.hidden, one.hidden), default=None)


def _fits(table: dict[str, Any], config: RunConfig) -> bool:
    """Return whether a run is what a table is about, but for the number of units."""
    wanted = {"cell": "lstm"} | {name: value for name, value in table["settings"].items() if name != "hidden"}
    return all(getattr(config, name) == value for name, value in wanted.items())


def _without_length(normalizer: str) -> str:
    """Return a normaliser without the option that only says how long sequences are."""
    name, _, options = normalizer.partition(":")
    kept = [option for option in options.split(",") if option and not option.startswith("max_steps=")]
    return f"{name}:{','.join(kept)}" if kept else name


@cache
def _tables() -> list[dict[str, Any]]:
    text = (files("qlstm_bench.report") / "published.yaml").read_text(encoding="utf-8")
    tables: list[dict[str, Any]] = yaml.safe_load(text)
    return tables
