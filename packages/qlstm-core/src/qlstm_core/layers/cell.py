"""What a recurrent cell is: its gates, its states and one readable step; the LSTM's and the GRU's equations.

"Which cell is it?" is answered by comparing with a :class:`Cell`: fused steps, packed kernels and gradient
bounds are looked up by it. Whoever brings another cell describes it in one, and gets what needs no more than
its step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Step = Callable[..., tuple[Tensor, ...]]
"""``step(x, r, *state) -> state``: one time step, without ``r`` where there is no recurrent matrix.

A step that normalises its state c also takes ``norm_cell=``.
"""


@dataclass(frozen=True)
class Cell:
    """The equations of a family of recurrent layers, apart from weights, quantizers and normalisers.

    Args:
        name: of the equations, for messages and files.
        gates: a letter for each gate, in the order of the weights' rows.
        states: names of the states: first ``"h"``, which is the output and which the recurrent weight
            multiplies, of ``hidden`` features, or of the projection's; then those of any others, of
            ``hidden`` features, such as a cell state ``"c"``.
        step: one time step, as :data:`Step` has it. ``x``, ``N(W_x x_t) + b``, and ``r``, ``N(W_h h_{t−1})``,
            are ``(batch, gates, hidden)``, the states ``(batch, features)``. It returns the new states, h
            before any projection.
        operator: a function for whole sequences of this cell, with a gradient of its own, called as
            ``torch.lstm`` and ``torch.gru`` are; ``None`` where there is none. Two cells that differ in it
            alone are equal.
        separate: letters of the gates whose two sides the step does more with than add them, so that their
            two biases do not fold into one.
        candidate: letter of the gate that proposes the new state, whose recurrent matrix may start from the
            identity; ``""`` where there is none.
        forget: letter of the gate that keeps the old cell state where it is open, whose bias may start from
            1; ``""`` where there is none.
        recurrent: whether the gates depend on h_{t−1} through a matrix. Without, the layer has no recurrent
            weight, and the step takes no ``r``.
        projection: whether h may be projected: the step does nothing with h_{t−1} itself, whose features are
            then not those of the gates.

    Raises:
        ValueError, TypeError: a field that does not fit, naming it.
    """

    name: str
    gates: str
    states: tuple[str, ...]
    step: Step
    operator: Callable[..., tuple[Tensor, ...]] | None = field(default=None, compare=False)
    separate: str = ""
    candidate: str = ""
    forget: str = ""
    recurrent: bool = True
    projection: bool = False

    def __post_init__(self) -> None:
        title = f"cell {self.name!r}"
        if not isinstance(self.name, str) or not self.name or not self.name.isprintable():
            raise ValueError(f"{title}: name must be printable text, such as 'lstm'")
        if not isinstance(self.gates, str) or not self.gates or len(set(self.gates)) != len(self.gates):
            raise ValueError(f"{title}: gates must be different letters, one a gate, got {self.gates!r}")
        states = self.states
        if not isinstance(states, tuple) or not all(isinstance(s, str) and s.isidentifier() for s in states):
            raise TypeError(f"{title}: states must be a tuple of names such as ('h', 'c'), got {states!r}")
        if states[:1] != ("h",) or len(set(states)) != len(states):
            raise ValueError(f"{title}: states must be 'h', the output, and then others, got {states!r}")
        if not set(self.separate) <= set(self.gates):
            raise ValueError(f"{title}: separate must name gates of {self.gates!r}, got {self.separate!r}")
        for name, letter in (("candidate", self.candidate), ("forget", self.forget)):
            if letter and (len(letter) > 1 or letter not in self.gates):
                raise ValueError(f"{title}: {name} must be one of the gates {self.gates!r}, got {letter!r}")
        if self.operator is not None and not self.recurrent:
            raise ValueError(f"{title}: an operator is called with a recurrent weight, and there is none")
        if not callable(self.step):
            raise TypeError(f"{title}: step must be a function, got {self.step!r}")
        _check_signature(self)

    @property
    def normalizes_state(self) -> bool:
        """Whether there is a cell state c, and the step takes a normaliser for it."""
        return "c" in self.states and _takes(self.step, *self._arguments, norm_cell=None)

    @property
    def _arguments(self) -> tuple[str, ...]:
        """What a step is called with."""
        return ("x", "r", *self.states) if self.recurrent else ("x", *self.states)


def _check_signature(cell: Cell) -> None:
    """Raise TypeError for a step that cannot be called with its arguments."""
    expected = cell._arguments
    if not _takes(cell.step, *expected):
        raise TypeError(
            f"cell {cell.name!r}: its step must take ({', '.join(expected)}), "
            f"got {inspect.signature(cell.step)}"
        )


def _takes(step: Step, *arguments: Any, **keywords: Any) -> bool:
    try:
        inspect.signature(step).bind(*arguments, **keywords)
    except TypeError:
        return False
    except ValueError:  # written in C: it has no signature
        return True
    return True


def lstm_step(
    x: Tensor, r: Tensor, h: Tensor, c: Tensor, norm_cell: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``(h_t, c_t)`` of an LSTM, whose equations :class:`qlstm_core.LSTM` has.

    Args:
        x: N(W_x x_t) + b, ``(batch, 4, hidden)``.
        r: N(W_h h_{t−1}), ``(batch, 4, hidden)``.
        h: h_{t−1}, ``(batch, out)``.
        c: c_{t−1}, ``(batch, hidden)``.
        norm_cell: the normaliser of the cell state, if any.
    """
    i, f, g, o = (x + r).unbind(1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * (c if norm_cell is None else norm_cell(c)).tanh(), c


def gru_step(x: Tensor, r: Tensor, h: Tensor) -> tuple[Tensor]:
    """Return ``(h_t,)`` of a GRU, whose equations :class:`qlstm_core.GRU` has.

    Args:
        x: N(W_i x_t) + b_i, ``(batch, 3, hidden)``.
        r: N(W_h h_{t−1}) + b_h, ``(batch, 3, hidden)``.
        h: h_{t−1}, ``(batch, hidden)``.
    """
    x_reset, x_update, x_new = x.unbind(1)
    h_reset, h_update, h_new = r.unbind(1)
    reset = (x_reset + h_reset).sigmoid()
    update = (x_update + h_update).sigmoid()
    new = (x_new + reset * h_new).tanh()
    return ((1 - update) * new + update * h,)


LSTM_CELL = Cell(
    "lstm",
    gates="ifgo",
    states=("h", "c"),
    step=lstm_step,
    operator=torch.lstm,
    candidate="g",
    forget="f",
    projection=True,
)
"""Input, forget, cell and output gate, in torch's order."""

GRU_CELL = Cell(
    "gru", gates="rzn", states=("h",), step=gru_step, operator=torch.gru, separate="n", candidate="n"
)
"""Reset, update and new gate, in torch's order; the reset gate multiplies the recurrent side of n alone."""
