"""The fused route computes what the loop does: outputs, states, every gradient, running statistics.

Its steps run by Numba's kernels on CPUs and by torch's operations elsewhere; here by both. Chunks, and the
width of an input from which its product is kept, are as small as the shapes, so that every path is taken.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from fused_cases import CELLS, NORMALIZERS
from fused_cases import normalizer as make_normalizer
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_cases import Sign
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from qlstm_core import RecurrentLayer, readable_loop
from qlstm_core.layers.fused import function, plan, recurrent_product, tape


@contextmanager
def steps_by(library: str, chunk: int, worth_keeping: int) -> Iterator[None]:
    """Run the steps by numba or torch, in chunks of at least so many pre-activations.

    Products of inputs that have more features than ``worth_keeping`` are kept for the backward pass.
    """
    with (
        patch.object(function, "compiles", lambda: library == "numba"),
        patch.object(recurrent_product, "compiles", lambda: library == "numba"),
        patch.object(plan, "CHUNK", chunk),
        patch.object(tape, "WORTH_KEEPING", worth_keeping),
    ):
        yield


def everything(layer: RecurrentLayer, x: Any, state: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return outputs, final states and running statistics; and the gradients of all that has one."""
    torch.manual_seed(2)  # for dropout
    output, final = layer(x, state)
    data = output.data if isinstance(output, PackedSequence) else output
    finals = [final] if isinstance(final, torch.Tensor) else list(final)
    torch.manual_seed(1)
    loss = sum((t * torch.randn_like(t)).sum() for t in (data, *finals))
    leaves = list(layer.parameters())
    if isinstance(x, torch.Tensor) and x.is_floating_point():
        leaves.append(x)
    if state is not None:
        leaves += [state] if isinstance(state, torch.Tensor) else list(state)
    gradients = torch.autograd.grad(loss, leaves)
    return [data, *finals, *layer.buffers()], list(gradients)


def assert_fused_equals_loop(
    library: str,
    cell: str,
    normalizer: str,
    norm_cell: bool,
    kind: str,
    steps: int,
    batch: int,
    width: int,
    layers: int,
    dropout: float,
    bidirectional: bool,
    given_state: bool,
    bias: bool,
    chunk: int,
    worth_keeping: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    fused = CELLS[cell](
        2 * width,
        4 * width,
        num_layers=layers,
        dropout=dropout if layers > 1 else 0.0,
        bidirectional=bidirectional,
        bias=bias,
        quantizer=Sign(),
        normalizer=make_normalizer(normalizer, cell=norm_cell and cell != "gru", eps=0.01),
        dtype=torch.float64,
    )
    for norm in fused.normalizers.values():
        for parameter in norm.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    x: Any = torch.randn(steps, batch, 2 * width, dtype=torch.float64, requires_grad=True)
    if kind == "tokens":
        x = torch.randint(2 * width, (steps, batch))
    elif kind == "packed":
        lengths = [steps, steps, *torch.randint(1, steps + 1, (batch - 2,)).tolist()]
        x = pack_padded_sequence(x.detach(), lengths, enforce_sorted=False)
    state: Any = None
    if given_state:
        cells = layers * (2 if bidirectional else 1)
        sizes = [fused.output_size] + [fused.hidden_size] * (len(fused.cell.states) - 1)
        drawn = [torch.randn(cells, batch, n, dtype=torch.float64, requires_grad=True) for n in sizes]
        state = tuple(drawn) if len(drawn) > 1 else drawn[0]
    loop = copy.deepcopy(fused)
    assert {route.kind for route in fused.routes(tokens=kind == "tokens")} == {"fused"}
    for training in (True, False):
        with steps_by(library, chunk, worth_keeping):
            got = everything(fused.train(training), x, state)
        with readable_loop():
            expected = everything(loop.train(training), x, state)
        for mine, their in zip((*got[0], *got[1]), (*expected[0], *expected[1]), strict=True):
            torch.testing.assert_close(mine, their, rtol=1e-10, atol=1e-10)


@settings(max_examples=40)
@given(
    st.fixed_dictionaries(
        {
            "cell": st.sampled_from(sorted(CELLS)),
            "normalizer": st.sampled_from(sorted(NORMALIZERS)),
            "norm_cell": st.booleans(),
            "kind": st.sampled_from(["vectors", "tokens", "packed"]),
            "steps": st.integers(1, 9),
            "batch": st.integers(2, 19),
            "width": st.integers(1, 10),
            "layers": st.integers(1, 3),
            "dropout": st.sampled_from([0.0, 0.4]),
            "bidirectional": st.booleans(),
            "given_state": st.booleans(),
            "bias": st.booleans(),
            "chunk": st.sampled_from([1, 400, plan.CHUNK]),
            "worth_keeping": st.sampled_from([0, tape.WORTH_KEEPING]),
            "seed": st.integers(0, 9999),
        }
    )
)
def test_fused_equals_loop(drawn: dict[str, Any]) -> None:
    assert_fused_equals_loop("numba", **drawn)


@pytest.mark.parametrize("library", ["numba", "torch"])
@pytest.mark.parametrize("kind", ["vectors", "tokens", "packed"])
@pytest.mark.parametrize(
    ("cell", "normalizer"),
    [
        ("lstm", "layer"),
        ("projected", "rms"),
        ("gru", "layer"),
        ("gru", "batch-shared"),
        ("factorized", "batch-shared"),
        ("grouped", "batch-separate"),
    ],
)
def test_steps_of_either_library_equal_the_loop(cell: str, normalizer: str, kind: str, library: str) -> None:
    """Chunks of one step, normalised cells, tokens that come again, products of the input kept and not."""
    shape, worth_keeping = (5, 4, 2, 1), {"vectors": 0}.get(kind, 64)
    two_directions, given_state, bias = kind != "tokens", True, True
    assert_fused_equals_loop(
        library,
        cell,
        normalizer,
        True,
        kind,
        *shape,
        0.0,
        two_directions,
        given_state,
        bias,
        1,
        worth_keeping,
        0,
    )


@settings(max_examples=20)
@given(
    st.sampled_from(sorted(CELLS)),
    st.sampled_from(sorted(NORMALIZERS)),
    st.integers(1, 12),
    st.integers(3, 20),
    st.integers(4, 24),
    st.integers(0, 9999),
)
def test_fused_equals_loop_in_float32(
    cell: str, normalizer: str, steps: int, batch: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    fused = CELLS[cell](
        2 * width, 4 * width, quantizer=Sign(), normalizer=make_normalizer(normalizer, eps=0.01)
    )
    loop = copy.deepcopy(fused)
    x = torch.randn(steps, batch, 2 * width, requires_grad=True)
    got = everything(fused, x, None)
    with readable_loop():
        expected = everything(loop, x, None)
    for mine, their in zip((*got[0], *got[1]), (*expected[0], *expected[1]), strict=True):
        scale = their.abs().max().item()
        torch.testing.assert_close(mine, their, rtol=0, atol=1e-5 * max(scale, 1e-3))
