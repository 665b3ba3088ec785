"""What holds for the parameters of a cell's layers: gradients, copies, start, size, text form."""

from __future__ import annotations

import copy
import io
import math
import pickle

import torch

from qlstm_core.layers import RecurrentLayer, readable_loop
from qlstm_core.plugins import Catalogue, CellSpec
from qlstm_core.testing.assertions import require, require_equal, require_finite, skip
from qlstm_core.testing.cell_checks import (
    Family,
    Halves,
    Triple,
    build,
    call,
    input_of,
    packed,
    require_same,
    state_of,
    weighted_sum,
)
from qlstm_core.testing.gradient_checks import require_derivative
from qlstm_core.testing.inputs import seeded


def check_gradient(family: Family) -> None:
    """Every parameter gets a finite gradient, with quantized weights too, and training keeps it finite."""
    layer = build(family, num_layers=2, bidirectional=True, quantizer=Halves())
    x = input_of(layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    for step in range(3):
        optimizer.zero_grad()
        output, final = call(layer, packed(x))
        loss = output.data.square().mean()
        for state in final:
            loss = loss + state.square().mean()
        loss.backward()
        for name, parameter in layer.named_parameters():
            require(parameter.grad is not None, f"no gradient reaches {name!r}")
            assert parameter.grad is not None
            require_finite(parameter.grad, f"at step {step} of training, the gradient of {name!r}")
        optimizer.step()
        layer.constrain_()


def check_derivative(family: Family) -> None:
    """Gradients of input, states and parameters are derivatives: finite differences in float64 agree."""
    layer = build(family, bidirectional=True)
    x, state = input_of(layer), state_of(layer)
    tensors = {
        "the input": x,
        **{f"the initial {n}": s for n, s in zip(layer.cell.states, state, strict=True)},
    }
    for tensor in tensors.values():
        tensor.requires_grad_()
    tensors |= {repr(name): parameter for name, parameter in layer.named_parameters()}

    with readable_loop():
        require_derivative(lambda: weighted_sum(call(layer, x, state)), tensors)
    if layer.routes()[0].kind != "loop":
        require_derivative(lambda: weighted_sum(call(layer, x, state)), tensors)


def check_reset_parameters(family: Family) -> None:
    """Made on the meta device and drawn by ``reset_parameters``, it starts as one that is made directly."""
    direct = build(family, num_layers=2, normalizer=Triple(), quantizer=Halves())
    on_meta = build(family, num_layers=2, normalizer=Triple(), quantizer=Halves(), device="meta")
    for name, parameter in on_meta.named_parameters():
        require(parameter.is_meta, f"with device='meta', {name!r} is on {parameter.device}")
    drawn = on_meta.to_empty(device="cpu")
    with seeded(0):
        drawn.reset_parameters()
    expected = direct.state_dict()
    for name, tensor in drawn.state_dict().items():
        require_equal(
            tensor, expected[name], f"drawn by reset_parameters from the same seed, {name!r} is another"
        )


def check_state_dict(family: Family) -> None:
    """Its ``state_dict``, loaded into a fresh layer, makes it behave the same."""
    trained = _trained(family)
    buffer = io.BytesIO()
    torch.save(trained.state_dict(), buffer)
    buffer.seek(0)
    fresh = build(family, seed=5, num_layers=2, quantizer=Halves())
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    _require_same_behaviour(fresh, trained, "restored from its state_dict")


def check_deepcopy(family: Family) -> None:
    """A deep copy behaves the same and shares no tensor with the original."""
    trained = _trained(family)
    twin = copy.deepcopy(trained)
    _require_same_behaviour(twin, trained, "deep-copied")
    memory = {tensor.data_ptr() for tensor in trained.state_dict().values()}
    for name, tensor in twin.state_dict().items():
        require(
            tensor.data_ptr() not in memory, f"a deep copy shares the memory of {name!r} with the original"
        )


def check_pickle(family: Family) -> None:
    """A layer can be pickled, as ``torch.save(model)`` and worker processes do, and then behaves the same."""
    trained = _trained(family)
    _require_same_behaviour(pickle.loads(pickle.dumps(trained)), trained, "pickled and restored")


def check_storage_bytes(family: Family) -> None:
    """``storage_bytes`` counts 4 bytes a parameter, biases that add up once, quantized weights by bits."""
    plain, quantized = build(family), build(family, quantizer=Halves())
    counts = {name: parameter.numel() for name, parameter in plain.named_parameters()}
    folded = sum(count for name, count in counts.items() if name.startswith("bias_hh"))
    separate = folded * len(plain.cell.separate) // len(plain.cell.gates)
    expected = 4 * (sum(counts.values()) - folded + separate)
    size = plain.storage_bytes()
    require(type(size) is int, f"storage_bytes must be an int, got {size!r}")
    require(size == expected, f"storage_bytes is {size}, but the parameters in float32 take {expected}")
    saved = sum(
        4 * count - math.ceil(count / 8) for name, count in counts.items() if name.startswith("weight_")
    )
    found = size - quantized.storage_bytes()
    require(found == saved, f"one bit for each weight saves {saved} bytes, but storage_bytes says {found}")


def check_text_form(catalogue: Catalogue[CellSpec], text: str | None) -> None:
    """Built from its text, and from the text's canonical spelling, it behaves the same each time.

    Args:
        catalogue: the registry's cells.
        text: ``"name"`` or ``"name:option=value"``; ``None`` for a family that was given as a class.
    """
    if text is None:
        skip("given as a class: only a registered name has a text form")
    canonical = catalogue.canonical(text)
    first = build(catalogue.factory(text))
    for spelling in (text, canonical):
        again = build(catalogue.factory(spelling))
        _require_same_behaviour(again, first, f"built from {spelling!r} instead of {text!r}")
    respelt = catalogue.canonical(canonical)
    require(respelt == canonical, f"the canonical spelling of {canonical!r} is {respelt!r}")


def _trained(family: Family) -> RecurrentLayer:
    """Return a layer whose parameters are no longer those that it started with."""
    layer = build(family, num_layers=2, quantizer=Halves())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.25).add_(0.01)
    return layer


def _require_same_behaviour(layer: RecurrentLayer, reference: RecurrentLayer, how: str) -> None:
    x, state = input_of(reference), state_of(reference)
    require_same(call(layer, x, state), call(reference, x, state), how, reference.cell.states)
