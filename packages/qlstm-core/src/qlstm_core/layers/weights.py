"""The weights of a recurrent layer, and the quantizers and normalisers that go with each."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qlstm_core.interfaces import NoNormalizer, NoQuantizer, Normalizer, Quantizer, acts_on_activations
from qlstm_core.layers.checks import check_arguments
from qlstm_core.layers.linear import LinearMap
from qlstm_core.layers.selection import NormalizerLike, QuantizerLike, labels, resolve, resolve_each
from qlstm_core.layers.sequence import Path, Step

MatrixShape = tuple[int, int, int]
"""``(gates, rows, cols)`` of one weight, as quantizers see it."""


class WeightedLayer(nn.Module):
    """All parameters under torch's names, with what quantizes and normalises them."""

    gates: ClassVar[int]
    states: ClassVar[tuple[str, ...]]
    torch_operator: ClassVar[Callable[..., Any] | None] = None
    step: ClassVar[Step]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        quantizer: QuantizerLike | dict[str, QuantizerLike] = "none",
        normalizer: NormalizerLike | dict[str, NormalizerLike] = "none",
        state_quantizer: QuantizerLike = "none",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_arguments(input_size, hidden_size, num_layers, bias, batch_first, dropout, proj_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size

        keys = tuple(self._matrices(input_size))
        quantizers = resolve_each("quantizer", quantizer, keys, [k for k in keys if k != "hr"])
        normalizers = resolve_each("normalizer", normalizer, ("ih", "hh"), ["ih", "hh"])
        state_template = resolve("quantizer", state_quantizer)
        self._labels = labels(quantizer=quantizer, normalizer=normalizer, state_quantizer=state_quantizer)
        self.normalized = any(not isinstance(n, NoNormalizer) for n in normalizers.values())
        self.quantizers = nn.ModuleDict()
        self.normalizers = nn.ModuleDict()
        self.state_quantizers = nn.ModuleDict()
        for layer, direction in self._cells():
            suffix = _suffix(layer, direction)
            for name, shape in self._parameter_shapes(layer).items():
                self.register_parameter(
                    name + suffix, nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                )
            for key, (gates, rows, cols) in self._matrices(self._layer_input_size(layer)).items():
                template = quantizers.get(key)
                if template is None or isinstance(template, NoQuantizer):
                    continue
                self.quantizers[key + suffix] = copy.deepcopy(template)
                if template.needs_curvature:
                    ones = torch.ones(gates * rows, cols, device=device, dtype=dtype)
                    self.register_buffer(f"curvature_{key}{suffix}", ones)
            for key, normalizer_template in normalizers.items():
                if not isinstance(normalizer_template, NoNormalizer):
                    self.normalizers[key + suffix] = copy.deepcopy(normalizer_template)
            if normalizers["hh"].cell:
                self.normalizers["cell" + suffix] = copy.deepcopy(normalizers["hh"])
            if not isinstance(state_template, NoQuantizer):
                self.state_quantizers["state" + suffix] = copy.deepcopy(state_template)
        self.reset_parameters()

    # What a family defines

    def _matrices(self, input_size: int) -> dict[str, MatrixShape]:
        """Return the quantizable weights of a layer with this input size: key → ``(gates, rows, cols)``."""
        raise NotImplementedError

    def _maps(self, weights: dict[str, Tensor]) -> tuple[LinearMap, LinearMap]:
        """Return the input and the recurrent map from quantized weights, each ``(gates, rows, cols)``."""
        raise NotImplementedError

    # Shapes and names

    @property
    def output_size(self) -> int:
        """Features of the hidden state and of one direction's output."""
        return self.proj_size or self.hidden_size

    @property
    def num_directions(self) -> int:
        """1, or 2 when bidirectional."""
        return 2 if self.bidirectional else 1

    def _cells(self) -> Iterator[tuple[int, int]]:
        """Yield every ``(layer, direction)``."""
        for layer in range(self.num_layers):
            for direction in range(self.num_directions):
                yield layer, direction

    def _layer_input_size(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.output_size * self.num_directions

    @property
    def _bias_names(self) -> tuple[str, ...]:
        if not self.bias:
            return ()
        return ("bias_ih",) if self.normalized else ("bias_ih", "bias_hh")

    def _parameter_shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Return torch's parameters of one layer and direction, in torch's order, without suffix."""
        shapes = {
            f"weight_{key}": (gates * rows, cols)
            for key, (gates, rows, cols) in self._matrices(self._layer_input_size(layer)).items()
        }
        biases = dict.fromkeys(self._bias_names, (self.gates * self.hidden_size,))
        projection = {"weight_hr": shapes.pop("weight_hr")} if self.proj_size else {}
        return {**shapes, **biases, **projection}

    def reset_parameters(self) -> None:
        """Draw weights and biases from U(−1/√hidden, 1/√hidden) in torch's order; start all else anew."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for layer, direction in self._cells():
            for name in self._parameter_shapes(layer):
                nn.init.uniform_(self.get_parameter(name + _suffix(layer, direction)), -bound, bound)
        for layer, direction in self._cells():
            suffix = _suffix(layer, direction)
            weights = self._weights(layer, direction)
            for key, weight in weights.items():
                if key + suffix in self.quantizers:
                    _prepare(self.quantizers[key + suffix], weight)
            for key, shaped in self._normalizer_weights(weights).items():
                if key + suffix in self.normalizers:
                    _prepare(self.normalizers[key + suffix], shaped)
            if "state" + suffix in self.state_quantizers:
                # States lie in (−1, 1): a spread of them stands for the initial weight.
                spread = torch.linspace(-1, 1, self.output_size).to(weight)
                _prepare(self.state_quantizers["state" + suffix], spread.view(1, 1, -1))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    def flatten_parameters(self) -> None:
        """Do nothing: torch.nn.LSTM has this method, and callers of a drop-in call it."""

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of every layer and direction, in torch's order."""
        return [
            [self.get_parameter(name + _suffix(layer, direction)) for name in self._parameter_shapes(layer)]
            for layer, direction in self._cells()
        ]

    def extra_repr(self) -> str:
        """Return torch's text, and the quantizers and normalisers that are not ``none``."""
        shown = [f"{self.input_size}, {self.hidden_size}"]
        for name, default in _REPR_DEFAULTS.items():
            if getattr(self, name) != default:
                shown.append(f"{name}={getattr(self, name)}")
        return ", ".join(shown + [f"{key}={label!r}" for key, label in self._labels.items()])

    def __repr__(self) -> str:
        """Return one line: the labels say all that the modules inside would."""
        return f"{type(self).__name__}({self.extra_repr()})"

    # Weights

    def _weights(self, layer: int, direction: int) -> dict[str, Tensor]:
        """Return the full-precision weights, each ``(gates, rows, cols)``."""
        suffix = _suffix(layer, direction)
        return {
            key: self.get_parameter(f"weight_{key}{suffix}").view(shape)
            for key, shape in self._matrices(self._layer_input_size(layer)).items()
        }

    def _normalizer_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what each path's normaliser is prepared with."""
        cell = weights["hh"].new_empty(1, self.hidden_size, 0)
        return {"ih": weights["ih"], "hh": weights["hh"], "cell": cell}

    def quantized_weights(self, layer: int = 0, direction: int = 0) -> dict[str, Tensor]:
        """Return Q(W) of one layer and direction, each ``(gates, rows, cols)``, connected to the graph."""
        suffix = _suffix(layer, direction)
        weights = self._weights(layer, direction)
        for key, weight in weights.items():
            if key + suffix in self.quantizers:
                quantizer = self.quantizers[key + suffix]
                curvature = getattr(self, f"curvature_{key}{suffix}", None)
                weights[key] = quantizer(weight, None if curvature is None else curvature.view_as(weight))
        return weights

    def _path(self, layer: int, direction: int) -> Path:
        """Quantize the weights and gather what one layer in one direction computes with."""
        suffix = _suffix(layer, direction)
        weights = self.quantized_weights(layer, direction)
        norms: dict[str, Normalizer | None] = {}
        for key in ("ih", "hh", "cell"):
            norms[key] = None
            if key + suffix not in self.normalizers:
                continue
            norm = self.normalizers[key + suffix]
            assert isinstance(norm, Normalizer)
            if key in weights:
                weights[key] = norm.weight(weights[key])
            if acts_on_activations(norm):
                norms[key] = norm
        biases = [self.get_parameter(name + suffix).view(-1, self.hidden_size) for name in self._bias_names]
        state_quantizer = self.state_quantizers["state" + suffix] if self.state_quantizers else None
        assert state_quantizer is None or isinstance(state_quantizer, Quantizer)
        input_map, recurrent_map = self._maps(weights)
        return Path(
            step=self.step,
            torch_operator=self.torch_operator,
            input=input_map,
            recurrent=recurrent_map,
            bias_ih=biases[0] if biases else None,
            bias_hh=biases[1] if len(biases) == 2 else None,
            norm_ih=norms["ih"],
            norm_hh=norms["hh"],
            norm_cell=norms["cell"],
            projection=weights["hr"].squeeze(0) if self.proj_size else None,
            state_quantizer=state_quantizer,
        )

    @torch.no_grad()
    def constrain_(self) -> None:
        """Apply every quantizer's own constraint to its weight; call after each optimizer step."""
        for layer, direction in self._cells():
            suffix = _suffix(layer, direction)
            for key, weight in self._weights(layer, direction).items():
                if key + suffix in self.quantizers:
                    quantizer = self.quantizers[key + suffix]
                    assert isinstance(quantizer, Quantizer)
                    quantizer.constrain_(weight)

    def storage_bytes(self) -> int:
        """Bytes of the layer as deployed.

        Weights at their quantizer's bits and scales; all else at 32 bits: one bias of ``gates · hidden`` per
        direction (two biases that are only ever added fold into one), gains, biases and running statistics of
        the normalisers.
        """
        total = 0
        for layer, direction in self._cells():
            suffix = _suffix(layer, direction)
            for key, (gates, rows, cols) in self._matrices(self._layer_input_size(layer)).items():
                quantizer = (
                    self.quantizers[key + suffix] if key + suffix in self.quantizers else NoQuantizer()
                )
                assert isinstance(quantizer, Quantizer)
                total += quantizer.storage_bytes(gates, rows, cols)
            total += 4 * self._folded_bias_size()
        for module in self.normalizers.values():
            assert isinstance(module, Normalizer)
            total += module.storage_bytes()
        return total

    def _folded_bias_size(self) -> int:
        return self.gates * self.hidden_size if self.bias else 0


_REPR_DEFAULTS: dict[str, Any] = {
    "proj_size": 0,
    "num_layers": 1,
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
}


def _suffix(layer: int, direction: int) -> str:
    return f"_l{layer}{'_reverse' if direction else ''}"


def _prepare(module: nn.Module, weight: Tensor) -> None:
    """Let a quantizer or normaliser start anew, keeping Parameter objects that an optimizer may hold."""
    assert isinstance(module, Quantizer | Normalizer)
    before = dict(module.named_parameters(recurse=False))
    module.prepare(weight.detach())
    for name, old in before.items():
        new = getattr(module, name, None)
        if (
            isinstance(new, nn.Parameter)
            and new is not old
            and new.shape == old.shape
            and new.device == old.device
        ):
            old.data.copy_(new.data)
            setattr(module, name, old)
