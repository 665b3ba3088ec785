"""Recurrent weights that stay on a grid of few levels through training: R, SR and BC as settings of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from qlstm_bench.config import RunConfig
from qlstm_core import RecurrentLayer
from qlstm_quant import Grid, Rounding


def grid_of(levels: int, delta: float) -> Grid:
    """Return evenly spaced levels around zero: ±Δ/2 for two, 0 and ±Δ for three.

    Args:
        levels: how many, from 2.
        delta: Δ, distance of neighbours.
    """
    return Grid(step=delta, limit=delta * (levels - 1) / 2, offset=0.0 if levels % 2 else -delta / 2)


@torch.no_grad()
def fill_grid_(weights: Iterable[Tensor], grid: Grid) -> None:
    """Scale each weight so that its largest magnitude is the grid's, in place.

    Weights that start far within the outermost levels would mostly cross zero in the first steps of BC, and
    take part in no level but the inner ones.

    Args:
        weights: any shapes.
        grid: with a limit.
    """
    assert grid.limit is not None
    for weight in weights:
        largest = weight.abs().max().clamp(min=torch.finfo(weight.dtype).tiny)
        weight.mul_(grid.limit / largest)


def make_rounding(model: nn.Module, optimizer: torch.optim.Optimizer, config: RunConfig) -> Rounding | None:
    """Put a new model's recurrent weights on the grid that the settings ask for, and keep them there.

    Args:
        model: on the device where it trains.
        optimizer: holds its parameters.
        config: gives ``rounding``, ``rounding_levels`` and ``rounding_delta``.

    Returns:
        What rounds after each of the optimizer's steps; ``None`` without rounding.

    Source: Li et al. 2017, "Training quantized nets: a deeper understanding", arXiv:1706.02379.
    """
    if config.rounding == "none":
        return None
    weights = list(_recurrent_weights(model))
    grid = grid_of(config.rounding_levels, config.rounding_delta)
    fill_grid_(weights, grid)
    # A seed that is drawn: the run's own would give the draws that the weights were made from once more.
    seed = int(torch.randint(2**62, ()))
    generator = torch.Generator(weights[0].device).manual_seed(seed)
    return Rounding(weights, optimizer, grid, mode=config.rounding, generator=generator)


def _recurrent_weights(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the matrices of every recurrent layer, of the input's side and of the recurrent one."""
    for layer in model.modules():
        if isinstance(layer, RecurrentLayer):
            for name in layer.matrices():
                yield layer.get_parameter(name)
