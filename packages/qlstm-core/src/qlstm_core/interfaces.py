"""What a quantizer and a normaliser are: the two things a plugin provides.

Both see a weight matrix of one side (input or recurrent) of one layer and direction as ``(gates, rows,
cols)``: one matrix per gate, each treated by itself.

An instance given to a layer is a *template*. The layer copies it for every matrix, tells a normaliser's copy
which side it is for, and calls :meth:`prepare` on the copy with the freshly initialised weight, so that a
method with parameters of its own (LSQ's step size, a gain) creates them with the right shape, dtype and
device.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from qlstm_core.bitplanes import BitPlanes


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, quantized: Tensor) -> Tensor:
        return quantized.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _WithTangent(_StraightThrough):
    """Has forward-mode derivatives too, which a function must not define where torch.compile traces it."""

    @staticmethod
    def jvp(ctx: Any, weight: Tensor, quantized: None) -> Tensor:
        return weight.clone()


def straight_through(weight: Tensor, quantized: Tensor) -> Tensor:
    """Return ``quantized`` exactly; send its gradient to ``weight`` unchanged.

    Forward: ``y = quantized``. Backward: ``∂y/∂weight = 1``, ``∂y/∂quantized = 0``; forward-mode derivatives
    and ``torch.func`` transforms likewise.

    ``weight + (quantized - weight).detach()``, the usual spelling, has the same gradient but rounds: the
    levels are no longer exact.

    Args:
        weight: the full-precision weight, any shape.
        quantized: the values to compute with, same shape and dtype.

    Reference: Bengio, Léonard, Courville 2013, arXiv:1308.3432.
    """
    if weight.shape != quantized.shape or weight.dtype != quantized.dtype:
        raise ValueError(
            f"straight_through: weight is {tuple(weight.shape)} {weight.dtype}, "
            f"quantized is {tuple(quantized.shape)} {quantized.dtype}; they must agree"
        )
    function = _StraightThrough if torch.compiler.is_compiling() else _WithTangent
    result: Tensor = function.apply(weight, quantized.detach())  # type: ignore[no-untyped-call]
    return result


class Quantizer(nn.Module):
    """Maps full-precision weights to a few levels.

    A whole quantizer::

        class Sign(Quantizer):
            bits = 1

            def forward(self, weight, curvature=None):
                return straight_through(weight, torch.where(weight < 0, -1.0, 1.0).to(weight))

    Attributes:
        bits: bits stored per weight.
        scales: number of float32 scales stored for each gate (each row, with ``per_row``); 0 where levels are
            fixed.
        per_row: whether scales are per row instead of per gate.
        needs_curvature: whether :meth:`forward` wants the optimizer's second moments (see
            ``track_curvature``).
        gradient: ``"straight-through"`` when ``∂forward/∂weight`` is the identity, else ``"custom"``.
    """

    bits: int
    scales: int = 0
    per_row: bool = False
    needs_curvature: ClassVar[bool] = False
    gradient: ClassVar[Literal["straight-through", "custom"]] = "straight-through"

    def prepare(self, weight: Tensor) -> None:
        """Create state that depends on the matrix (default: none).

        Args:
            weight: the initial full-precision weight, ``(gates, rows, cols)``; on the meta device when the
                layer is.
        """

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        """Return the values that the matrix product uses; differentiable.

        Args:
            weight: ``(gates, rows, cols)``, floating point.
            curvature: the optimizer's second moments, same shape, when ``needs_curvature``; ``None`` means
                ones.

        Returns:
            Same shape, dtype and device, with few distinct values per gate (per row with ``per_row``).
            Stochastic quantizers sample while ``self.training`` and are deterministic otherwise.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(weight, curvature=None)")

    @torch.no_grad()
    def bitplanes(self, weight: Tensor, curvature: Tensor | None = None) -> BitPlanes:
        """Return the quantized weight in its storage form; ``.dense()`` equals :meth:`forward`'s values.

        The default finds the planes from the levels of :meth:`forward`'s result, which must be evenly spaced.
        """
        return BitPlanes.from_levels(self.forward(weight, curvature), per_row=self.per_row)

    def constrain_(self, weight: Tensor) -> None:
        """Enforce the method's own constraint on the full-precision weight, in place (default: none).

        Called after each optimizer step, for example to clip to [−1, 1] as BinaryConnect does.
        """

    def storage_bytes(self, gates: int, rows: int, cols: int) -> int:
        """Bytes of a quantized ``(gates, rows, cols)`` weight: ``bits`` per weight, 4 bytes per scale."""
        groups = gates * rows if self.per_row else gates
        return math.ceil(self.bits * gates * rows * cols / 8) + 4 * self.scales * groups


