"""What holds for the values of a cell's layers: states, sequences, layers, quantizers and normalisers.

Every check takes a family: a subclass of RecurrentLayer, or a function that is called like one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from qlstm_core.interfaces import Normalizer, Quantizer, straight_through
from qlstm_core.layers import Cell, RecurrentLayer, readable_loop, record_states
from qlstm_core.layers.weights import suffix_of
from qlstm_core.testing.assertions import require, require_close, require_finite, skip
from qlstm_core.testing.inputs import MODES, normal, seeded

Family = Callable[..., RecurrentLayer]
Result = tuple[Any, tuple[Tensor, ...]]
"""Output and final states."""

SIZES = ((8, 12), (512, 512))
"""Features and units: the second for families that need more, such as an F-LSTM of rank 512."""
PROJECTED = 4
LENGTHS = (6, 4, 4, 1)
"""Steps of each sequence of a batch; at the end one is alive alone."""
STEPS, BATCH = LENGTHS[0], len(LENGTHS)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Sums are rounded in another order."""


class Halves(Quantizer):
    """±0.5: few levels that any weight differs from."""

    bits = 1

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        """Return ±0.5."""
        return straight_through(weight, torch.where(weight < 0, -0.5, 0.5).to(weight))


class Triple(Normalizer):
    """Pre-activations three times as large; keeps the steps that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        """Return ``3 x``."""
        self.steps.append(step)
        return 3 * preactivation


class TripleWeight(Normalizer):
    """Weights three times as large."""

    def weight(self, weight: Tensor) -> Tensor:
        """Return ``3 W``."""
        return 3 * weight


def build(family: Family, *, seed: int = 0, **options: Any) -> RecurrentLayer:
    """Return a layer of the first sizes that the family takes, in float64 unless ``options`` say otherwise.

    Raises:
        ValueError: the family's own, for the last sizes.
    """
    options = {"dtype": torch.float64, "device": "cpu"} | options
    with seeded(seed):
        for sizes in SIZES[:-1]:
            try:
                return family(*sizes, **options)
            except ValueError:
                continue
        return family(*SIZES[-1], **options)


def input_of(layer: RecurrentLayer, *, seed: int = 1) -> Tensor:
    """Return an input, ``(steps, batch, features)``, of the layer's dtype."""
    return normal((STEPS, BATCH, layer.input_size), seed=seed, dtype=layer.dtype)


def packed(x: Tensor) -> PackedSequence:
    """Return an input as sequences of ``LENGTHS``."""
    return pack_sequence([x[:length, k] for k, length in enumerate(LENGTHS)])


def state_of(layer: RecurrentLayer, *, seed: int = 2) -> tuple[Tensor, ...]:
    """Return initial states in (0, 1), as one may divide by."""
    count = layer.num_layers * layer.num_directions
    sizes = [layer.output_size if name == "h" else layer.hidden_size for name in layer.cell.states]
    shapes = [(count, BATCH, size) for size in sizes]
    return tuple(normal(shape, seed=seed, dtype=layer.dtype).sigmoid() for shape in shapes)


def call(layer: RecurrentLayer, x: Any, state: tuple[Tensor, ...] | None = None) -> Result:
    """Return output and final states, the states as a tuple whatever their number."""
    given = state if state is None or len(state) > 1 else state[0]
    output, final = layer(x, given)
    return output, (final,) if isinstance(final, Tensor) else tuple(final)


def weighted_sum(result: Result) -> Tensor:
    """Return a sum of all that a call gave, with random weights: a loss that depends on every element."""
    output = result[0].data if isinstance(result[0], PackedSequence) else result[0]
    terms = [(t * normal(tuple(t.shape), seed=3, dtype=t.dtype)).sum() for t in (output, *result[1])]
    return torch.stack(terms).sum()


