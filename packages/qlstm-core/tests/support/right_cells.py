"""Cells of other gates and states than LSTM and GRU that pass every check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from qlstm_core import Cell, RecurrentLayer


def elman_step(x: Tensor, r: Tensor, h: Tensor) -> tuple[Tensor]:
    return ((x + r).squeeze(1).tanh(),)


class Elman(RecurrentLayer):
    """One gate: torch.nn.RNN."""

    cell: ClassVar[Cell] = Cell("elman", gates="n", states=("h",), step=elman_step, projection=True)


def leak_step(x: Tensor, h: Tensor) -> tuple[Tensor]:
    z, new = x.unbind(1)
    return ((1 - z.sigmoid()) * h + z.sigmoid() * new,)


class Leak(RecurrentLayer):
    """The gates depend on the input alone: the minimal GRU of Feng et al. 2024, with an option.

    Args:
        slowness: subtracted from the bias of z as it starts.
    """

    cell: ClassVar[Cell] = Cell("leak", gates="zn", states=("h",), step=leak_step, recurrent=False)

    def __init__(self, *args: Any, slowness: float = 0.0, **keywords: Any) -> None:
        self.slowness = slowness
        super().__init__(*args, **keywords)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        super().reset_parameters()
        for name, bias in self.named_parameters():
            if name.startswith("bias_ih"):
                bias[: self.hidden_size] -= self.slowness


def exponential_step(
    x: Tensor, r: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z, i, f, o = (x + r).unbind(1)
    largest = torch.maximum(f + m, i)
    i, f = (i - largest).exp(), (f + m - largest).exp()
    c, n = f * c + i * z.tanh(), f * n + i
    return o.sigmoid() * c / n, c, n, largest


class Exponential(RecurrentLayer):
    """Four states: the sLSTM of Beck et al. 2024, arXiv:2405.04517, stabilised by m."""

    cell: ClassVar[Cell] = Cell(
        "exponential", gates="zifo", states=("h", "c", "n", "m"), step=exponential_step, projection=True
    )


def coupled_step(
    x: Tensor, r: Tensor, h: Tensor, c: Tensor, norm_cell: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    i, g, o, a, b = (x + r).unbind(1)
    c = (1 - i.sigmoid()) * c + i.sigmoid() * g.tanh() * a.sigmoid() + b.tanh()
    return o.sigmoid() * (c if norm_cell is None else norm_cell(c)).tanh(), c


class Coupled(RecurrentLayer):
    """Five gates and a cell state that is normalised, h projected."""

    cell: ClassVar[Cell] = Cell(
        "coupled", gates="igoab", states=("h", "c"), step=coupled_step, projection=True
    )
