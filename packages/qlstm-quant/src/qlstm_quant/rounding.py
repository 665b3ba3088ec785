"""Training with rounded weights: R, SR and BC around any torch optimizer.

After each optimizer step the weights are put back on a grid of step Δ:

- R, deterministic rounding: ``w ← Q_d(w − update)``;
- SR, stochastic rounding: ``w ← Q_s(w − update)``;
- BC, BinaryConnect: the update goes to a real weight, ``v ← v − update``; the network has ``w = Q_d(v)``.

References: Li, De, Xu, Studer, Samet, Goldstein 2017, "Training Quantized Nets: A Deeper Understanding",
arXiv:1706.02379; Gupta et al. 2015, arXiv:1502.02551 (SR); Courbariaux et al. 2015, arXiv:1511.00363 (BC).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

Mode = Literal["deterministic", "stochastic", "binary-connect"]
"""R, SR and BC."""


@dataclass(frozen=True)
class Grid:
    """Evenly spaced weights ``offset + Δ·n``, n an integer, within ±limit.

    Args:
        step: Δ, positive.
        limit: largest magnitude, or ``None`` for no bound; weights beyond go to the last grid point within.
        offset: shifts the grid: with half a step it has no zero.

    Raises:
        ValueError: a step that is not positive and finite, or a limit that leaves no grid point.
    """

    step: float
    limit: float | None = None
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step) and self.step > 0):
            raise ValueError(f"step must be positive and finite, got {self.step}")
        if not math.isfinite(self.offset):
            raise ValueError(f"offset must be finite, got {self.offset}")
        lowest, highest = self._bounds()
        if not lowest <= highest:
            raise ValueError(
                f"limit must leave at least one grid point of step {self.step}, got {self.limit}"
            )

    @classmethod
    def binary(cls, scale: float = 1.0) -> Grid:
        """Return the two points ±scale: ``nearest`` is then ``scale·sign(w)``, with sign(0) = +1."""
        return cls(step=2 * scale, limit=scale, offset=-scale)

    def nearest(self, weight: Tensor) -> Tensor:
        """Return ``Q_d(w) = sign(w)·Δ·⌊|w|/Δ + ½⌋``, clipped, with w measured from the offset.

        Args:
            weight: any shape, floating point.
        """
        ratio = self._ratio(weight)
        return self._point(torch.sign(ratio) * torch.floor(ratio.abs() + 0.5), weight.dtype)

    def stochastic(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return ``Q_s(w) = Δ·(⌊w/Δ⌋ + 1)`` with probability ``w/Δ − ⌊w/Δ⌋``, else ``Δ·⌊w/Δ⌋``, clipped.

        Its mean is w (within the limit), and a weight on the grid stays where it is.

        Args:
            weight: any shape, floating point; measured from the offset.
            generator: source of randomness on the weight's device; ``None`` takes torch's default one.
        """
        ratio = self._ratio(weight)
        below = torch.floor(ratio)
        draws = torch.rand(ratio.shape, dtype=ratio.dtype, device=ratio.device, generator=generator)
        rounded = self._point(below + (draws < ratio - below), weight.dtype)
        # w/Δ of a grid point is an integer only up to rounding: without this it would sometimes move.
        nearest = self.nearest(weight)
        return torch.where(nearest == weight, nearest, rounded)

    def _ratio(self, weight: Tensor) -> Tensor:
        """Return (w − offset)/Δ in float32 or wider."""
        return (weight.to(torch.promote_types(weight.dtype, torch.float32)) - self.offset) / self.step

    def _point(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the grid points of integer indices, clipped to the limit."""
        lowest, highest = self._bounds()
        return (index.clamp(lowest, highest) * self.step + self.offset).to(dtype)

    def _bounds(self) -> tuple[float, float]:
        """Return the first and last index within the limit."""
        if self.limit is None:
            return -math.inf, math.inf
        # 0.3/0.1 is just below 3: a limit that is meant to be a grid point is one.
        slack = 1e-9
        return (
            math.ceil((-self.limit - self.offset) / self.step - slack),
            math.floor((self.limit - self.offset) / self.step + slack),
        )


class Rounding:
    """Keeps parameters on a grid through an optimizer's steps.

    ::

        rounding = Rounding(model.parameters(), optimizer, 0.1, mode="stochastic")
        for batch in data:
            loss(model, batch).backward()
            optimizer.step()  # and rounds
            optimizer.zero_grad()
        print(rounding.changed_since_start / rounding.weights)

    The weights are rounded once at the start, by the same rule as later. Rounding happens in hooks of the
    optimizer's step, so that any torch optimizer, scheduler and gradient clipping work unchanged. (A closure
    given to ``optimizer.step`` sees, with ``"binary-connect"``, the real weights.)

    Args:
        params: parameters to keep on the grid, all of them the optimizer's; its others train as usual.
        optimizer: any torch optimizer.
        grid: Δ, for the grid Δ·n, or a :class:`Grid`. With a limit, BC clips its real weights to it as well.
        mode: ``"deterministic"`` (R), ``"stochastic"`` (SR) or ``"binary-connect"`` (BC).
        generator: source of randomness for SR, on the parameters' device; ``None`` takes torch's default one.
            In distributed training give each process one with the same seed, else their weights drift apart.

    Attributes:
        weights: number of weights kept on the grid.

    Raises:
        ValueError: no parameters, one that is not the optimizer's, a grid without points, or an unknown mode.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        optimizer: Optimizer,
        grid: Grid | float,
        *,
        mode: Mode = "stochastic",
        generator: torch.Generator | None = None,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(map(repr, get_args(Mode)))}, got {mode!r}")
        self.grid = grid if isinstance(grid, Grid) else Grid(grid)
        self.mode = mode
        self._params = list(params)
        self._generator = generator
        if not self._params:
            raise ValueError("params must hold at least one parameter, got none")
        owned = {id(param) for group in optimizer.param_groups for param in group["params"]}
        for position, param in enumerate(self._params):
            if id(param) not in owned:
                raise ValueError(
                    f"params[{position}], of shape {tuple(param.shape)}, is not one of the optimizer's: "
                    "no step would change it"
                )
        self.weights = sum(param.numel() for param in self._params)
        self._real = [param.detach().clone() for param in self._params] if mode == "binary-connect" else []
        self._round_params()
        self._start = [param.detach().clone() for param in self._params]
        self._before = [tensor.clone() for tensor in self._start]
        self._changed: list[Tensor] = []
        self._hooks = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        )

    @property
    def changed_last_step(self) -> int:
        """Number of weights that the last step moved to another grid point; 0 before the first."""
        return sum(int(count) for count in self._changed)

    @property
    def changed_since_start(self) -> int:
        """Number of weights that are on another grid point now than at the start."""
        return sum(int(count) for count in _count_changed(self._params, self._start))

    def remove(self) -> None:
        """Take the hooks off the optimizer; the weights stay as they are, on the grid."""
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs besides the states of model and optimizer.

        With the default generator, torch's own random state belongs to it too: ``torch.get_rng_state()``.
        """
        return {
            "start": [tensor.clone() for tensor in self._start],
            "real": [tensor.clone() for tensor in self._real],
            "changed_last_step": self.changed_last_step,
            "generator": None if self._generator is None else self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; the model's weights are the model's to restore.

        Raises:
            ValueError: a state of other parameters, or of a run with another mode or kind of generator.
        """
        shapes = [param.shape for param in self._params]
        for key, wanted in (("start", shapes), ("real", shapes if self._real else [])):
            found = [tensor.shape for tensor in state[key]]
            if found != wanted:
                raise ValueError(
                    f"state[{key!r}] holds tensors of shapes {[tuple(shape) for shape in found]}, "
                    f"expected {[tuple(shape) for shape in wanted]}"
                )
        if (state["generator"] is None) != (self._generator is None):
            raise ValueError("the state is of a run with a generator of its own if and only if this one is")
        for mine, saved in zip(self._start + self._real, [*state["start"], *state["real"]], strict=True):
            mine.copy_(saved)
        self._changed = [torch.tensor(state["changed_last_step"])]
        if self._generator is not None:
            self._generator.set_state(state["generator"])

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for param, before in zip(self._params, self._before, strict=True):
            before.copy_(param)
        if self.mode == "binary-connect":
            # The gradient was taken at the rounded weights; the update goes to the real ones.
            for param, real in zip(self._params, self._real, strict=True):
                param.copy_(real)

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.mode == "binary-connect":
            for param, real in zip(self._params, self._real, strict=True):
                real.copy_(param)
                if self.grid.limit is not None:
                    real.clamp_(-self.grid.limit, self.grid.limit)
        self._round_params()
        self._changed = _count_changed(self._params, self._before)

    @torch.no_grad()
    def _round_params(self) -> None:
        for param in self._params:
            if self.mode == "stochastic":
                param.copy_(self.grid.stochastic(param, self._generator))
            else:
                param.copy_(self.grid.nearest(param))


def _count_changed(now: list[Tensor], before: list[Tensor]) -> list[Tensor]:
    """Return one count per tensor, left on its device: reading it would wait for the device."""
    return [(new.detach() != old).sum() for new, old in zip(now, before, strict=True)]
