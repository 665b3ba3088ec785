"""From a trained layer to a packed network: what it computes in ``eval()``, with its weights as bits."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qlstm_core.bitplanes import BitPlanes
from qlstm_core.interfaces import Normalizer, Quantizer, acts_on_weights
from qlstm_core.layers import FactorizedLSTM, RecurrentLayer, norm_contract
from qlstm_core.layers.computed_weights import recompute
from qlstm_core.layers.linear import Dense, Factored, Grouped, LinearMap
from qlstm_core.layers.prepared import PreparedCell
from qlstm_core.layers.weights import suffix_of
from qlstm_core.packed.kernels.layout import MAX_COLUMNS
from qlstm_core.packed.network import (
    PACKED_CELLS,
    Bits,
    Config,
    Floats,
    Matrix,
    Network,
    PackedCell,
    PackedNorm,
)


def _tolerance(dtype: torch.dtype) -> float:
    """Return what rounding may have cost, of a row's largest weight."""
    return max(1e-4, torch.finfo(dtype).eps)


@torch.no_grad()
def extract(layer: RecurrentLayer, *, unquantized: bool = False) -> Network:
    """Return what ``layer`` computes in ``eval()``; the layer itself stays as it is.

    Args:
        layer: any recurrent layer whose cell the kernels know.
        unquantized: take a layer without any quantized weight, too.

    Raises:
        TypeError: no recurrent layer of this package, or a family whose cell or weights are none of those
            that the kernels know.
        ValueError: nothing is quantized; a quantizer or normaliser that cannot be packed; weights that are
            not finite.
    """
    if not isinstance(layer, RecurrentLayer):
        raise TypeError(
            "pack takes an LSTM, GRU, FactorizedLSTM or GroupedLSTM of qlstm_core, "
            f"got {type(layer).__name__}"
        )
    _check_family(layer)
    if not (layer.quantizers or unquantized):
        raise ValueError(
            "nothing to pack: every weight is full precision (quantizer='none'); choose a quantizer with few "
            "bits, for example quantizer='bwn'"
        )
    if layer.state_quantizers:
        name = type(next(iter(layer.state_quantizers.values()))).__name__
        raise ValueError(f"state_quantizer {name} cannot be packed: only weights are; leave it at 'none'")
    if any(parameter.is_meta for parameter in layer.parameters()):
        raise ValueError(
            "pack needs weights, but this layer is on the meta device, which has none: "
            "layer.to_empty(device='cpu'), then load_state_dict"
        )
    # torch does not copy what a hook has computed, and which is as old as the last forward call.
    computed = {id(t): t.detach() for t in vars(layer).values() if isinstance(t, Tensor) and not t.is_leaf}
    frozen = copy.deepcopy(layer, computed).cpu().eval()
    recompute(frozen)
    cells = tuple(_cell(frozen, index, direction) for index, direction in frozen.layer_directions())
    network = Network(_config(frozen), cells)
    for (index, direction), cell in zip(network.config.cells(), cells, strict=True):
        _check_finite(cell, f"layer {index}, direction {direction}")
    return network


def _check_family(layer: RecurrentLayer) -> None:
    if type(layer).forward is not RecurrentLayer.forward:
        raise TypeError(
            f"{type(layer).__name__} has a forward of its own, which packing does not see: what it does "
            "besides belongs around the layer"
        )
    if layer.cell not in PACKED_CELLS.values():
        raise TypeError(
            f"cell {layer.cell.name!r} of {type(layer).__name__} cannot be packed yet: "
            f"the kernels know the cells {' and '.join(PACKED_CELLS)}"
        )


def _config(layer: RecurrentLayer) -> Config:
    return Config(
        cell=layer.cell,
        input_size=layer.input_size,
        hidden_size=layer.hidden_size,
        num_layers=layer.num_layers,
        bias=layer.bias,
        batch_first=layer.batch_first,
        bidirectional=layer.bidirectional,
        proj_size=layer.proj_size,
        groups=tuple(layer.groups_of(index) for index in range(layer.num_layers)),
        rank=layer.rank if isinstance(layer, FactorizedLSTM) else None,
        labels=dict(layer.labels),
    )


def _cell(layer: RecurrentLayer, index: int, direction: int) -> PackedCell:
    prepared = layer.prepared_cell(index, direction)
    suffix = suffix_of(index, direction)
    dense = layer.quantized_weights(index, direction)
    matrices = {key: _matrix(layer, key, suffix, weight) for key, weight in dense.items()}
    factors = {}
    assert prepared.recurrent is not None
    for key, linear in (("ih", prepared.input), ("hh", prepared.recurrent)):
        reweighted = key + suffix in layer.normalizers and acts_on_weights(_norm(layer, key + suffix))
        factor = _row_factor(layer, key, linear, dense, reweighted)
        if reweighted:
            factors[key] = factor
    acting = {"ih": prepared.norm_ih, "hh": prepared.norm_hh, "cell": prepared.norm_cell}
    norms = {key: _described(norm, prepared) for key, norm in acting.items() if norm is not None}
    return PackedCell(matrices, factors, norms, _bias(prepared, layer))


def _norm(layer: RecurrentLayer, key: str) -> Normalizer:
    norm = layer.normalizers[key]
    assert isinstance(norm, Normalizer)
    return norm


def _matrix(layer: RecurrentLayer, key: str, suffix: str, dense: Tensor) -> Matrix:
    """Return one quantized weight as bit planes, or as it is where it has no quantizer."""
    if key + suffix not in layer.quantizers:
        return float32_array(dense)
    quantizer = layer.quantizers[key + suffix]
    assert isinstance(quantizer, Quantizer)
    weight = getattr(layer, f"weight_{key}{suffix}").detach().view(dense.shape)
    curvature = getattr(layer, f"curvature_{key}{suffix}", None)
    return bits_of(f"weight_{key}{suffix}", weight, quantizer, curvature, dense)


