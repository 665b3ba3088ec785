"""Between torch's recurrent layers and ours: weights are kept, normalisers are fitted to the float layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from qlstm_core.interfaces import Normalizer, weight_gain
from qlstm_core.layers.checks import check_kind
from qlstm_core.layers.linear import Dense
from qlstm_core.layers.norm_contract import Norm, gain_and_bias
from qlstm_core.layers.prepared import PreparedCell, StateTrace
from qlstm_core.layers.quantized import evaluating
from qlstm_core.layers.stack import RecurrentLayer, record_states
from qlstm_core.layers.templates import NormalizerLike, QuantizerLike
from qlstm_core.layers.weights import suffix_of

Batch = Tensor | PackedSequence | tuple[Any, Any]
"""An input of a layer, alone or with an initial state."""


class TorchTwin(RecurrentLayer):
    """A recurrent layer of which torch has a float one of the same equations, parameters and call."""

    twin: ClassVar[type[nn.RNNBase] | None]

    @classmethod
    @torch.no_grad()
    def from_float(
        cls,
        layer: nn.Module,
        *,
        quantizer: QuantizerLike | dict[str, QuantizerLike] = "none",
        normalizer: NormalizerLike | dict[str, NormalizerLike] = "none",
        state_quantizer: QuantizerLike = "none",
        tokens: bool = False,
        data: Batch | Iterable[Batch] | None = None,
    ) -> Self:
        """Return a layer with copies of torch's weights that starts where torch's layer is.

        Biases are kept; a normalised layer has one in place of torch's two, their sum. Without a normaliser,
        and with weight normalisation, what differs is what quantization changes. Layer and batch
        normalisation change the function: with ``data`` their gains, biases and running statistics are fitted
        (see :func:`fit_normalizers_`); without, they start as in a new layer, far from the float one.

        Example::

            layer = LSTM.from_float(trained, quantizer="bwn", normalizer="layer", data=inputs)

        Args:
            layer: a torch.nn.LSTM or GRU.
            quantizer, normalizer, state_quantizer, tokens: as for a new layer.
            data: one batch, ``(T, B, input_size)`` in the layer's own layout, or several; each alone or as a
                pair with an initial state.

        Raises:
            TypeError: a layer of another kind.
            ValueError: weights that are parametrised or pruned; a GRU's b_hn, which the reset gate
                multiplies, where no recurrent normaliser with a bias could take it.
        """
        if cls.twin is None:
            raise TypeError(_no_twin(cls))
        check_kind(
            f"{cls.__name__}.from_float", layer, cls.twin, f"a torch.nn.{cls.twin.__name__}", exact=True
        )
        assert isinstance(layer, nn.RNNBase)
        first = layer._parameters.get("weight_ih_l0")
        if first is None:
            raise ValueError(
                f"{cls.__name__}.from_float: the weights are computed from other parameters: first make them "
                "permanent (torch.nn.utils.parametrize.remove_parametrizations, or prune.remove)"
            )
        sizes = (layer.input_size, layer.hidden_size, layer.num_layers, layer.bias, layer.batch_first)
        places: dict[str, Any] = {
            "bidirectional": layer.bidirectional,
            "proj_size": layer.proj_size,
            "device": first.device,
            "dtype": first.dtype,
        }
        # Nothing that is drawn is kept: whoever counts on the generator finds it as it was.
        with torch.random.fork_rng(devices=[first.device] if first.is_cuda else []):
            new = cls(
                *sizes,
                **places,
                quantizer=quantizer,
                normalizer=normalizer,
                state_quantizer=state_quantizer,
                tokens=tokens,
            )
            float_layer = cls(*sizes, **places)
        float_layer.load_state_dict(layer.state_dict())
        new.dropout = layer.dropout  # torch has warned about it
        for name, parameter in new.named_parameters(recurse=False):
            source = layer.get_parameter(name)
            parameter.copy_(source).requires_grad_(source.requires_grad)
        new.prepare_from_weights()
        if data is not None and new.normalizers:
            fit_normalizers_(new, float_layer, data)
        if new.bias_names == ("bias_ih",):
            _add_recurrent_biases(new, layer)
        return new.train(layer.training)

    @torch.no_grad()
    def to_float(self) -> nn.Module:
        """Return torch's layer with the weights that this one computes with in ``eval()``.

        Weights are quantized and normalised; batch normalisation with statistics that all steps share is
        folded into weights and biases.

        Raises:
            ValueError: what torch's layer cannot compute: layer normalisation, statistics for each step,
                a normalised cell state, a quantized state.
        """
        family: Any = self.twin
        if family is None:
            raise TypeError(_no_twin(type(self)))
        with evaluating(self):
            values: dict[str, Tensor] = {}
            for layer, direction in self.layer_directions():
                prepared, suffix = self.prepared_cell(layer, direction), suffix_of(layer, direction)
                self._check_float(prepared)
                for side, linear, norm, bias in (
                    ("ih", prepared.input, prepared.norm_ih, prepared.bias_ih),
                    ("hh", prepared.recurrent, prepared.norm_hh, prepared.bias_hh),
                ):
                    assert isinstance(linear, Dense)
                    weight = linear.weight
                    shift = weight.new_zeros(weight.shape[:2]) if bias is None else bias
                    if norm is not None:
                        weight, shift = _folded(norm, weight, shift)
                    values[f"weight_{side}{suffix}"] = weight.flatten(0, 1)
                    values[f"bias_{side}{suffix}"] = shift.flatten()
                if prepared.projection is not None:
                    values[f"weight_hr{suffix}"] = prepared.projection
        biased = self.bias or any(bool(values[name].any()) for name in values if name.startswith("bias"))
        twin: nn.RNNBase = family(
            self.input_size, self.hidden_size, self.num_layers, biased, self.batch_first,
            bidirectional=self.bidirectional, device="meta", dtype=self.dtype,
            **({"proj_size": self.proj_size} if self.proj_size else {}),
        )  # fmt: skip
        kept = {
            name: value.clone() for name, value in values.items() if biased or not name.startswith("bias")
        }
        twin.load_state_dict(kept, assign=True)
        twin.dropout = self.dropout
        for name, parameter in twin.named_parameters():
            own = self._parameters.get(name)
            parameter.requires_grad_(own is None or own.requires_grad)
        return twin.train(self.training)

    def _check_float(self, prepared: PreparedCell) -> None:
        obstacle = None
        if prepared.state_quantizer is not None:
            obstacle = f"state_quantizer {self.labels['state_quantizer']!r}"
        elif prepared.norm_cell is not None:
            obstacle = "a normalised cell state"
        for norm in (prepared.norm_ih, prepared.norm_hh):
            if norm is not None and not _folds(norm):
                obstacle = f"normalizer {self.labels['normalizer']!r}"
        if obstacle:
            raise ValueError(
                f"{type(self).__name__}.to_float: torch's layer cannot compute {obstacle}; "
                "weight and batch-shared normalisation can be folded into weights"
            )


def _no_twin(family: type) -> str:
    return f"torch has no float layer of the equations of {family.__name__}"


def _folds(norm: Normalizer) -> bool:
    return norm.statistics == "batch" and len(norm.get_buffer("running_mean")) == 1


def _folded(norm: Normalizer, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias that give gain ⊙ (W x − μ)/√(v + eps) + the normaliser's bias + b."""
    mean, var = (norm.get_buffer(name)[0] for name in ("running_mean", "running_var"))
    gain, shift = gain_and_bias(norm)
    factor = torch.rsqrt(var + Norm.of(norm).eps)
    factor = factor if gain is None else factor * gain
    bias = bias - mean * factor
    return weight * factor.unsqueeze(-1), bias if shift is None else bias + shift


