"""Throws malformed sequences, shapes, dtypes, states and wrappers at layers and packed networks.

A process of its own, since what it looks for may take the process down: ``python hostile.py CASES [SEED]``
tries so many cases, and prints how many were answered, each as the readable loop answers, and how many were
refused.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from recurrent_cases import Sign
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.nn.utils.rnn import PackedSequence

from qlstm_core import GRU, LSTM, FactorizedLSTM, GroupedLSTM, Normalizer, pack, readable_loop

FEATURES, UNITS = 4, 6
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.uint8, torch.bool)


class Centred(Normalizer):
    """Layer normalisation as the contract writes it, so that the fused route takes it."""

    statistics = "features"
    eps = 1e-5
    bias = None

    def prepare(self, weight: Tensor) -> None:
        self.gain = torch.nn.Parameter(torch.ones(weight.shape[:2]).to(weight))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return self.gain * torch.nn.functional.layer_norm(
            preactivation, preactivation.shape[-1:], eps=self.eps
        )


def _layers() -> dict[str, Any]:
    torch.manual_seed(0)
    fused = {"quantizer": Sign(), "normalizer": Centred()}
    return {
        "lstm": LSTM(FEATURES, UNITS, **fused),
        "stack": LSTM(FEATURES, UNITS, 2, bidirectional=True, proj_size=2, **fused),
        "gru": GRU(FEATURES, UNITS, **fused),
        "factorized": FactorizedLSTM(FEATURES, UNITS, rank=3, **fused),
        "grouped": GroupedLSTM(FEATURES, UNITS, groups=2, **fused),
        "plain": LSTM(FEATURES, UNITS, quantizer=Sign()),
    }


LAYERS = {name: layer.eval() for name, layer in _layers().items()}
PACKED = {name: pack(layer) for name, layer in LAYERS.items()}


class Subclass(Tensor):
    """A tensor that only says that it is another."""


WRAPPERS: dict[str, Callable[[Tensor], Any]] = {
    "plain": lambda x: x,
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1) if x.dim() else x,
    "strided": lambda x: torch.stack([x, x + 1], -1)[..., 0] if x.dtype != torch.bool else x,
    "expanded": lambda x: x[:1].expand(x.shape) if x.dim() and len(x) else x,
    "leaf": lambda x: x.clone().requires_grad_(x.is_floating_point()),
    "parameter": lambda x: torch.nn.Parameter(x, requires_grad=False),
    "subclass": lambda x: x.as_subclass(Subclass),
    "negated": lambda x: torch._neg_view(x) if x.is_floating_point() else x,
    "sparse": lambda x: x.to_sparse(),
    "meta": lambda x: x.to("meta"),
    "array": lambda x: x.numpy() if x.dtype != torch.bfloat16 else x,
    "reversed array": lambda x: np.flip(x.numpy()) if x.dtype != torch.bfloat16 else x,
    "list": lambda x: x.tolist(),
}


def _vmapped(call: Callable[[Any], Any], x: Any) -> Any:
    return torch.vmap(call)(x.unsqueeze(0)).squeeze(0)


def _in_fake_mode(call: Callable[[Any], Any], x: Any) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return call(mode.from_tensor(x) if isinstance(x, Tensor) else x)


def _with_default_device(call: Callable[[Any], Any], x: Any) -> Any:
    with torch.device("meta"):
        return call(x)


def _with_batched_gradients(call: Callable[[Any], Any], x: Any) -> Any:
    x = x.detach().requires_grad_()
    y = call(x)
    torch.autograd.grad(y, x, torch.ones(2, *y.shape), is_grads_batched=True)
    return y


CONTEXTS: dict[str, Callable[[Callable[[Any], Any], Any], Any]] = {
    "none": lambda call, x: call(x),
    "no gradients": lambda call, x: torch.no_grad()(call)(x),
    "inference": lambda call, x: torch.inference_mode()(call)(x),
    "autocast": lambda call, x: torch.autocast("cpu", torch.bfloat16)(call)(x),
    "functionalize": lambda call, x: torch.func.functionalize(torch.no_grad()(call))(x),
    "vmap": _vmapped,
    "fake": _in_fake_mode,
    "default device": _with_default_device,
    "batched gradients": _with_batched_gradients,
    "trace": lambda call, x: torch.jit.trace(call, (x,), check_trace=False)(x),
}


@dataclass(frozen=True)
class Case:
    """One call: of which network, on what, in which surroundings."""

    target: str
    form: str  # padded, packed, or step
    shape: tuple[int, ...]
    tokens: bool
    dtype: torch.dtype
    largest: int
    sizes: Any
    indices: Any
    state: Any
    wrapper: str
    context: str
    packed: bool


often_right = st.sampled_from([True, True, True, False])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw calls that are right except for about one thing."""
    form = draw(st.sampled_from(["padded", "packed", "packed", "step"]))
    tokens = draw(st.sampled_from([False, False, True]))
    steps, batch = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    features = () if tokens else (FEATURES,)
    sizes = sorted(draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)), reverse=True)
    shape = {"padded": (steps, batch), "packed": (sum(sizes),), "step": (batch,)}[form] + features
    if not draw(often_right):
        shape = tuple(draw(st.lists(st.integers(0, 7), max_size=4)))
    if not draw(often_right):
        odd = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 5, 2**31, 2**62, 2**63 - 1])
        sizes = draw(st.lists(odd, max_size=6) | st.lists(st.integers(0, 4), max_size=5))
    sizes = torch.tensor(sizes, dtype=torch.int64)
    if not draw(often_right):
        sizes = draw(st.sampled_from([sizes.int(), sizes.double(), sizes.view(-1, 1), sizes[:0], [2, 2]]))
    dtype = (torch.int64 if tokens else torch.float32) if draw(often_right) else None
    indices = draw(st.none() | st.lists(st.integers(-1, 6), max_size=6))
    state = None
    if draw(st.booleans()):
        own = batch if form != "packed" else int(sizes[0]) if len(sizes) else 1
        own = min(max(own, 0), 9) if draw(often_right) else draw(st.integers(0, 6))
        state = (own, draw(st.sampled_from(FLOATS if not draw(often_right) else FLOATS[:1])))
    return Case(
        target=draw(st.sampled_from(list(LAYERS))),
        form=form,
        shape=shape,
        tokens=tokens,
        dtype=draw(st.sampled_from(INTEGERS + FLOATS)) if dtype is None else dtype,
        largest=FEATURES - 1 if draw(often_right) else draw(st.sampled_from([FEATURES, 2**31 - 1])),
        sizes=sizes,
        indices=indices if not draw(often_right) else None,
        state=state,
        wrapper="plain" if draw(often_right) else draw(st.sampled_from(list(WRAPPERS))),
        context="none" if draw(often_right) else draw(st.sampled_from(list(CONTEXTS))),
        packed=draw(st.booleans()) or form == "step",
    )


