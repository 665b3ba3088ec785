"""Random layers that can be packed, drawn by Hypothesis, with a quantizer and a normaliser of every kind."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from qlstm_core import GRU, LSTM, BitPlanes, FactorizedLSTM, GroupedLSTM, Normalizer, Quantizer
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

    def bitplanes(self, weight, curvature=None):
        scale = weight.abs().mean((1, 2), keepdim=True)
        return BitPlanes.from_ternary(weight.sign() * (weight.abs() > 0.7 * scale), scale.squeeze(-1))

    def forward(self, weight, curvature=None):
        return self.bitplanes(weight).dense().to(weight)


class Grid(Quantizer):
    """A grid of 15 levels for each row: four planes and an offset."""

    bits = 4
    scales = 1
    per_row = True

    def bitplanes(self, weight, curvature=None):
        step = weight.abs().amax(-1) / 7
        return BitPlanes.from_uniform((weight / step.unsqueeze(-1)).round(), step, self.bits)

    def forward(self, weight, curvature=None):
        return self.bitplanes(weight).dense().to(weight)


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
def layers(draw: st.DrawFn, largest: int = 40) -> RecurrentLayer:
    family = draw(st.sampled_from([LSTM, LSTM, GRU, FactorizedLSTM, GroupedLSTM]))
    options: dict[str, Any] = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
    }
    size, hidden = draw(st.integers(1, largest)), draw(st.integers(2, largest))
    projected = family is not GRU and draw(st.booleans())
    if family is GroupedLSTM:
        most = largest // 4 - 1
        size, hidden = 4 * draw(st.integers(1, most)), 4 * draw(st.integers(2, most))
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