def bits_of(name: str, weight: Tensor, quantizer: Quantizer, curvature: Tensor | None, dense: Tensor) -> Bits:
    """Return a quantized weight as bit planes, which must give what the layer computes with.

    Args:
        name: name of the weight, for messages.
        weight: the full-precision weight, ``(gates, rows, cols)``.
        quantizer: acts on it, in ``eval()``.
        curvature: its second moments, if there are any.
        dense: Q(W) as the layer computes it, ``(gates, rows, cols)``.

    Raises:
        ValueError: no bit planes, or others than those of Q(W); too many columns; values that are not finite.
    """
    title = f"quantizer {type(quantizer).__name__} of {name}"
    if dense.shape[-1] > MAX_COLUMNS:
        raise ValueError(f"{name} has {dense.shape[-1]} columns, at most {MAX_COLUMNS} fit")
    if not torch.isfinite(dense).all():
        raise ValueError(f"{name} holds values that are not finite")
    if not torch.isfinite(weight).all():  # rounding to levels may hide it
        raise ValueError(f"{name} holds values that are not finite: the network has diverged")
    try:
        planes = quantizer.bitplanes(weight, None if curvature is None else curvature.view_as(weight))
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"{title} has no bit planes to pack: {error}") from error
    planes = BitPlanes(
        planes.signs, planes.scales.float(), None if planes.offset is None else planes.offset.float()
    )
    off = float((planes.dense().double() - dense.double()).abs().max())
    if off > _tolerance(dense.dtype) * float(dense.abs().max()):
        raise ValueError(
            f"{title}: bitplanes() is off by {off:.2g} from what forward() returns in eval(); "
            "`qlstm check` tells more"
        )
    return Bits.of(planes, fixed=quantizer.scales == 0)


def _row_factor(
    layer: RecurrentLayer, key: str, linear: LinearMap, dense: dict[str, Tensor], reweighted: bool
) -> Floats:
    """Return what the rows of a side's weight are multiplied with, ``(segments, units)``.

    Raises:
        TypeError: a linear map that is not made of the side's matrices.
        ValueError: a normaliser of weights that does more than scale rows.
    """
    if isinstance(linear, Dense | Grouped) and set(dense) - {"hr"} == {"ih", "hh"}:
        found, given = linear.weight, dense[key]
    elif isinstance(linear, Dense | Factored) and isinstance(layer, FactorizedLSTM):
        inner = layer.inner_factor(key, dense)
        found = linear.weight if isinstance(linear, Dense) else linear.outer @ linear.inner
        given = dense["outer"] @ inner
    else:
        raise TypeError(
            f"{type(layer).__name__} multiplies with a {type(linear).__name__} that the kernels do not know; "
            "they know the weights of LSTM, GRU, FactorizedLSTM and GroupedLSTM"
        )
    tolerance = _tolerance(found.dtype)
    found, given = found.double(), given.double()
    square = given.square().sum(-1)
    factor = (found * given).sum(-1) / torch.where(square > 0, square, torch.ones_like(square))
    if not reweighted:
        factor = torch.ones_like(factor)
    off = (found - factor.unsqueeze(-1) * given).abs().amax(-1)
    if bool((off > tolerance * found.abs().amax(-1)).any()):
        name = type(layer.normalizers[f"{key}_l0"]).__name__ if reweighted else type(layer).__name__
        raise ValueError(
            f"{name} cannot be packed: it changes the quantized weight in a way that bits cannot follow; "
            "a normaliser of weights may scale its rows, g_j · W_j, as 'weight' does"
        )
    return float32_array(factor)


def _described(norm: Normalizer, prepared: PreparedCell) -> PackedNorm:
    """Return a normaliser as data.

    Raises:
        ValueError: one that does not promise to compute what the contract of ``statistics`` says.
    """
    obstacle = norm_contract.norm_obstacle(norm, prepared)
    gain, bias = norm_contract.gain_and_bias(norm)
    if obstacle is not None or gain is None:
        raise ValueError(
            f"normalizer {type(norm).__name__} cannot be packed: it {obstacle or 'has no gain'}; "
            "one may scale rows of the weight, or declare statistics 'features' or 'batch' of activations, "
            "as 'layer' does"
        )
    promise = norm_contract.Norm.of(norm)
    running = None
    if promise.running is not None:
        mean, var = promise.running
        running = (float32_array(mean), float32_array(var))
    offset = None if bias is None else float32_array(bias)
    return PackedNorm(promise.statistics, promise.centered, promise.eps, float32_array(gain), offset, running)


def _bias(prepared: PreparedCell, layer: RecurrentLayer) -> Floats | None:
    """Return the biases, those added that are only ever added."""
    if prepared.bias_ih is None:
        return None
    bias = prepared.bias_ih
    if prepared.bias_hh is not None:
        bias = bias + prepared.bias_hh
        separate = [layer.cell.gates.index(gate) for gate in layer.cell.separate]
        if separate:
            bias[separate] = prepared.bias_ih[separate]
            bias = torch.cat([bias, prepared.bias_hh[separate]])
    return float32_array(bias)


def float32_array(tensor: Tensor) -> Floats:
    """Return a tensor as a float32 array of its own."""
    return np.ascontiguousarray(tensor.detach().float().numpy()).copy()


def _check_finite(cell: PackedCell, name: str) -> None:
    arrays: dict[str, Any] = cell.tensors()
    for key, matrix in cell.matrices.items():
        arrays[f"weight_{key}"] = matrix.scales if isinstance(matrix, Bits) else matrix
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: {key} holds values that are not finite: the network has diverged")
