"""What a normaliser does to a gradient: how much it can stretch it, and where it sends it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qlstm_bench.errors import BenchError
from qlstm_core import Normalizer
from qlstm_core.layers.norm_contract import Norm, gain_and_bias, norm_obstacle
from qlstm_core.layers.prepared import PreparedCell


class GradientAnalysisError(BenchError):
    """A layer whose bounds are not known; the message is one line that says why."""


@dataclass(frozen=True)
class Normalization:
    """A normaliser on the pre-activations of every step of a batch: ``y = g ⊙ z + b``, ``z = (x − μ)/σ``.

    ``∂ξ/∂x`` is ``∂ξ/∂y`` times a diagonal matrix, g, then one whose eigenvalues lie in [0, 1], divided by σ
    (:mod:`qlstm_core.layers.norm_contract` has the equations): the gradient grows by at most
    ``max |g_j| / σ_j``.

    Args:
        norm: which statistics μ and σ are.
        z: the standardised ``(T, batch, gates, rows)``.
        scale: 1/σ with ε in it, ``1/√(v + ε)``: ``(T, batch, gates, 1)`` over features, ``(T, 1, gates,
            rows)`` over the batch.
        gain: g, ``(gates, rows)``; 1 where there is none.
        bias: b, likewise, or 0.
    """

    norm: Norm
    z: Tensor
    scale: Tensor
    gain: Tensor
    bias: Tensor | float

    @classmethod
    def of(cls, normalizer: Normalizer, prepared: PreparedCell, x: Tensor) -> Normalization:
        """Return what ``normalizer`` computes from ``x``, ``(T, batch, gates, rows)``.

        Args:
            normalizer: one of the normalisers of ``prepared`` that act on activations.
            prepared: the layer in one direction.
            x: its argument at every step, in the order of computation.

        Raises:
            GradientAnalysisError: a normaliser that does not promise to compute what the contract of
                ``statistics`` says.
        """
        if (obstacle := norm_obstacle(normalizer, prepared)) is not None:
            raise GradientAnalysisError(
                f"the gradient bounds of {type(normalizer).__name__} are not known: it {obstacle}"
            )
        norm, (gain, bias) = Norm.of(normalizer), gain_and_bias(normalizer)
        if norm.uses_running:
            mean, var = (moment.unsqueeze(1) for moment in norm.at_steps(len(x)))
        else:
            mean, var = norm.measure(x)
        z, scale = norm.normalize(x, mean, var)
        return cls(
            norm=norm,
            z=z,
            scale=scale,
            gain=x.new_ones(x.shape[2:]) if gain is None else gain.detach(),
            bias=0.0 if bias is None else bias.detach(),
        )

    @property
    def couples(self) -> bool:
        """Whether the sequences of a batch act on one another."""
        return self.norm.training

    @property
    def output(self) -> Tensor:
        """The normalised ``(T, batch, gates, rows)``."""
        return self.gain * self.z + self.bias

    @property
    def stretch(self) -> Tensor:
        """``max_j |g_j| / σ_j``, the most that a gradient can grow by: ``(T, batch or 1, gates)``."""
        return (self.gain.abs() * self.scale).amax(-1)

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Return ``∂ξ/∂x`` from ``∂ξ/∂y``, both ``(T, batch, gates, rows)``."""
        return self.norm.pull_back(self.gain * gradient, self.z, self.scale)