def data(case: Case) -> Tensor:
    """Return the case's input before it is wrapped."""
    generator = torch.Generator().manual_seed(0)
    if case.dtype.is_floating_point:
        return torch.randn(case.shape, generator=generator).to(case.dtype)
    x = torch.randint(FEATURES, case.shape, generator=generator)
    if x.numel():
        x.view(-1)[0] = case.largest
    return x.to(case.dtype)


def well_formed(sizes: Any, rows: int) -> bool:
    """Whether batch sizes are those of a PackedSequence, by its definition."""
    if not isinstance(sizes, Tensor) or sizes.dtype != torch.int64 or sizes.dim() != 1 or len(sizes) == 0:
        return False
    values = sizes.tolist()
    falls = all(a >= b for a, b in pairwise(values))
    return falls and all(value > 0 for value in values) and sum(values) == rows


def call(network: Any, case: Case, x: Any) -> Any:
    """Return the outputs of one call, rows or padded."""
    layer = LAYERS[case.target]
    state: Any = None
    if case.state is not None:
        batch, dtype = case.state
        cells = layer.num_layers * layer.num_directions
        sizes = [layer.output_size, layer.hidden_size][: len(layer.cell.states)]
        state = tuple(torch.full((cells, batch, size), 0.25, dtype=dtype) for size in sizes)
        state = state if len(state) > 1 else state[0]
    if case.form == "step":
        return network.step(x, state)[0]
    if case.form == "packed":
        indices = None if case.indices is None else torch.tensor(case.indices, dtype=torch.int64)
        sequence = PackedSequence(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        x = sequence._replace(data=x, batch_sizes=case.sizes, sorted_indices=indices)
        return network(x, state)[0].data
    return network(x, state)[0]


COUNTS: Counter[str] = Counter()


def attempt(case: Case) -> None:
    """Make one call: it must answer as the loop does, in as many rows as it was given, or raise."""
    x = data(case)
    network = PACKED[case.target] if case.packed else LAYERS[case.target]
    COUNTS["cases"] += 1
    try:
        wrapped = WRAPPERS[case.wrapper](x)
        found = CONTEXTS[case.context](lambda given: call(network, case, given), wrapped)
    except Exception as error:
        if type(error).__module__.startswith("numba"):
            raise AssertionError(f"Numba judged it: {case}") from error
        COUNTS["refused"] += 1
        return
    COUNTS["answered"] += 1
    if case.form == "packed":
        assert well_formed(case.sizes, len(x)), case
    given: Any = wrapped.detach() if isinstance(wrapped, Tensor) else torch.tensor(np.array(wrapped))
    mixed = case.context == "autocast"
    with readable_loop(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        if case.form == "step":
            expected = LAYERS[case.target](given.unsqueeze(0), _state_of_step(case, given))[0][0]
        else:
            expected = call(LAYERS[case.target], case, given)
    assert tuple(found.shape) == tuple(expected.shape), case
    if isinstance(found, FakeTensor):
        return
    close = 0.05 if case.packed or mixed else 1e-5
    found = torch.as_tensor(found).detach().float()
    torch.testing.assert_close(found, expected.float(), rtol=close, atol=close, msg=lambda m: f"{case}: {m}")


def _state_of_step(case: Case, x: Tensor) -> Any:
    layer = LAYERS[case.target]
    if case.state is None:
        return None
    batch = (case.state[0],) if x.dim() == (1 if case.tokens else 2) else ()
    sizes = [layer.output_size, layer.hidden_size][: len(layer.cell.states)]
    state = tuple(torch.full((layer.num_layers, *batch, size), 0.25) for size in sizes)
    return state if len(state) > 1 else state[0]


def main(count: int, start: int) -> None:
    """Try ``count`` cases and print what became of them."""
    warnings.simplefilter("ignore")
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

    @seed(start)
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=checks,
        phases=[Phase.generate],
    )  # fmt: skip
    @given(cases())
    def try_all(case: Case) -> None:
        attempt(case)

    try_all()
    print(json.dumps(COUNTS))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32))
