"""Which quantizers, normalisers and cells are measured."""

from __future__ import annotations

import os
from collections.abc import Sequence

QUANTIZERS = ("none", "binary-connect", "ter-connect", "bwn", "twn", "alternating:bits=2")
NORMALIZERS = ("none", "weight", "layer", "batch-shared")
FAMILIES = ("LSTM", "GRU", "FactorizedLSTM", "GroupedLSTM")

_known: dict[str, Sequence[str]] = {
    "quantizers": QUANTIZERS,
    "normalizers": NORMALIZERS,
    "cells": FAMILIES,
}
"""What is measured whatever is followed."""
_followed: dict[str, Sequence[str]] = dict.fromkeys(_known, ())
"""What :func:`follow` was given."""


def follow(
    *, quantizers: Sequence[str] = (), normalizers: Sequence[str] = (), cells: Sequence[str] = ()
) -> None:
    """Measure what a plugin provides, and beside it few of the papers' methods.

    The ``benchmarks/__init__.py`` of a plugin's repository calls it, before its modules import those of the
    suite: parameters are made when a benchmark is defined.

    Args:
        quantizers, normalizers, cells: names as `qlstm plugins` lists them, with or without options.
    """
    _followed.update(quantizers=quantizers, normalizers=normalizers, cells=cells)
    _known.update(
        quantizers=("none",) if quantizers else ("none", "bwn"),
        normalizers=("none", "layer"),
        cells=("LSTM",),
    )


def quantizers() -> list[str]:
    """Return the papers' quantizers and those that are followed or in ``QLSTM_ASV_QUANTIZERS``."""
    return [*_known["quantizers"], *_added("quantizers")]


def normalizers() -> list[str]:
    """Return the papers' normalisers and those that are followed or in ``QLSTM_ASV_NORMALIZERS``."""
    return [*_known["normalizers"], *_added("normalizers")]


def cells() -> list[str]:
    """Return the core's families and the cells that are followed or in ``QLSTM_ASV_CELLS``."""
    return [*_known["cells"], *_added("cells")]


def few_bits() -> list[str]:
    """Return the quantizers but ``none``."""
    return [name for name in quantizers() if name != "none"]


def trained_cells() -> list[str]:
    """Return the cells that are trained, where all other trainings have an LSTM: those added, else one."""
    return _added("cells") or ["gru"]


def checked() -> list[str]:
    """Return what runs the conformance checks: all that is added, else one of ours of each kind."""
    return [name for kind in _known for name in _added(kind)] or ["bwn", "layer", "gru"]


def _added(kind: str) -> list[str]:
    """Return what is measured for a plugin's sake; the environment separates names by spaces."""
    return [*_followed[kind], *os.environ.get(f"QLSTM_ASV_{kind.upper()}", "").split()]