def _add_recurrent_biases(layer: TorchTwin, source: nn.Module) -> None:
    """Add torch's bias_hh to the one bias of a normalised layer, or to its recurrent normaliser's."""
    gates = layer.cell.gates
    summed = [gate for gate, letter in enumerate(gates) if letter not in layer.cell.separate]
    apart = [gate for gate, letter in enumerate(gates) if letter in layer.cell.separate]
    for index, direction in layer.layer_directions():
        suffix = suffix_of(index, direction)
        recurrent = source.get_parameter(f"bias_hh{suffix}").view(len(gates), -1)
        layer.get_parameter(f"bias_ih{suffix}").view(len(gates), -1)[summed] += recurrent[summed]
        if not recurrent[apart].any():
            continue
        key = f"hh{suffix}"
        bias = getattr(layer.normalizers[key], "bias", None) if key in layer.normalizers else None
        if not isinstance(bias, Tensor):
            letters = ", ".join(f"b_h{gates[gate]}" for gate in apart)
            raise ValueError(
                f"{type(layer).__name__}.from_float: {letters} of torch's layer has no place in a layer with "
                f"normalizer {layer.labels['normalizer']!r}: expected none, or one with a bias of its own on "
                "the recurrent side, such as 'layer'"
            )
        bias[apart] += recurrent[apart]


