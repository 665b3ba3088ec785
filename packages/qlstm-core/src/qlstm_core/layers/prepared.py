"""One layer in one direction, ready to run, and the states that it passes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from qlstm_core.interfaces import Normalizer, Quantizer
from qlstm_core.layers.cell import Cell
from qlstm_core.layers.linear import Dense, LinearMap
from qlstm_core.layers.packing import EXACT, Packing, find_packing


@dataclass(frozen=True)
class PreparedCell:
    """One layer in one direction, ready to run: made once per forward call of a layer.

    Args:
        cell: its equations.
        input, recurrent: linear maps with quantized weights; no recurrent one of a cell that has none.
        bias_ih, bias_hh: ``(gates, rows)``, added after normalisation.
        norm_ih, norm_hh, norm_cell: normalisers that act on activations, else ``None``.
        projection: ``(proj, hidden)``: ``h = W_hr h``.
        state_quantizer: quantizes h before the recurrent product.
        groups: how many independent groups the gates' rows are split into.
        products: how the fused route multiplies by weights of few levels, a name of
            :data:`qlstm_core.layers.packing.ACTIVATION_BITS`.
    """

    cell: Cell
    input: LinearMap
    recurrent: LinearMap | None
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    norm_ih: Normalizer | None = None
    norm_hh: Normalizer | None = None
    norm_cell: Normalizer | None = None
    projection: Tensor | None = None
    state_quantizer: Quantizer | None = None
    groups: int = 1
    products: str = EXACT

    @cached_property
    def packing(self) -> Packing:
        """Which weights are multiplied as packed bits; looks at their values."""
        from qlstm_core.layers.fused.recurrent_product import weights

        assert self.recurrent is not None
        recurrent = weights(self.recurrent)
        return find_packing(
            self.products,
            {
                "weight_x": self.input.matrix if isinstance(self.input, Dense) else None,
                "recurrent": recurrent[0],
                "inner": recurrent[1] if len(recurrent) == 2 else None,
                "projection": self.projection,
            },
        )


@dataclass
class StateTrace:
    """The states that one layer in one direction passed through, connected to the graph.

    Args:
        layer: index of the layer.
        direction: 0 forward, 1 reverse.
        prepared: what the layer computed with: quantized weights, normalisers, biases.
        initial: the state it began from, each ``(batch, features)``.
        input: what it received, the rows of all steps one after the other, ``(Σ batch_sizes, features)``, or
            tokens.
        batch_sizes: how many sequences are alive at each time step.
        states: by the names that the cell gives them, one ``(live batch, hidden or proj)`` tensor per time
            step, in order of time; what the next step receives.
        x: the same for the input's side of the gates, N(W_x x_t) + b, ``(live batch, gates, hidden)``.
        r: the same for the recurrent side, N(W_h h_{t−1}) + b; empty for cells that have none.
    """

    layer: int
    direction: int
    prepared: PreparedCell
    initial: tuple[Tensor, ...]
    input: Tensor
    batch_sizes: list[int]
    states: dict[str, list[Tensor]] = field(init=False)
    x: list[Tensor] = field(default_factory=list)
    r: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.states = {name: [] for name in self.prepared.cell.states}

    @property
    def h(self) -> list[Tensor]:
        """The hidden state of each step, ``(live batch, hidden or proj)``."""
        return self.states["h"]

    @property
    def c(self) -> list[Tensor]:
        """The cell state of each step, ``(live batch, hidden)``; empty for cells that have none."""
        return self.states.get("c", [])

    def keep(self, x: Tensor, r: Tensor | None, state: tuple[Tensor, ...]) -> None:
        """Add what one more step computed."""
        self.x.append(x)
        if r is not None:
            self.r.append(r)
        for values, value in zip(self.states.values(), state, strict=True):
            values.append(value)

    def reverse(self) -> None:
        """Put steps that were taken from the last to the first into the order of time."""
        for values in (self.x, self.r, *self.states.values()):
            values.reverse()

    def received(self) -> list[Tensor]:
        """Return the h that each time step received from the one processed before it, ``(live batch, …)``."""
        before = self.initial[0]
        order = range(len(self.h))
        found = [before] * len(self.h)
        for t in reversed(order) if self.direction else order:
            found[t] = before[: self.batch_sizes[t]]
            before = torch.cat([self.h[t], before[self.batch_sizes[t] :]])
        return found
