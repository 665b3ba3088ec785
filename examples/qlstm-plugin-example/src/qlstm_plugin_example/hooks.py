"""What this package provides to qlstm; the entry point in pyproject.toml names this module."""

from __future__ import annotations

from collections.abc import Iterable

from qlstm_core.plugins import CellSpec, NormalizerSpec, QuantizerSpec, hookimpl


@hookimpl
def qlstm_quantizers() -> Iterable[QuantizerSpec]:
    """Provide ``power-of-two``."""
    yield QuantizerSpec(
        name="power-of-two",
        summary="1 bit: sign(w) times a power of two near mean|w|",
        factory="qlstm_plugin_example.quantizer:PowerOfTwo",
    )


@hookimpl
def qlstm_normalizers() -> Iterable[NormalizerSpec]:
    """Provide ``max``."""
    yield NormalizerSpec(
        name="max",
        summary="each gate divided by its largest magnitude",
        factory="qlstm_plugin_example.normalizer:MaxNorm",
    )


@hookimpl
def qlstm_cells() -> Iterable[CellSpec]:
    """Provide ``mingru``."""
    yield CellSpec(
        name="mingru",
        summary="minimal GRU, whose gates depend on the input alone",
        factory="qlstm_plugin_example.cell:MinGRU",
        references=("Feng et al. 2024, arXiv:2410.01201",),
    )
