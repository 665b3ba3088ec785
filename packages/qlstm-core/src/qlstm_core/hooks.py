"""The core's own plugin: full precision, no normalisation, three kernels, registered like anyone else's."""

from __future__ import annotations

from collections.abc import Iterable

from qlstm_core.interfaces import NoNormalizer, NoQuantizer
from qlstm_core.packed.kernels.choose import Kernel, has_avx2, has_vbmi
from qlstm_core.plugins import KernelSpec, NormalizerSpec, QuantizerSpec, Registry, hookimpl


@hookimpl
def qlstm_addhooks(registry: Registry) -> None:
    """Have ``qlstm plugins`` list kernels too."""
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
