"""What holds inside a layer: it trains, can be copied and made on the meta device, by any route."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from qlstm_core.interfaces import Normalizer, Quantizer, straight_through
from qlstm_core.layers import LSTM, record_states
from qlstm_core.testing.assertions import (
    require,
    require_close,
    require_equal,
    require_finite,
    require_fit,
    skip,
)
from qlstm_core.testing.inputs import BATCH, MODES, SHAPE, Plugin, normal, prepared, seeded

INPUT, HIDDEN = 6, 10
LENGTHS = (7, 5, 5, 2, 1)
"""Steps of each sequence of a batch: at the end one is alive alone."""


class _Sign(Quantizer):
    """±1: what a normaliser meets in a layer with quantized weights."""

    bits = 1

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return straight_through(weight, torch.where(weight < 0, -1.0, 1.0).to(weight))


def check_quantizer_in_layer(quantizer: Quantizer) -> None:
    """An LSTM with it trains and can be copied; its routes agree; the template stays as it was."""
    _require_layer_works(quantizer, quantizer=quantizer)


def check_normalizer_in_layer(normalizer: Normalizer) -> None:
    """As check_quantizer_in_layer, on inputs, states or both, with quantized weights and without."""
    for path in (normalizer, {"ih": normalizer}, {"hh": normalizer}):
        _require_layer_works(normalizer, normalizer=path)
    _require_layer_works(normalizer, normalizer=normalizer, quantizer=_Sign())


def check_cell_path(normalizer: Normalizer) -> None:
    """With ``cell``, a copy prepared without weight normalises the cell state, one gate of all rows."""
    if not normalizer.cell:
        skip("does not normalise the cell state")
    rows = SHAPE[1]
    for dtype in (torch.float32, torch.float64):
        n = prepared(normalizer, torch.empty(1, rows, 0, dtype=dtype, device="cpu"))
        cell = normal((BATCH, 1, rows), dtype=dtype).requires_grad_()
        result = n(cell, 0)
        require_fit(result, cell, f"for a cell state {(BATCH, 1, rows)} of {dtype},")
        require_finite(result, "the normalised cell state")
        result.backward(normal(tuple(result.shape), seed=13).to(dtype))
        require(cell.grad is not None, "no gradient reaches the cell state")
    layer = LSTM(INPUT, HIDDEN, normalizer=normalizer, device="cpu")
    require("cell_l0" in layer.normalizers, "the layer does not normalise its cell state")


def _require_layer_works(template: Plugin, **options: Any) -> None:
    before = {name: tensor.clone() for name, tensor in template.state_dict().items()}
    options |= {"dtype": torch.float32}
    layer = LSTM(INPUT, HIDDEN, 2, bidirectional=True, device="cpu", **options)
    x = normal((LENGTHS[0], BATCH, INPUT), seed=1)
    _train(layer, x)
    for mode, training in MODES.items():
        twins = [copy.deepcopy(layer).train(training) for _ in range(2)]
        with torch.no_grad(), seeded(0):
            fast = twins[0](x)[0]
        with torch.no_grad(), seeded(0), record_states(twins[1]):
            readable = twins[1](x)[0]
        require_finite(fast, f"in {mode}, the output of an LSTM")
        message = f"in {mode}, an LSTM's faster route gives another output than its loop over forward()"
        require_close(fast, readable, message, tolerance=1e-4)
    on_meta = LSTM(INPUT, HIDDEN, **options, device="meta").to_empty(device="cpu")
    on_meta.reset_parameters()
    _train(on_meta, pack_sequence([normal((length, INPUT), seed=length) for length in LENGTHS]))
    after = template.state_dict()
    require(
        after.keys() == before.keys(), f"the template's state became {sorted(after)}: only copies may change"
    )
    for name, tensor in before.items():
        require_equal(after[name], tensor, f"the template's {name!r} changes: only copies may")


def _train(layer: LSTM, x: Tensor | PackedSequence) -> None:
    """Take a few steps; gradients, parameters and buffers stay finite."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        output, (h, c) = layer(x)
        output = output.data if isinstance(output, PackedSequence) else output
        (output.square().mean() + h.mean() + c.mean()).backward()
        for name, parameter in layer.named_parameters():
            if parameter.grad is not None:
                require_finite(parameter.grad, f"in an LSTM, the gradient of {name!r}")
        optimizer.step()
        layer.constrain_()
    for name, tensor in layer.state_dict().items():
        require_finite(tensor, f"after three steps of training in an LSTM, {name!r}")