class Normalizer(nn.Module):
    """Normalises one side of a layer: N(W_x x), N(W_h h), or, where ``cell``, N(c).

    Either override :meth:`weight` (weight normalisation) or :meth:`forward` (layer and batch normalisation).
    Weights arrive quantized: the layer computes N(Q(W) x).

    A normaliser that sets ``statistics`` promises that :meth:`forward` computes, gate by gate,

        ``gain ⊙ (x − μ) / √(v + eps) + bias``

    over that axis, from attributes ``gain`` and ``bias`` (``(gates, rows)``; ``bias`` may be ``None``) and
    ``eps``, with ``μ = mean(x)`` and ``v`` the biased variance, or ``μ = 0`` and ``v = mean(x²)`` where
    ``centered`` is False. Where ``statistics`` is ``"batch"``, buffers ``running_mean`` and ``running_var``
    of ``(steps, gates, rows)`` replace μ and v in ``eval()``, step t using row ``min(t, steps − 1)``, and are
    updated with ``momentum`` as those of torch.nn.BatchNorm1d: the running variance is the unbiased one. Core
    may then run a fused kernel instead of calling :meth:`forward`.

    A normaliser that overrides :meth:`weight` alone and has a parameter ``gain``, ``(gates, rows)``, promises
    that each row of the weight it returns is proportional to its gain: :func:`qlstm_core.init.data_start_`
    sets it from a batch.

    Attributes:
        statistics: ``None``, ``"features"`` or ``"batch"``.
        centered: whether the mean is subtracted.
        cell: whether a copy also normalises the cell state before the output's tanh.
        side: which side this copy normalises: ``"ih"``, ``"hh"``, or ``"cell"``, the cell state; ``None``
            outside a layer. The layer sets it before it calls :meth:`prepare`.
        tokens: whether the input of that side is declared to be tokens (the layer's ``tokens=True``; side
            ``"ih"`` of the first layer). Set likewise.
    """

    statistics: ClassVar[Literal["features", "batch"] | None] = None
    centered: ClassVar[bool] = True
    cell: bool = False
    side: str | None = None
    tokens: bool = False

    def prepare(self, weight: Tensor) -> None:
        """Create parameters and buffers for one side (default: none).

        Args:
            weight: the side's initial full-precision weight, ``(gates, rows, cols)``, whose shape, dtype,
                device and values may be used; ``(1, rows, 0)`` for the cell state, which has no weight.
        """

    def weight(self, weight: Tensor) -> Tensor:
        """Return the weight to compute with, ``(gates, rows, cols)``; called once per forward call."""
        return weight

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        """Return the normalised pre-activation.

        Args:
            preactivation: ``(batch, gates, rows)``, of the sequences still alive at this step.
            step: how many steps this side has processed before, from 0.
        """
        return preactivation

    def storage_bytes(self) -> int:
        """Bytes of parameters and running statistics as deployed, 4 each."""
        return 4 * sum(t.numel() for t in (*self.parameters(), *self.buffers()))


def acts_on_weights(normalizer: Normalizer) -> bool:
    """Whether ``normalizer`` acts on weights: its class overrides :meth:`Normalizer.weight`."""
    return type(normalizer).weight is not Normalizer.weight


def acts_on_activations(normalizer: Normalizer) -> bool:
    """Whether ``normalizer`` acts on pre-activations: its class overrides :meth:`Normalizer.forward`."""
    return type(normalizer).forward is not Normalizer.forward


def weight_gain(normalizer: nn.Module | None) -> nn.Parameter | None:
    """Return the gain that a weight's rows are proportional to, of a normaliser that acts on it alone."""
    if not isinstance(normalizer, Normalizer) or not acts_on_weights(normalizer):
        return None
    gain = getattr(normalizer, "gain", None)
    return gain if isinstance(gain, nn.Parameter) and not acts_on_activations(normalizer) else None


class NoQuantizer(Quantizer):
    """Full precision: ``Q(W) = W``, 32 bits per weight as stored."""

    bits = 32

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        """Return ``weight`` itself."""
        return weight

    def bitplanes(self, weight: Tensor, curvature: Tensor | None = None) -> BitPlanes:
        """Raise: full-precision weights have no bit planes."""
        raise ValueError("quantizer 'none' keeps full-precision weights: there are no bit planes to make")


class NoNormalizer(Normalizer):
    """No normalisation: N(x) = x."""