# Fitting normalisers


@torch.no_grad()
def fit_normalizers_(layer: RecurrentLayer, reference: RecurrentLayer, data: Batch | Iterable[Batch]) -> None:
    """Fit a layer's normalisers so that it gives what a layer without them gives.

    The reference runs over the data. For each unit of each gate and side, p is its pre-activation W x, or
    W h with its own states, and z what the layer's normaliser makes of the quantized Q(W) x or Q(W) h before
    gain and bias. Gain and bias are the least squares of ``gain · z + bias ≈ p``; without a bias, and for
    weight normalisation, of ``gain · z ≈ p``. Running statistics are the means over the data of each step's
    mean and unbiased variance, and z is what they give in ``eval()``. The cell state's normaliser is fitted
    to the cell state. Normalisers that declare neither ``statistics`` nor a gain of their weight are left
    alone.

    Args:
        layer: the layer whose normalisers change; weights and biases stay.
        reference: a layer of the same family and sizes without normalisers.
        data: as :meth:`TorchTwin.from_float` takes it.

    Raises:
        ValueError: no batch.
    """
    batches = list(_batches(data))
    if not batches:
        raise ValueError("there is no batch in data to fit normalisers to")
    with evaluating(layer):
        if layer.needs_batch:
            _fit_running_statistics(layer, reference, batches)
        fits: dict[str, _LeastSquares] = {}
        for trace in _traces(reference, batches):
            for key, norm, steps in _quantized(layer, trace):
                fit = fits.setdefault(key, _LeastSquares(norm))
                for count, (p, target) in enumerate(steps):
                    fit.add(_standardized(norm, p, count), target)
        for fit in fits.values():
            fit.assign()


def _fit_running_statistics(
    layer: RecurrentLayer, reference: RecurrentLayer, batches: list[tuple[Any, Any]]
) -> None:
    averages: dict[str, _StepMoments] = {}
    for trace in _traces(reference, batches):
        for key, norm, steps in _quantized(layer, trace):
            if norm.statistics == "batch":
                averages.setdefault(key, _StepMoments(norm)).add([p for p, _ in steps])
    for average in averages.values():
        average.assign()


def _batches(data: Batch | Iterable[Batch]) -> Iterator[tuple[Any, Any]]:
    batches: Iterable[Any] = [data] if isinstance(data, Tensor | PackedSequence | tuple) else data
    for batch in batches:
        pair = isinstance(batch, tuple) and not isinstance(batch, PackedSequence)
        yield (batch[0], batch[1]) if pair else (batch, None)


def _traces(reference: RecurrentLayer, batches: list[tuple[Any, Any]]) -> Iterator[StateTrace]:
    for input, state in batches:
        with record_states(reference.eval()) as traces:
            reference(input, state)
        yield from traces


Steps = list[tuple[Tensor, Tensor]]


