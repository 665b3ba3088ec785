"""Cells and normalisers of declared statistics, by name, for what is run by the fused route."""

from __future__ import annotations

from typing import Any

from right_plugins import BatchNorm, FeatureNorm, RootMeanSquare

from qlstm_core import GRU, LSTM, FactorizedLSTM, GroupedLSTM, Normalizer

CELLS: dict[str, Any] = {
    "lstm": lambda i, h, **o: LSTM(i, h, **o),
    "projected": lambda i, h, **o: LSTM(i, h, proj_size=h // 2, **o),
    "gru": lambda i, h, **o: GRU(i, h, **o),
    "factorized": lambda i, h, **o: FactorizedLSTM(i, h, rank=3, **o),
    "grouped": lambda i, h, **o: GroupedLSTM(i, h, groups=2, **o),
}
NORMALIZERS: dict[str, type[Normalizer]] = {
    "layer": FeatureNorm,
    "rms": RootMeanSquare,
    "batch-shared": BatchNorm,
    "batch-separate": BatchNorm,
}


def normalizer(name: str, *, cell: bool = False, eps: float = 1e-5) -> Normalizer:
    """Return a normaliser.

    Args:
        name: which of ``NORMALIZERS``; those over the batch have running statistics of one step or of three.
        cell: whether a copy also normalises the cell state.
        eps: added to the variance; where nothing varies, a small one would magnify rounding by 1/√ε.
    """
    made: Any = NORMALIZERS[name]()
    made.cell, made.eps = cell, eps
    if name.startswith("batch"):
        made.steps = {"batch-shared": 1, "batch-separate": 3}[name]
    return made
