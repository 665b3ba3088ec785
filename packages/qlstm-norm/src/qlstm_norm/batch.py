"""Batch normalisation, with running statistics shared by all time steps or kept for each."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from qlstm_core import Normalizer
from qlstm_norm.gains import initial_gains


class _BatchNorm(Normalizer):
    """Batch normalisation over the sequences alive at a step, with ``steps`` rows of running statistics."""

    statistics: ClassVar[Literal["features", "batch"] | None] = "batch"
    gain: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, steps: int, gain: float, eps: float, momentum: float, cell: bool) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
        if not eps > 0:  # torch divides by √eps where all sequences agree, and refuses 0 in training
            raise ValueError(f"eps must be positive, got {eps}")
        self.steps = steps
        self.initial_gain = gain
        self.eps = eps
        self.momentum = momentum
        self.cell = cell

    def prepare(self, weight: Tensor) -> None:
        """Create gain, bias and running statistics for a side of ``weight``'s gates and rows."""
        gates, rows, _ = weight.shape
        self.gain = nn.Parameter(initial_gains(weight, self.initial_gain))
        self.bias = nn.Parameter(weight.new_zeros(gates, rows))
        self.register_buffer("running_mean", weight.new_zeros(self.steps, gates, rows))
        self.register_buffer("running_var", weight.new_ones(self.steps, gates, rows))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        """Return the normalised ``(batch, gates, rows)`` of time step ``step``.

        In training a step at which one sequence alone is alive has no batch statistics: it takes the running
        ones.
        """
        row = min(step, self.steps - 1)
        y = F.batch_norm(
            preactivation.flatten(1),
            self.running_mean[row].flatten(),
            self.running_var[row].flatten(),
            self.gain.flatten(),
            self.bias.flatten(),
            training=self.training and preactivation.shape[0] > 1,
            momentum=self.momentum,
            eps=self.eps,
        )
        return y.view_as(preactivation)

    def extra_repr(self) -> str:
        """Return the options."""
        return (
            f"steps={self.steps}, gain={self.initial_gain}, eps={self.eps}, "
            f"momentum={self.momentum}, cell={self.cell}"
        )


class BatchShared(_BatchNorm):
    r"""Batch normalisation whose running statistics all time steps share.

    :math:`g_j (x_j − μ_j)/\sqrt{σ_j² + ε} + b_j` with μ, σ² over the sequences alive at this step in
    training, and running averages over all steps in ``eval()``.

    Args:
        gain: initial g. 0.1 keeps tanh and σ away from saturation, where their gradients vanish through time
            (Cooijmans et al. 2017, section 4).
        eps: ε, added to the variance.
        momentum: weight of the newest batch in the running averages, as in torch.nn.BatchNorm1d.
        cell: also normalise the cell state before the output's tanh.

    Attributes:
        gain, bias: ``(gates, rows)``.
        running_mean, running_var: ``(1, gates, rows)``; the variance is the unbiased one.

    Source: Hou et al. 2019, "batch (shared)" and proposition 4.
    """

    def __init__(
        self, gain: float = 0.1, eps: float = 1e-5, momentum: float = 0.1, cell: bool = False
    ) -> None:
        super().__init__(1, gain, eps, momentum, cell)


class BatchSeparate(_BatchNorm):
    r"""Batch normalisation with running statistics of its own for each time step.

    As :class:`BatchShared`, with step t of the sequence using row ``min(t, max_steps − 1)`` of the
    statistics. Gain and bias are shared by all steps.

    Args:
        max_steps: time steps that have statistics of their own; later ones use the last.
        gain, eps, momentum, cell: as :class:`BatchShared`.

    Attributes:
        gain, bias: ``(gates, rows)``.
        running_mean, running_var: ``(max_steps, gates, rows)``.

    Source: Cooijmans et al. 2017, arXiv:1603.09025; Hou et al. 2019, "batch (separate)".
    """

    def __init__(
        self,
        max_steps: int = 100,
        gain: float = 0.1,
        eps: float = 1e-5,
        momentum: float = 0.1,
        cell: bool = False,
    ) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        super().__init__(max_steps, gain, eps, momentum, cell)
