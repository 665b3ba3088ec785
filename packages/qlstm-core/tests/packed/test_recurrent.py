"""Packed networks against the layers they were made from, computed in float64."""

from __future__ import annotations

import copy
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from qlstm_core import GRU, LSTM, BitPlanes, FactorizedLSTM, GroupedLSTM, Normalizer, Quantizer, pack
from qlstm_core.layers import RecurrentLayer


class Sign(Quantizer):
    """±mean|w| per gate."""

    bits = 1
    scales = 1

    def forward(self, weight, curvature=None):
        return torch.where(weight < 0, -1, 1) * weight.abs().mean((1, 2), keepdim=True)


class Plain(Sign):
    """±1: no scale is stored."""

    scales = 0

    def forward(self, weight, curvature=None):
        return torch.where(weight < 0, -1, 1).to(weight) / 8


class Ternary(Quantizer):
    """0 and ±mean|w|."""

    bits = 2
    scales = 1

    def forward(self, weight, curvature=None):
        scale = weight.abs().mean((1, 2), keepdim=True)
        return weight.sign() * (weight.abs() > 0.7 * scale) * scale


class Grid(Quantizer):
    """A grid of 15 levels for each row: four planes and an offset."""

    bits = 4
    scales = 1
    per_row = True

    def forward(self, weight, curvature=None):
        step = weight.abs().amax(-1, keepdim=True) / 7
        return (weight / step).round() * step


class Free(Quantizer):
    """Two planes with scales of their own."""

    bits = 2
    scales = 2

    def bitplanes(self, weight, curvature=None):
        first = weight.abs().mean((1, 2), keepdim=True)
        left = weight - torch.where(weight < 0, -first, first)
        second = left.abs().mean((1, 2), keepdim=True)
        return BitPlanes(torch.stack([weight >= 0, left >= 0]), torch.stack([first, second]).squeeze(-1))

    def forward(self, weight, curvature=None):
        return self.bitplanes(weight).dense().to(weight)


class RowLength(Normalizer):
    """Rows of a learned length."""

    def prepare(self, weight):
        self.gain = torch.nn.Parameter(weight.norm(dim=-1) * 1.5)

    def weight(self, weight):
        return self.gain.unsqueeze(-1) * torch.nn.functional.normalize(weight, dim=-1)


class Features(Normalizer):
    """Layer normalisation."""

    statistics = "features"
    eps = 1e-3

    def prepare(self, weight):
        shape = weight.shape[:2]
        self.gain = torch.nn.Parameter(torch.linspace(0.5, 1.5, shape.numel()).view(shape).to(weight))
        self.bias = torch.nn.Parameter(torch.linspace(-0.2, 0.3, shape.numel()).view(shape).to(weight))

    def forward(self, preactivation, step):
        z = torch.nn.functional.layer_norm(preactivation, preactivation.shape[-1:], eps=self.eps)
        return z * self.gain + self.bias


class FeaturesAndCell(Features):
    """The same, of the cell state too."""

    cell = True


class RootMeanSquare(Features):
    """Without centring."""

    centered = False
    statistics = "features"

    def prepare(self, weight):
        super().prepare(weight)
        self.bias = None

    def forward(self, preactivation, step):
        square = preactivation.square().mean(-1, keepdim=True)
        return preactivation / (square + self.eps).sqrt() * self.gain


class Batch(Features):
    """Running statistics of three steps."""

    statistics = "batch"
    momentum = 0.1

    def prepare(self, weight):
        super().prepare(weight)
        shape = (3, *weight.shape[:2])
        spread = torch.linspace(-0.3, 0.4, 3 * weight.shape[:2].numel()).view(shape).to(weight)
        self.register_buffer("running_mean", spread)
        self.register_buffer("running_var", spread.abs() + 0.3)

    def forward(self, preactivation, step):
        row = min(step, 2)
        z = (preactivation - self.running_mean[row]) / (self.running_var[row] + self.eps).sqrt()
        return z * self.gain + self.bias


class BatchAndCell(Batch):
    """The same, of the cell state too."""

    cell = True


QUANTIZERS = [Sign, Plain, Ternary, Grid, Free]
NORMALIZERS = [None, None, RowLength, Features, RootMeanSquare, Batch, FeaturesAndCell, BatchAndCell]


