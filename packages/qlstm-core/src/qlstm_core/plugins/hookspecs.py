"""The hooks that plugins may implement. Each docstring is a whole plugin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qlstm_core.plugins.markers import hookspec
from qlstm_core.plugins.specs import CellSpec, KernelSpec, NormalizerSpec, QuantizerSpec


@hookspec
def qlstm_quantizers() -> Iterable[QuantizerSpec]:
    """Return the quantizers that the plugin provides; called once, at the first look-up.

    Example::

        import torch
        from qlstm_core import Quantizer, straight_through
        from qlstm_core.plugins import QuantizerSpec, hookimpl

        class Sign(Quantizer):
            bits = 1

            def forward(self, weight, curvature=None):
                return straight_through(weight, torch.where(weight < 0, -1.0, 1.0).to(weight))

        @hookimpl
        def qlstm_quantizers():
            yield QuantizerSpec(name="sign", summary="sign of the weight", factory=Sign)
    """
    raise NotImplementedError


@hookspec
def qlstm_normalizers() -> Iterable[NormalizerSpec]:
    """Return the normalisers that the plugin provides; called once, at the first look-up.

    Example::

        import torch
        from qlstm_core import Normalizer
        from qlstm_core.plugins import NormalizerSpec, hookimpl

        class MaxNorm(Normalizer):
            def forward(self, preactivation, step):
                return preactivation / preactivation.abs().amax(-1, keepdim=True).clamp(min=1e-5)

        @hookimpl
        def qlstm_normalizers():
            yield NormalizerSpec(name="max", summary="divide by the largest magnitude", factory=MaxNorm)
    """
    raise NotImplementedError


@hookspec
def qlstm_cells() -> Iterable[CellSpec]:
    """Return the families of recurrent layers that the plugin provides; called once, at the first look-up.

    Example::

        from qlstm_core import Cell, RecurrentLayer
        from qlstm_core.plugins import CellSpec, hookimpl

        def step(x, r, h):
            return ((x + r).squeeze(1).tanh(),)

        class Elman(RecurrentLayer):
            cell = Cell("elman", gates="n", states=("h",), step=step)

        @hookimpl
        def qlstm_cells():
            yield CellSpec(name="elman", summary="one gate: h_t = tanh(W x_t + U h_{t-1} + b)", factory=Elman)
    """
    raise NotImplementedError


@hookspec
def qlstm_kernels() -> Iterable[KernelSpec]:
    """Return the kernels for packed inference that the plugin provides; called once, at the first look-up.

    A kernel is a :class:`qlstm_core.packed.Kernel`: functions compiled by Numba, given here by the name of
    the function that returns it, so that Numba is imported only when the kernel is used.

    Example::

        from qlstm_core.plugins import KernelSpec, hookimpl

        @hookimpl
        def qlstm_kernels():
            yield KernelSpec(
                name="twin",
                summary="the portable kernel under another name",
                factory="qlstm_core.packed.kernels.portable:kernel",
                supported=lambda: True,
                priority=-1,
            )
    """
    raise NotImplementedError


@hookspec
def qlstm_addhooks(registry: Any) -> None:
    """Add hook specifications of one's own; called once, when the plugin is registered.

    Args:
        registry: the :class:`~qlstm_core.plugins.Registry` that the plugin is registered with.

    Example::

        import pluggy
        from qlstm_core.plugins import hookimpl

        class MyHooks:
            @staticmethod
            @pluggy.HookspecMarker("qlstm")
            def qlstm_greetings():
                '''Return greetings.'''

        @hookimpl
        def qlstm_addhooks(registry):
            registry.manager.add_hookspecs(MyHooks)
    """
    raise NotImplementedError
