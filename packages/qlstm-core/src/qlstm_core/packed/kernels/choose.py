"""Which kernel runs: the best that the host supports, or the one that ``QLSTM_KERNEL`` names."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qlstm_core.layers.border import compiles
from qlstm_core.packed.kernels.layout import SPANS
from qlstm_core.plugins import Catalogue, KernelSpec, PluginError, PluginWarning, registry
from qlstm_core.plugins.errors import blame

ENVIRONMENT = "QLSTM_KERNEL"
"""The environment variable that names a kernel."""


@dataclass(frozen=True)
class Kernel:
    """One way to multiply packed weights with activations, as functions compiled by Numba.

    They are called from other compiled functions, with arrays alone and without the GIL, and give exact
    integers. Compiled by :func:`qlstm_core.kernels.compile.compiled` they are kept on disk until something
    in their own folder or in ``qlstm_core.kernels`` changes: they should take code from nowhere else.

    Args:
        name: name of its :class:`~qlstm_core.plugins.KernelSpec`.
        fill_tables: ``activation_bits ↦ fill(codes, tables)``.

            - ``codes``: ``(count, span + 1, groups)`` int16, of each vector as
              :func:`qlstm_core.packed.kernels.activations.quantize` writes them;
            - ``tables``: uint8, written, of shape :func:`qlstm_core.packed.kernels.matmul.tables_shape`;
              what they hold is the kernel's own matter.
        product: ``(activation_bits, pairing) ↦ product(blocks, tables, norms, sums)``.

            - ``blocks``: ``(tiles, groups, 8·span)`` uint8, see :mod:`qlstm_core.packed.kernels.layout`;
            - ``norms``: ``(count,)`` int32, ``Σ|q|`` of each vector;
            - ``sums``: ``(count, length)`` int32, written: ``Σ B q`` of each line, or, with ``pairing``,
              ``Σ (B_0 + pairing · B_1) q`` of each row and pair of planes.
        span: number of columns in a group, 4 or 6: the bits of an index into its tables.
    """

    name: str
    fill_tables: Callable[[int], Any]
    product: Callable[[int, int], Any]
    span: int = 4

    def __post_init__(self) -> None:
        if self.span not in SPANS:
            raise ValueError(f"kernel {self.name!r}: span must be one of {SPANS}, got {self.span!r}")


def has_avx2() -> bool:
    """Whether this host has AVX2 and Numba is set to compile for it.

    False with ``NUMBA_CPU_NAME=generic``, with ``NUMBA_CPU_FEATURES`` that lack ``+avx2``, with
    ``NUMBA_ENABLE_AVX=0`` and with ``NUMBA_DISABLE_JIT=1``. Compiling an AVX2 kernel where this is False
    would abort the process.
    """
    return _compiles_for("avx2")


def has_vbmi() -> bool:
    """Whether this host has AVX-512 with VBMI and Numba is set to compile for it; see :func:`has_avx2`."""
    return _compiles_for("avx512f", "avx512bw", "avx512vl", "avx512vbmi")


def _compiles_for(*features: str) -> bool:
    import numba
    from llvmlite import binding
    from numba.core.codegen import get_host_cpu_features

    config: Any = numba.config
    if config.DISABLE_JIT:
        return False
    try:
        host = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM cannot tell on this platform
        return False
    target = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    chosen = target.split(",")
    return all(host.get(feature, False) and f"+{feature}" in chosen for feature in features)


def choose(name: str | None = None) -> Kernel:
    """Return the kernel called ``name``, else that of ``QLSTM_KERNEL``, else the best for this host.

    The best is the supported one of highest priority. A plugin's kernel that fails on the way is passed over
    with a :class:`~qlstm_core.plugins.PluginWarning`; one that is asked for by name is an error.

    Raises:
        UnknownNameError: no plugin provides a kernel of that name; lists those installed.
        PluginError: this host does not support the kernel asked for, or its factory fails; or Numba is set to
            compile nothing.
    """
    if not compiles():
        raise PluginError("packed networks need compiled code, and NUMBA_DISABLE_JIT is set: unset it")
    kernels = registry.catalogue("qlstm_kernels", KernelSpec, "kernel", product=Kernel)
    if name is not None:
        return _named(kernels, name)
    if asked := os.environ.get(ENVIRONMENT):
        try:
            return _named(kernels, asked)
        except PluginError as error:
            raise type(error)(f"{ENVIRONMENT}={asked}: {error}") from error
    ranked = sorted(zip(kernels.names(), kernels.specs(), strict=True), key=lambda item: -item[1].priority)
    for candidate, spec in ranked:
        try:
            if spec.supported():
                return _built(kernels, candidate)
        except BaseException as error:
            warnings.warn(f"kernel {candidate!r} is passed over: {blame(error)}", PluginWarning)
    raise PluginError("no installed kernel runs on this host")


def _named(kernels: Catalogue[KernelSpec], name: str) -> Kernel:
    spec = kernels.get(name)
    try:
        supported = bool(spec.supported())
    except BaseException as error:
        raise PluginError(
            f"kernel {name!r} cannot tell whether it runs on this host: {blame(error)}"
        ) from error
    if not supported:
        raise PluginError(f"kernel {name!r} does not run on this host: {spec.summary}")
    return _built(kernels, name)


def _built(kernels: Catalogue[KernelSpec], name: str) -> Kernel:
    kernel: Kernel = kernels.create(name)
    return kernel
