"""The core's own plugin: full precision, no normalisation, cells, kernels, registered like anyone else's."""

from __future__ import annotations

from collections.abc import Iterable

from qlstm_core.interfaces import NoNormalizer, NoQuantizer
from qlstm_core.layers import GRU, LSTM, FactorizedLSTM, GroupedLSTM, cells_of
from qlstm_core.packed.kernels.choose import Kernel, has_avx2, has_vbmi
from qlstm_core.plugins import CellSpec, KernelSpec, NormalizerSpec, QuantizerSpec, Registry, hookimpl

_KUCHAIEV = ("Kuchaiev and Ginsburg 2017, arXiv:1703.10722",)


@hookimpl
def qlstm_addhooks(registry: Registry) -> None:
    """Have ``qlstm plugins`` list cells and kernels too."""
    cells_of(registry)
    registry.catalogue("qlstm_kernels", KernelSpec, "kernel", product=Kernel)


@hookimpl
def qlstm_quantizers() -> Iterable[QuantizerSpec]:
    """Provide ``none``."""
    yield QuantizerSpec(name="none", summary="full precision", factory=NoQuantizer)


@hookimpl
def qlstm_normalizers() -> Iterable[NormalizerSpec]:
    """Provide ``none``."""
    yield NormalizerSpec(name="none", summary="no normalisation", factory=NoNormalizer)


@hookimpl
def qlstm_cells() -> Iterable[CellSpec]:
    """Provide ``lstm``, ``gru``, ``f-lstm`` and ``g-lstm``."""
    yield CellSpec(
        name="lstm",
        summary="long short-term memory, as torch.nn.LSTM",
        factory=LSTM,
        references=("Hou et al. 2019, Normalization helps training of quantized LSTM",),
    )
    yield CellSpec(
        name="gru",
        summary="gated recurrent unit, as torch.nn.GRU",
        factory=GRU,
        references=("Cho et al. 2014, arXiv:1406.1078",),
    )
    yield CellSpec(
        name="f-lstm",
        summary="LSTM whose weight is a product of two matrices of low rank; rank=512",
        factory=FactorizedLSTM,
        references=_KUCHAIEV,
    )
    yield CellSpec(
        name="g-lstm",
        summary="LSTM of independent groups; groups=4",
        factory=GroupedLSTM,
        references=_KUCHAIEV,
    )


@hookimpl
def qlstm_kernels() -> Iterable[KernelSpec]:
    """Provide ``avx512``, ``avx2`` and ``portable``."""
    yield KernelSpec(
        name="avx512",
        summary="look-up tables in AVX-512 registers; needs an x86-64 CPU with AVX-512 VBMI",
        factory="qlstm_core.packed.kernels.avx512:kernel",
        supported=has_vbmi,
        priority=20,
    )
    yield KernelSpec(
        name="avx2",
        summary="look-up tables in AVX2 registers; needs an x86-64 CPU with AVX2",
        factory="qlstm_core.packed.kernels.avx2:kernel",
        supported=has_avx2,
        priority=10,
    )
    yield KernelSpec(
        name="portable",
        summary="look-up tables in plain code, for any CPU",
        factory="qlstm_core.packed.kernels.portable:kernel",
        supported=lambda: True,
        priority=0,
    )