def _quantized(layer: RecurrentLayer, trace: StateTrace) -> Iterator[tuple[str, Normalizer, Steps]]:
    """Yield key and normaliser of what can be fitted, and for each step as processed Q(W) x and W x."""
    suffix = suffix_of(trace.layer, trace.direction)
    prepared = layer.prepared_cell(trace.layer, trace.direction)
    order = -1 if trace.direction else 1
    for side, own, float_map, inputs in (
        ("ih", prepared.input, trace.prepared.input, trace.input.split(trace.batch_sizes)),
        ("hh", prepared.recurrent, trace.prepared.recurrent, trace.received()),
    ):
        norm = _fittable(layer, side + suffix)
        if norm is not None and own is not None and float_map is not None:
            yield side + suffix, norm, [(own(x), float_map(x)) for x in inputs][::order]
    norm = _fittable(layer, "cell" + suffix)
    if norm is not None:
        cells = [c.unflatten(1, (prepared.groups, -1)) for c in trace.c]
        yield "cell" + suffix, norm, [(c, c) for c in cells][::order]


def _fittable(layer: RecurrentLayer, key: str) -> Normalizer | None:
    if key not in layer.normalizers:
        return None
    norm = layer.normalizers[key]
    if not isinstance(norm, Normalizer) or not isinstance(getattr(norm, "gain", None), Tensor):
        return None
    return norm if norm.statistics is not None or weight_gain(norm) is not None else None


def _standardized(norm: Normalizer, p: Tensor, count: int) -> Tensor:
    """Return z, ``(batch, segments, units)``, of which the normaliser's result is gain ⊙ z + bias."""
    if norm.statistics is None:
        gain = norm.get_parameter("gain")
        return torch.where(gain == 0, torch.zeros_like(p), p / gain)
    contract = Norm.of(norm)
    if contract.running is None:
        mean, var = contract.measure(p)
    else:
        mean, var = (rows[min(count, len(rows) - 1)] for rows in contract.running)
    return contract.normalize(p, mean, var)[0]


class _StepMoments:
    """Averages over batches of each step's mean and unbiased variance."""

    def __init__(self, norm: Normalizer) -> None:
        self.running = [norm.get_buffer(name) for name in ("running_mean", "running_var")]
        self.sums = [torch.zeros_like(rows, dtype=torch.float64) for rows in self.running]
        self.counts = self.sums[0].new_zeros(len(self.running[0]))

    def add(self, steps: list[Tensor]) -> None:
        for count, p in enumerate(steps):
            if len(p) > 1:  # one sequence alone has no variance
                var, mean = torch.var_mean(p.double(), 0)
                row = min(count, len(self.counts) - 1)
                self.sums[0][row] += mean
                self.sums[1][row] += var
                self.counts[row] += 1

    def assign(self) -> None:
        seen = self.counts > 0
        for rows, sums in zip(self.running, self.sums, strict=True):
            rows[seen] = (sums[seen] / self.counts[seen].view(-1, 1, 1)).to(rows.dtype)
            # Later steps than any seen take the last one's.
            if seen.any():
                rows[~seen] = rows[seen][-1]


class _LeastSquares:
    """Gain and bias of each unit, from sums over all that was seen."""

    def __init__(self, norm: Normalizer) -> None:
        self.gain: Tensor = norm.get_parameter("gain")
        bias = norm._parameters.get("bias") if norm.statistics is not None else None
        self.bias = bias
        self.sums: list[Tensor] = [torch.zeros_like(self.gain, dtype=torch.float64) for _ in range(4)]
        self.count = 0

    def add(self, z: Tensor, p: Tensor) -> None:
        z, p = z.double(), p.double()
        for total, values in zip(self.sums, (z, p, z * z, z * p), strict=True):
            total += values.sum(0)
        self.count += len(z)

    def assign(self) -> None:
        z, p, zz, zp = (total / max(self.count, 1) for total in self.sums)
        if self.bias is not None:
            zz, zp = zz - z * z, zp - z * p
        # A unit that is the same throughout says nothing of its gain.
        fitted = torch.where(zz > 1e-12, zp / zz.clamp_min(1e-12), self.gain.double())
        self.gain.copy_(fitted)
        if self.bias is not None:
            self.bias.copy_(p - fitted * z)
