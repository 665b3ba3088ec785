"""Which quantizers, normalisers and cells are measured."""

from __future__ import annotations

import os

QUANTIZERS = ("none", "binary-connect", "ter-connect", "bwn", "twn", "alternating:bits=2")
NORMALIZERS = ("none", "weight", "layer", "batch-shared")
FAMILIES = ("LSTM", "GRU", "FactorizedLSTM", "GroupedLSTM")


def quantizers() -> list[str]:
    """Return the papers' quantizers and those that ``QLSTM_ASV_QUANTIZERS`` adds, separated by spaces."""
    return [*QUANTIZERS, *os.environ.get("QLSTM_ASV_QUANTIZERS", "").split()]


def normalizers() -> list[str]:
    """Return the papers' normalisers and those that ``QLSTM_ASV_NORMALIZERS`` adds, separated by spaces."""
    return [*NORMALIZERS, *os.environ.get("QLSTM_ASV_NORMALIZERS", "").split()]


def cells() -> list[str]:
    """Return the core's families and the cells that ``QLSTM_ASV_CELLS`` adds, separated by spaces."""
    return [*FAMILIES, *os.environ.get("QLSTM_ASV_CELLS", "").split()]


def few_bits() -> list[str]:
    """Return the quantizers but ``none``."""
    return [name for name in quantizers() if name != "none"]
