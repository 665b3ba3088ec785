"""Random layers and inputs, drawn by Hypothesis, and the smallest quantizer and normalisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from qlstm_core import Normalizer, Quantizer, straight_through


class Sign(Quantizer):
    """±1."""

    bits = 1

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return straight_through(weight, torch.where(weight < 0, -1.0, 1.0).to(weight))


class RowNorm(Normalizer):
    """Acts on the weight: rows of unit length."""

    def weight(self, weight: Tensor) -> Tensor:
        return weight / weight.norm(dim=-1, keepdim=True)


class StepGain(Normalizer):
    """Acts on activations, has parameters and counts steps."""

    def prepare(self, weight: Tensor) -> None:
        self.gain = torch.nn.Parameter(torch.linspace(0.5, 1.5, weight.shape[1]).to(weight))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return preactivation * self.gain / (1 + step)


class WithCell(StepGain):
    """The same on the cell path too."""

    cell = True


@dataclass(frozen=True)
class Case:
    """Arguments of a layer and of one call."""

    input_size: int
    hidden_size: int
    options: dict[str, Any]
    steps: int
    batch: int
    given_state: bool
    lengths: tuple[int, ...] | None
    batched: bool
    seed: int

    @property
    def output_size(self) -> int:
        return self.options.get("proj_size", 0) or self.hidden_size

    def input(self, dtype: torch.dtype = torch.float32) -> Tensor | PackedSequence:
        torch.manual_seed(self.seed)
        batch_first = self.options["batch_first"]
        if not self.batched:
            return torch.randn(self.steps, self.input_size, dtype=dtype, requires_grad=True)
        shape = (self.batch, self.steps) if batch_first else (self.steps, self.batch)
        x = torch.randn(*shape, self.input_size, dtype=dtype, requires_grad=True)
        if self.lengths is None:
            return x
        return pack_padded_sequence(x, list(self.lengths), batch_first=batch_first, enforce_sorted=False)

    def state(self, names: tuple[str, ...] = ("h", "c"), dtype: torch.dtype = torch.float32) -> Any:
        if not self.given_state:
            return None
        torch.manual_seed(self.seed + 1)
        cells = self.options["num_layers"] * (2 if self.options["bidirectional"] else 1)
        sizes = {"h": self.output_size, "c": self.hidden_size}
        batch = (self.batch,) if self.batched else ()
        state = tuple(
            torch.randn(cells, *batch, sizes[name], dtype=dtype, requires_grad=True) for name in names
        )
        return state if len(state) > 1 else state[0]


@st.composite
def cases(draw: st.DrawFn, *, projection: bool = True, min_batch: int = 1) -> Case:
    hidden = draw(st.integers(2, 9))
    steps, batch = draw(st.integers(1, 6)), draw(st.integers(min_batch, 5))
    kind = draw(st.sampled_from(["batched", "batched", "packed", "unbatched"]))
    if kind == "unbatched" and min_batch > 1:
        kind = "batched"
    options: dict[str, Any] = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
    }
    if projection:
        options["proj_size"] = draw(st.sampled_from([0, 0, 1, hidden - 1]))
    lengths = None
    if kind == "packed":
        lengths = tuple(draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch)))
    return Case(
        input_size=draw(st.integers(1, 7)),
        hidden_size=hidden,
        options=options,
        steps=max(lengths) if lengths else steps,
        batch=1 if kind == "unbatched" else batch,
        given_state=draw(st.booleans()),
        lengths=lengths,
        batched=kind != "unbatched",
        seed=draw(st.integers(0, 2**31)),
    )


def run(
    module: Any, case: Case, names: tuple[str, ...] = ("h", "c"), dtype: torch.dtype = torch.float32
) -> Any:
    """Return outputs and final states, and the gradients of a random projection of both."""
    x, state = case.input(dtype), case.state(names, dtype)
    output, final = module(x, state)
    data = output.data if isinstance(output, PackedSequence) else output
    finals = (final,) if isinstance(final, Tensor) else tuple(final)
    torch.manual_seed(case.seed + 2)
    loss = sum((t * torch.randn_like(t)).sum() for t in (data, *finals))
    leaf = x.data if isinstance(x, PackedSequence) else x
    states = () if state is None else (state,) if isinstance(state, Tensor) else state
    leaves = (*module.parameters(), *([] if isinstance(x, PackedSequence) else [leaf]), *states)
    assert isinstance(loss, Tensor)
    return (data, *finals), torch.autograd.grad(loss, leaves)