def part(state: tuple[Tensor, ...], index: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Return the states of one layer and direction (``dim`` 0), or of one sequence (1)."""
    return tuple(s.narrow(dim, index, 1) for s in state)


def require_near(found: Tensor, expected: Tensor, message: str) -> None:
    """Raise AssertionError unless values agree but for the order of sums."""
    largest = 1 + float(expected.detach().abs().max())
    require_close(found, expected, message, tolerance=TOLERANCE[expected.dtype] * largest)


def require_same(found: Result, expected: Result, how: str, names: tuple[str, ...]) -> None:
    """Raise AssertionError unless outputs and final states agree; ``how`` opens the message."""
    output, wanted = (y.data if isinstance(y, PackedSequence) else y for y in (found[0], expected[0]))
    require_near(output, wanted, f"{how}, the output is another")
    for name, state, other in zip(names, found[1], expected[1], strict=True):
        require_near(state, other, f"{how}, the final {name} is another")


def check_declarations(family: Family) -> None:
    """It gives a RecurrentLayer with a Cell, and a weight for each of its ``matrix_shapes``."""
    layer = build(family)
    require(isinstance(layer, RecurrentLayer), f"it gives a {type(layer).__name__}, not a RecurrentLayer")
    require(isinstance(layer.cell, Cell), f"cell must be a Cell, got {layer.cell!r}")
    parameters = dict(layer.named_parameters())
    for index, direction in layer.layer_directions():
        for key, (gates, rows, cols) in layer.matrix_shapes(index).items():
            name, expected = f"weight_{key}{suffix_of(index, direction)}", (gates * rows, cols)
            require(name in parameters, f"matrix_shapes has {key!r}, and there is no parameter {name!r}")
            found = tuple(parameters[name].shape)
            require(found == expected, f"{name} is {found}, but matrix_shapes makes it {expected}")
    sides = {"ih", "hh"} & set(layer.matrix_shapes(0))
    for key in sides:
        gates, rows, _ = layer.matrix_shapes(0)[key]
        needed = len(layer.cell.gates) * layer.hidden_size
        require(
            gates * rows == needed,
            f"weight {key!r} has {gates * rows} rows, but {len(layer.cell.gates)} gates of "
            f"{layer.hidden_size} units need {needed}",
        )


def check_arguments(family: Family) -> None:
    """It takes the arguments that every recurrent layer takes, and keeps to them."""
    for options in (
        {"num_layers": 2, "dropout": 0.25},
        {"bias": False},
        {"batch_first": True},
        {"bidirectional": True},
        {"dtype": torch.float32},
        {"quantizer": Halves()},
        {"normalizer": Triple()},
        {"state_quantizer": Halves()},
    ):
        layer = build(family, **options)
        for name in set(options) - {"quantizer", "normalizer", "state_quantizer"}:
            found, expected = getattr(layer, name), options[name]
            require(found == expected, f"with {name}={expected!r}, the layer's {name} is {found!r}")
        for name, modules in (("quantizer", layer.quantizers), ("normalizer", layer.normalizers)):
            require(len(modules) > 0 or name not in options, f"the layer has no {name}, though one is given")
    require(
        all("bias" not in name for name, _ in build(family, bias=False).named_parameters()),
        "with bias=False, the layer has a bias",
    )


def check_state_shapes(family: Family) -> None:
    """Outputs and states have torch's shapes, and are finite, batched or not, in float32 and float64."""
    for options in ({}, {"num_layers": 2, "bidirectional": True}, {"dtype": torch.float32}):
        layer = build(family, **options)
        x = input_of(layer)
        output, final = call(layer, x)
        count = layer.num_layers * layer.num_directions
        expected = {"the output": (STEPS, BATCH, layer.num_directions * layer.hidden_size)}
        expected |= {f"the final {name}": (count, BATCH, layer.hidden_size) for name in layer.cell.states}
        for (name, shape), value in zip(expected.items(), (output, *final), strict=True):
            require(tuple(value.shape) == shape, f"{name} is {tuple(value.shape)} instead of {shape}")
            require(value.dtype == layer.dtype, f"{name} is {value.dtype} instead of {layer.dtype}")
            require_finite(value, name)
        alone, state = call(layer, x[:, 0])
        for (name, shape), value in zip(expected.items(), (alone, *state), strict=True):
            found, unbatched = tuple(value.shape), (shape[0], shape[2])
            require(found == unbatched, f"unbatched, {name} is {found} instead of {unbatched}")


def check_projection(family: Family) -> None:
    """``proj_size`` is refused, or, where the cell declares a projection, h has that many features."""
    cell = build(family).cell
    if not cell.projection:
        try:
            build(family, proj_size=PROJECTED)
        except ValueError:
            return
        raise AssertionError("cell.projection is False, but proj_size is accepted")
    try:
        layer = build(family, proj_size=PROJECTED)
    except ValueError as error:  # the cell could, but not with these maps
        skip(f"proj_size is refused: {error}")
    output, final = call(layer, input_of(layer), state_of(layer))
    sizes = [PROJECTED, *(PROJECTED if name == "h" else layer.hidden_size for name in cell.states)]
    for name, value, size in zip(("the output", *cell.states), (output, *final), sizes, strict=True):
        found = value.shape[-1]
        require(found == size, f"with proj_size={PROJECTED}, {name} has {found} features instead of {size}")


def check_step_equals_sequence(family: Family) -> None:
    """A sequence in one call equals its steps one by one, with the state carried on."""
    layer = build(family, num_layers=2)
    x, state = input_of(layer), state_of(layer)
    outputs, carried = [], state
    for step in x:
        output, carried = call(layer, step.unsqueeze(0), carried)
        outputs.append(output)
    message = "one step after the other instead of in one call"
    require_same((torch.cat(outputs), carried), call(layer, x, state), message, layer.cell.states)


def check_calls_independent(family: Family) -> None:
    """A call leaves nothing behind for the next one, in training and in ``eval()``."""
    for mode, training in MODES.items():
        layer = build(family).train(training)
        first = call(layer, input_of(layer))
        call(layer, input_of(layer, seed=7)[:2])
        message = f"in {mode}, called again"
        require_same(call(layer, input_of(layer)), first, message, layer.cell.states)


def check_packed_equals_padded(family: Family) -> None:
    """In a PackedSequence each sequence gives what it gives alone, in both directions."""
    layer = build(family, num_layers=2, bidirectional=True)
    x, state = input_of(layer), state_of(layer)
    output, final = call(layer, packed(x), state)
    for k, (length, own) in enumerate(zip(LENGTHS, unpack_sequence(output), strict=True)):
        alone = call(layer, x[:length, k : k + 1], part(state, k, 1))
        found = own.unsqueeze(1), part(final, k, 1)
        how = f"packed with longer or shorter ones, for a sequence of {length} steps"
        require_same(found, alone, how, layer.cell.states)


def check_sequences_independent(family: Family) -> None:
    """Changing one sequence of a batch, and its state, changes no other."""
    layer = build(family)
    x, state = input_of(layer), state_of(layer)
    before, final = call(layer, x, state)
    x[:, 1] = input_of(layer, seed=9)[:, 1]
    for values, other in zip(state, state_of(layer, seed=10), strict=True):
        values[:, 1] = other[:, 1]
    after, changed = call(layer, x, state)
    others = [0, 2, 3]
    found, expected = (
        (y[:, others], tuple(s[:, others] for s in f)) for y, f in ((after, changed), (before, final))
    )
    require_same(found, expected, "with another sequence beside it", layer.cell.states)


def check_tokens(family: Family) -> None:
    """Integer tokens give what one-hot vectors give."""
    layer = build(family, num_layers=2)
    tokens = (7 * torch.arange(STEPS).unsqueeze(1) + torch.arange(BATCH)) % layer.input_size
    vectors = nn.functional.one_hot(tokens, layer.input_size).to(layer.dtype)
    require_same(
        call(layer, tokens), call(layer, vectors), "for tokens instead of one-hot vectors", layer.cell.states
    )


def check_layers_and_directions(family: Family) -> None:
    """Two layers are one on top of the other; the reverse direction is the forward one, read backwards."""
    both = build(family, bidirectional=True)
    x, state = input_of(both), state_of(both)
    output, final = call(both, x, state)
    for direction in (0, 1):
        one = build(family)
        _copy(both, one, (0, direction))
        y, last = call(one, x.flip(0) if direction else x, part(state, direction))
        own = output.chunk(2, -1)[direction]
        found = own.flip(0) if direction else own, part(final, direction)
        how = f"in direction {direction} of a bidirectional layer, instead of alone"
        require_same(found, (y, last), how, both.cell.states)
    stack = build(family, num_layers=2)
    state = state_of(stack)
    found, y, lasts = call(stack, x, state), x, []
    for index in (0, 1):
        sizes = stack.layer_input_size(index), stack.hidden_size
        one = family(*sizes, dtype=stack.dtype, device="cpu")
        _copy(stack, one, (index, 0))
        y, last = call(one, y, part(state, index))
        lasts.append(last)
    finals = tuple(torch.cat(s) for s in zip(*lasts, strict=True))
    require_same(found, (y, finals), "in two layers, instead of one layer after the other", stack.cell.states)


def _copy(source: RecurrentLayer, target: RecurrentLayer, place: tuple[int, int]) -> None:
    """Give a layer of one layer and direction the parameters of one of another's."""
    suffix = suffix_of(*place)
    own = dict(source.named_parameters())
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(own[name.replace("_l0", suffix)])


def check_routes_agree(family: Family) -> None:
    """The route that the layer takes gives outputs, states and gradients of the readable loop."""
    layer = build(family, num_layers=2, bidirectional=True)
    x, state = input_of(layer), state_of(layer)
    results = []
    for context in (nullcontext(), readable_loop()):
        with context:
            result = call(layer, packed(x), state)
        parameters = list(layer.parameters())
        gradients = torch.autograd.grad(weighted_sum(result), parameters, materialize_grads=True)
        results.append((result, gradients))
    (fast, gradients), (readable, expected) = results
    how = f"by route {layer.routes()[0].kind!r} instead of the readable loop"
    require_same(fast, readable, how, layer.cell.states)
    for (name, _), a, b in zip(layer.named_parameters(), gradients, expected, strict=True):
        require_near(a, b, f"{how}, the gradient of {name!r} is another")


def check_separate(family: Family) -> None:
    """Gates that ``separate`` does not name see the sum of their two sides alone: their biases may fold."""
    layer = build(family)
    cell = layer.cell
    if not cell.recurrent:
        skip("its gates have one side")
    shape = (BATCH, len(cell.gates), layer.hidden_size)
    x, r, shift = (normal(shape, seed=seed, dtype=layer.dtype) for seed in (1, 3, 4))
    state = tuple(s[0] for s in state_of(layer))
    for gate, letter in enumerate(cell.gates):
        if letter in cell.separate:
            continue
        moved = torch.zeros_like(shift)
        moved[:, gate] = shift[:, gate]
        for a, b in zip(cell.step(x + moved, r, *state), cell.step(x, r + moved, *state), strict=True):
            require_near(
                a, b, f"gate {letter!r} does more with its two sides than add them: name it in separate"
            )


def check_quantizers_seen(family: Family) -> None:
    """Every weight but a projection goes through its quantizer, gates apart, before it is multiplied."""
    quantized, plain = build(family, quantizer=Halves()), build(family)
    for key in quantized.matrix_shapes(0):
        require(f"{key}_l0" in quantized.quantizers, f"weight {key!r} has no quantizer")
    quantized.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.startswith("weight_"):
                parameter.copy_(torch.where(parameter < 0, -0.5, 0.5))
    x, state = input_of(plain), state_of(plain)
    how = "with a quantizer, instead of with the weights that it gives"
    require_same(call(quantized, x, state), call(plain, x, state), how, plain.cell.states)


def check_normalizers_seen(family: Family) -> None:
    """Each side goes through its normaliser: its weight before it is multiplied, or every step's products."""
    for normalizer, what in ((Triple(), "pre-activations"), (TripleWeight(), "weights")):
        plain, normalized = build(family, bias=False), build(family, bias=False, normalizer=normalizer)
        normalized.load_state_dict(plain.state_dict())
        x, state = input_of(plain), state_of(plain)
        for side in _sides(plain):
            found, expected = (_first(layer, side, x, state) for layer in (normalized, plain))
            message = f"a normaliser of {what} that triples does not triple side {side!r}"
            require_near(found, 3 * expected, message)
            norm = normalized.normalizers[f"{side}_l0"]
            if isinstance(norm, Triple):
                steps = sorted(set(norm.steps))
                require(
                    steps == list(range(STEPS)), f"side {side!r} is normalised at steps {steps} of {STEPS}"
                )


def _sides(layer: RecurrentLayer) -> Iterator[str]:
    yield "ih"
    if layer.cell.recurrent:
        yield "hh"


def _first(layer: RecurrentLayer, side: str, x: Tensor, state: tuple[Tensor, ...]) -> Tensor:
    """Return a side's pre-activations of the first step."""
    with torch.no_grad(), record_states(layer) as traces:
        call(layer, x, state)
    return (traces[0].x if side == "ih" else traces[0].r)[0]


def check_record_states(family: Family) -> None:
    """``record_states`` keeps every state, in the order of time, with the gradient of what follows."""
    layer = build(family, bidirectional=True)
    x = input_of(layer)
    with record_states(layer) as traces:
        output, final = call(layer, x)
    expected = torch.cat([torch.stack(trace.h) for trace in traces], -1)
    require_close(expected, output, "the recorded h differ from the output", tolerance=0.0)
    for trace in traces:
        for name, last in zip(layer.cell.states, final, strict=True):
            require(
                len(trace.states[name]) == STEPS, f"{len(trace.states[name])} of {STEPS} {name} are recorded"
            )
            kept = trace.states[name][0 if trace.direction else -1]
            require_close(
                kept, last[trace.direction], f"the last recorded {name} is not the final one", tolerance=0.0
            )
        first, last_step = (-1, 0) if trace.direction else (0, -1)
        states = [trace.states[name][first] for name in layer.cell.states]
        loss = trace.h[last_step].sum()
        reached = torch.autograd.grad(loss, states, allow_unused=True, retain_graph=True)
        require(
            any(gradient is not None for gradient in reached),
            "no gradient passes from the last h through any state of the first step",
        )