@st.composite
def layers(draw: st.DrawFn) -> RecurrentLayer:
    family = draw(st.sampled_from([LSTM, LSTM, GRU, FactorizedLSTM, GroupedLSTM]))
    options: dict[str, Any] = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
    }
    size, hidden = draw(st.integers(1, 40)), draw(st.integers(2, 40))
    projected = family is not GRU and draw(st.booleans())
    if family is GroupedLSTM:
        size, hidden = 4 * draw(st.integers(1, 9)), 4 * draw(st.integers(2, 9))
        options["groups"] = draw(st.sampled_from([1, 2, 4, (4, 2, 4)[: options["num_layers"]]]))
        options["proj_size"] = hidden - 4 if projected else 0
    elif projected:
        options["proj_size"] = draw(st.integers(1, hidden - 1))
    if family is FactorizedLSTM:
        options["rank"] = draw(st.integers(1, 2))
        hidden = max(hidden, 3)
    keys = ["outer", "inner"] if family is FactorizedLSTM else ["ih", "hh"]
    quantizer = draw(st.sampled_from(QUANTIZERS))()
    normalizer = draw(st.sampled_from(NORMALIZERS))
    if normalizer is not None and normalizer.cell and family is GRU:
        normalizer = Features
    options["quantizer"] = draw(
        st.sampled_from([quantizer, quantizer, {keys[0]: quantizer}, dict.fromkeys([*keys, "hr"], quantizer)])
        if options.get("proj_size")
        else st.sampled_from(
            [quantizer, quantizer, {keys[1]: quantizer, keys[0]: Sign()}, {keys[1]: quantizer}]
        )
    )
    if normalizer is not None:
        options["normalizer"] = draw(
            st.sampled_from([normalizer(), normalizer(), {"ih": Features(), "hh": normalizer()}])
        )
    return family(size, hidden, **options)


def reference(layer: RecurrentLayer) -> RecurrentLayer:
    """The layer in eval() and float64, with the weights as its quantizers give them in float32."""
    exact = copy.deepcopy(layer).eval()
    with torch.no_grad():
        for index, direction in exact._cells():
            suffix = f"_l{index}{'_reverse' if direction else ''}"
            for key, weight in exact.quantized_weights(index, direction).items():
                exact.get_parameter(f"weight_{key}{suffix}").copy_(weight.flatten(0, 1))
    exact.quantizers = torch.nn.ModuleDict()
    return exact.double()


def random_input(draw: st.DrawFn, layer: RecurrentLayer) -> tuple[Any, Any]:
    """An input of any kind, and an initial state or None."""
    kind = draw(st.sampled_from(["vectors", "tokens"]))
    form = draw(st.sampled_from(["batched", "batched", "unbatched", "packed"]))
    steps, batch = draw(st.integers(1, 6)), 1 if form == "unbatched" else draw(st.integers(1, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (steps,) if form == "unbatched" else (batch, steps) if layer.batch_first else (steps, batch)
    if kind == "tokens":
        x = torch.randint(layer.input_size, shape, generator=generator)
    else:
        x = torch.randn(*shape, layer.input_size, generator=generator)
    if form == "packed":
        lengths = draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
        lengths[0] = steps
        x = pack_padded_sequence(x, lengths, batch_first=layer.batch_first, enforce_sorted=False)
    state = None
    if draw(st.booleans()):
        cells = layer.num_layers * layer.num_directions
        sizes = [layer.output_size, layer.hidden_size][: len(layer.states)]
        middle = () if form == "unbatched" else (batch,)
        state = tuple(torch.randn(cells, *middle, size, generator=generator) for size in sizes)
        state = state if len(state) > 1 else state[0]
    return x, state


def in_float64(value: Any) -> Any:
    if isinstance(value, PackedSequence):
        return value._replace(data=in_float64(value.data))
    if isinstance(value, tuple):
        return tuple(in_float64(v) for v in value)
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def flat(output: Any, state: Any) -> list[torch.Tensor]:
    y = output.data if isinstance(output, PackedSequence) else output
    return [y, *(state if isinstance(state, tuple) else (state,))]


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_every_form_computes_what_the_layer_computes(data):
    layer = data.draw(layers())
    x, state = random_input(data.draw, layer)
    with torch.no_grad():
        wanted = reference(layer)(in_float64(x), in_float64(state))
    found = pack(layer, activation_bits=16)(x, state)
    assert type(found[0]) is type(wanted[0])
    for ours, exact in zip(flat(*found), flat(*wanted), strict=True):
        assert ours.shape == exact.shape
        assert ours.dtype == torch.float32
        assert torch.allclose(ours.double(), exact, rtol=0, atol=2e-3)
