"""How the weights of a recurrent layer start, by name, as torch.nn.init has it for tensors.

Each function changes a layer in place, lets its quantizers and normalisers start anew, and returns it::

    layer = qlstm_core.init.identity_(LSTM(1, 100, quantizer={"hh": "bwn"}, normalizer="layer:gain=0.1"))

:func:`data_start_` comes after them: it sets the gains of weight normalisation from one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from qlstm_core.interfaces import weight_gain
from qlstm_core.layers.prepared import StateTrace
from qlstm_core.layers.stack import RecurrentLayer, check_recurrent, record_states
from qlstm_core.layers.weights import suffix_of

Layer = TypeVar("Layer", bound=RecurrentLayer)

_MOST_PASSES = 30
_TOLERANCE = 0.01


def torch_(layer: Layer) -> Layer:
    """Draw weights and biases from U(−1/√hidden, 1/√hidden), as torch.nn.LSTM and a new layer do.

    Args:
        layer: any recurrent layer; its ``initial_bound`` may say otherwise for some weights.
    """
    check_recurrent("torch_", layer)
    layer.reset_parameters()
    return layer


def orthogonal_(layer: Layer) -> Layer:
    """Draw orthogonal weights; biases 0, but 1 for a forget gate.

    The matrices W of all gates of one side, one below the other, have orthonormal columns, WᵀW = I, or
    orthonormal rows where there are fewer of these. Groups, factors and the projection are drawn each for
    itself.

    Args:
        layer: any recurrent layer.

    Source: the code of Ardakani et al. 2019, arXiv:1809.11086.
    """

    def fill(key: str, matrices: Tensor, inputs: int) -> None:
        _orthogonal(matrices)

    check_recurrent("orthogonal_", layer)
    return _start(layer, fill)


def identity_(layer: Layer) -> Layer:
    """Let the candidate's recurrent matrix be the identity, and draw the rest as :func:`orthogonal_` does.

    The candidate is what a step proposes for the state: gate g of an LSTM, n of a GRU. The recurrent matrices
    of the other gates, one below the other, have orthonormal columns. Biases are 0, but 1 for a forget gate.

    Args:
        layer: a layer with a square recurrent matrix for each gate, groups included.

    Raises:
        ValueError: a projection, a family without such matrices, or a cell without candidate.

    Source: Cooijmans et al. 2017, arXiv:1603.09025, section 5.1; the code of Hou et al. 2019 for MNIST.
    """
    check_recurrent("identity_", layer)
    cell = layer.cell
    if not cell.candidate:
        raise ValueError(f"identity_: cell {cell.name!r} does not say which gate is its candidate")
    for index in range(layer.num_layers):
        _, rows, cols = layer.matrix_shapes(index).get("hh", (0, 0, 1))
        if rows != cols:
            raise ValueError(
                f"identity_: {type(layer).__name__} has no square recurrent matrix for each gate; "
                "expected an LSTM, GRU or GroupedLSTM without projection"
            )
    candidate = cell.gates.index(cell.candidate)

    def fill(key: str, matrices: Tensor, inputs: int) -> None:
        if key != "hh":
            _orthogonal(matrices)
            return
        others = [gate for gate in range(len(cell.gates)) if gate != candidate]
        drawn = matrices[others]
        _orthogonal(drawn)
        matrices[others] = drawn
        nn.init.eye_(matrices[candidate])

    return _start(layer, fill)


def glorot_(layer: Layer) -> Layer:
    """Draw weights from U(−b, b) with b = √(6 / (inputs + outputs)); biases 0, but 1 for a forget gate.

    Inputs and outputs are those of the one matrix that TensorFlow's cells have for both sides and all gates
    of a layer (of a group): b = √(6 / (in + out + gates · rows)). Factors and the projection are matrices of
    their own.

    Args:
        layer: any recurrent layer.

    Source: Glorot and Bengio 2010; the code of Kuchaiev and Ginsburg 2017, arXiv:1703.10722.
    """

    def fill(key: str, matrices: Tensor, inputs: int) -> None:
        bound = math.sqrt(6 / (inputs + matrices.shape[0] * matrices.shape[1]))
        nn.init.uniform_(matrices, -bound, bound)

    check_recurrent("glorot_", layer)
    return _start(layer, fill)


INITIALIZERS: Mapping[str, Callable[[Any], Any]] = {
    "torch": torch_,
    "identity": identity_,
    "orthogonal": orthogonal_,
    "glorot": glorot_,
}
"""The starts of weights by the names that users type."""


Fill = Callable[[str, Tensor, int], object]
"""Takes the key of a weight, its matrices (those of one group), ``(gates, rows, cols)``, which it writes in
place, and how many inputs these have together with the matrices of the other side."""


def _start(layer: Layer, fill: Fill) -> Layer:
    """Start weights by ``fill``, biases from 0 or 1, and all that depends on weights from them."""
    for index, direction in layer.layer_directions():
        suffix = suffix_of(index, direction)
        for key in layer.matrix_shapes(index):
            layer.fill_(f"weight_{key}{suffix}", partial(_fill_weight, layer, index, key, fill))
        for name in layer.bias_names:
            layer.fill_(name + suffix, partial(_fill_bias, layer, index, name))
    layer.prepare_from_weights()
    return layer


def _fill_weight(layer: RecurrentLayer, index: int, key: str, fill: Fill, weight: Tensor) -> None:
    """Fill one weight, the matrices of each group by themselves."""
    shapes, groups = layer.matrix_shapes(index), layer.groups_of(index)
    sides = sum(shapes[side][2] for side in ("ih", "hh") if side in shapes)
    shape = shapes[key]
    inputs = sides if key in ("ih", "hh") else shape[2]
    grouped = shape[0] == groups * len(layer.cell.gates)
    for matrices in weight.view(shape).chunk(groups if grouped else 1):
        fill(key, matrices, inputs)


def _fill_bias(layer: RecurrentLayer, index: int, name: str, bias: Tensor) -> None:
    """Fill one bias with zeros, and with ones for a forget gate where it is the first of two."""
    bias.zero_()
    gates, forget = layer.cell.gates, layer.cell.forget
    if name == "bias_ih" and forget:
        bias.view(layer.groups_of(index), len(gates), -1)[:, gates.index(forget)] = 1


def _orthogonal(matrices: Tensor) -> None:
    """Let matrices ``(gates, rows, cols)``, one below the other, have orthonormal columns, or rows."""
    # Half precision has no orthogonalisation.
    wide = torch.promote_types(matrices.dtype, torch.float32)
    stacked = torch.empty(matrices.flatten(0, 1).shape, dtype=wide, device=matrices.device)
    matrices.copy_(nn.init.orthogonal_(stacked).view_as(matrices))


@torch.no_grad()
def data_start_(layer: Layer, input: Tensor | PackedSequence, hx: Any = None) -> Layer:
    """Start the gains of weight normalisation from one batch: pre-activations of unit variance.

    For each unit of each gate, μ and σ are mean and standard deviation of a side's pre-activation over the
    batch and its steps. Gains become g/σ, so that every side's pre-activations have unit variance. The bias
    is lowered by the μ/σ of the input's side, which then varies about what the bias was before: 0 after
    :func:`orthogonal_`, say, and 1 in its forget gates. (The paper's biases start from nothing.) Layers are
    started one after the other, each on what the started ones below it give.

    A feed-forward layer needs one pass, and so does the input's side of a recurrent one. But what the
    recurrent side sees depends on its own gains: after that pass it is measured again and again, and its
    gains become g/√σ each time, until no σ is more than 1 % from 1: some ten times, and at most 30 where a
    state remembers for long. (With g/σ they overshoot, and may not settle.) Its mean stays what it is, since
    it would have to be found in the same way and is not always there to be found.

    A unit whose pre-activations are all the same, as those of a row of zeros, keeps its gain. Normalisers of
    activations need no such start, and are left as they are: theirs is in each call. The layer runs in the
    mode that it is in, dropout and running statistics included.

    Args:
        layer: a layer whose normaliser acts on weights and has a ``gain``, as ``weight`` does, on one side at
            least.
        input: one batch, as for the layer's call.
        hx: initial state, likewise.

    Raises:
        TypeError: another kind of layer.
        ValueError: no normaliser of the layer has such a gain, or an input that is empty or not finite.

    Source: Salimans and Kingma 2016, arXiv:1602.07868, section 3.
    """
    check_recurrent("data_start_", layer)
    rows = input.data if isinstance(input, PackedSequence) else input
    if rows.numel() == 0 or not rows.isfinite().all():
        raise ValueError("data_start_: the input is empty, or has numbers that are not finite")
    if all(_gain(layer, key) is None for key in layer.normalizers):
        raise ValueError(
            "data_start_ sets the gains of weight normalisation, and this layer has none: "
            "expected normalizer 'weight' on one side at least"
        )
    for index in range(layer.num_layers):
        for count in range(_MOST_PASSES):
            with record_states(layer) as traces:
                layer(input, hx)
            here = [trace for trace in traces if trace.layer == index]
            if count == 0:
                for trace in here:
                    _start_input_side(layer, trace)
            elif max([_approach_recurrent_side(layer, trace) for trace in here]) <= _TOLERANCE:
                break
    return layer


def _gain(layer: RecurrentLayer, key: str) -> nn.Parameter | None:
    """Return the gain that the weight of a side is proportional to, where its normaliser has one."""
    return weight_gain(layer.normalizers[key]) if key in layer.normalizers else None


def _start_input_side(layer: RecurrentLayer, trace: StateTrace) -> None:
    """Give the input's side of one layer and direction unit variance, about the bias as it is."""
    suffix = suffix_of(trace.layer, trace.direction)
    gain, bias = _gain(layer, f"ih{suffix}"), trace.prepared.bias_ih
    if gain is None:
        return
    deviation, mean = _statistics(trace.x, trace.prepared.groups)
    factor = 1 / deviation
    gain.mul_(factor)
    if bias is not None:
        lowered = bias - (mean - bias) * factor
        layer.fill_(f"bias_ih{suffix}", lambda tensor: tensor.copy_(lowered.flatten()))


def _approach_recurrent_side(layer: RecurrentLayer, trace: StateTrace) -> float:
    """Bring the recurrent side nearer to unit variance; return how far from 1 a deviation was, at most."""
    gain = _gain(layer, f"hh{suffix_of(trace.layer, trace.direction)}")
    if gain is None:
        return 0.0
    deviation, _ = _statistics(trace.r, trace.prepared.groups)
    gain.mul_(deviation.rsqrt())
    return float((deviation - 1).abs().max())


def _statistics(preactivations: Sequence[Tensor], groups: int) -> tuple[Tensor, Tensor]:
    """Return standard deviation and mean of each unit over sequences and steps, as normalisers see units.

    A unit whose values are all the same counts as one of deviation 1.

    Args:
        preactivations: of each step, ``(batch, gates, hidden)``.
        groups: number of groups that the hidden units are split into.

    Returns:
        Each ``(groups · gates, units of a group)``, float64.
    """
    values = torch.cat(list(preactivations))
    units = values.double().unflatten(2, (groups, -1)).transpose(1, 2).flatten(1, 2)
    deviation, mean = torch.std_mean(units, 0, correction=0)
    same = deviation <= torch.finfo(values.dtype).eps * units.abs().amax(0)
    return deviation.where(~same, 1.0), mean
