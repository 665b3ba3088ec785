"""The weights of a recurrent layer, and the quantizers and normalisers that go with each."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qlstm_core.interfaces import (
    NoNormalizer,
    NoQuantizer,
    Normalizer,
    Quantizer,
    acts_on_activations,
    acts_on_weights,
)
from qlstm_core.layers.border import check_result
from qlstm_core.layers.cell import Cell
from qlstm_core.layers.checks import check_arguments
from qlstm_core.layers.computed_weights import assign
from qlstm_core.layers.linear import Dense, LinearMap
from qlstm_core.layers.packing import EXACT, check_products
from qlstm_core.layers.prepared import PreparedCell
from qlstm_core.layers.quantized import QuantizedLayer
from qlstm_core.layers.templates import (
    NormalizerLike,
    QuantizerLike,
    labels,
    prepare_anew,
    resolve,
    resolve_each,
)

MatrixShape = tuple[int, int, int]
"""``(gates, rows, cols)`` of one weight, as quantizers see it."""


class WeightedLayer(QuantizedLayer):
    """All parameters under torch's names, with what quantizes and normalises them."""

    cell: ClassVar[Cell]
    _products = EXACT

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        quantizer: QuantizerLike | dict[str, QuantizerLike] = "none",
        normalizer: NormalizerLike | dict[str, NormalizerLike] = "none",
        state_quantizer: QuantizerLike = "none",
        tokens: bool = False,
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
        if not isinstance(tokens, bool):
            raise TypeError(f"tokens must be True or False, got {tokens!r}")
        self.tokens = tokens

        _check_cell(self)
        self.check_sizes()
        keys = tuple(self.matrix_shapes(0))
        sides = ("ih", "hh") if self.cell.recurrent else ("ih",)
        quantizers = resolve_each("quantizer", quantizer, keys, [k for k in keys if k != "hr"])
        normalizers = resolve_each("normalizer", normalizer, sides, list(sides))
        state_template = resolve("quantizer", state_quantizer)
        of_state = normalizers[sides[-1]]
        if of_state.cell and not self.cell.normalizes_state:
            raise ValueError(f"{type(self).__name__} has no cell state to normalise: leave cell=true out")
        self.labels = labels(quantizer=quantizer, normalizer=normalizer, state_quantizer=state_quantizer)
        self.normalized = any(not isinstance(n, NoNormalizer) for n in normalizers.values())
        self.quantizers = nn.ModuleDict()
        self.normalizers = nn.ModuleDict()
        self.state_quantizers = nn.ModuleDict()
        for layer, direction in self.layer_directions():
            suffix = suffix_of(layer, direction)
            for name, shape in self.parameter_shapes(layer).items():
                self.register_parameter(
                    name + suffix, nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                )
            for key, (gates, rows, cols) in self.matrix_shapes(layer).items():
                template = quantizers.get(key)
                if template is None or isinstance(template, NoQuantizer):
                    continue
                self.quantizers[key + suffix] = copy.deepcopy(template)
                if template.needs_curvature:
                    ones = torch.ones(gates * rows, cols, device=device, dtype=dtype)
                    self.register_buffer(f"curvature_{key}{suffix}", ones)
            for key, normalizer_template in normalizers.items():
                if not isinstance(normalizer_template, NoNormalizer):
                    first = key == "ih" and layer == 0
                    self.normalizers[key + suffix] = _placed(normalizer_template, key, tokens and first)
            if of_state.cell:
                self.normalizers["cell" + suffix] = _placed(of_state, "cell", False)
            if not isinstance(state_template, NoQuantizer):
                self.state_quantizers["state" + suffix] = copy.deepcopy(state_template)
        self.reset_parameters()

    # What a family may define otherwise

    def check_sizes(self) -> None:
        """Raise for arguments of the family's own, and for combinations that it cannot have."""

    def matrix_shapes(self, layer: int) -> dict[str, MatrixShape]:
        """Return the quantizable weights of one layer and direction: key → ``(gates, rows, cols)``."""
        gates, hidden = len(self.cell.gates), self.hidden_size
        recurrent = {"hh": (gates, hidden, self.output_size)} if self.cell.recurrent else {}
        return {
            "ih": (gates, hidden, self.layer_input_size(layer)),
            **recurrent,
            **self.projection_shapes(),
        }

    def side_weight(self, side: str, weights: dict[str, Tensor]) -> Tensor:
        """Return the weight of side ``"ih"`` or ``"hh"`` as normalisers see it, ``(gates, rows, cols)``."""
        return weights[side]

    def linear_map(
        self, side: str, layer: int, weights: dict[str, Tensor], normalizer: Normalizer | None
    ) -> LinearMap:
        """Return the linear map of a side; ``normalizer`` is given where it acts on weights."""
        weight = self.side_weight(side, weights)
        return Dense(weight if normalizer is None else reweighted(normalizer, weight, f"{side}_l{layer}"))

    def groups_of(self, layer: int) -> int:
        """Return how many independent groups the rows of a layer's gates are split into."""
        return 1

    @property
    def bias_names(self) -> tuple[str, ...]:
        """The biases of each layer and direction: torch's two, or one with a normaliser or without ``hh``."""
        if not self.bias:
            return ()
        alone = self.normalized or not self.cell.recurrent
        return ("bias_ih",) if alone else ("bias_ih", "bias_hh")

    def initial_bound(self, name: str) -> float:
        """Return b, for a parameter drawn from U(−b, b)."""
        return 1.0 / math.sqrt(self.hidden_size)

    # Shapes and names

    @property
    def output_size(self) -> int:
        """Features of the hidden state and of one direction's output."""
        return self.proj_size or self.hidden_size

    @property
    def num_directions(self) -> int:
        """1, or 2 when bidirectional."""
        return 2 if self.bidirectional else 1

    def layer_directions(self) -> Iterator[tuple[int, int]]:
        """Yield every ``(layer, direction)``."""
        for layer in range(self.num_layers):
            for direction in range(self.num_directions):
                yield layer, direction

    def layer_input_size(self, layer: int) -> int:
        """Return how many features a layer receives."""
        return self.input_size if layer == 0 else self.output_size * self.num_directions

    def projection_shapes(self) -> dict[str, MatrixShape]:
        """Return the shape of the projection's matrix, if there is one."""
        return {"hr": (1, self.proj_size, self.hidden_size)} if self.proj_size else {}

    def parameter_shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Return torch's parameters of one layer and direction, in torch's order, without suffix."""
        shapes = {
            f"weight_{key}": (gates * rows, cols)
            for key, (gates, rows, cols) in self.matrix_shapes(layer).items()
        }
        biases = dict.fromkeys(self.bias_names, (len(self.cell.gates) * self.hidden_size,))
        projection = {"weight_hr": shapes.pop("weight_hr")} if self.proj_size else {}
        return {**shapes, **biases, **projection}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights and biases from U(−1/√hidden, 1/√hidden) in torch's order; start all else anew."""
        for layer, direction in self.layer_directions():
            for name in self.parameter_shapes(layer):
                bound = self.initial_bound(name)
                self.fill_(name + suffix_of(layer, direction), partial(nn.init.uniform_, a=-bound, b=bound))
        self.prepare_from_weights()

    @torch.no_grad()
    def fill_(self, name: str, fill: Callable[[Tensor], object]) -> None:
        """Give a weight or bias new values, also one that torch computes from other parameters.

        Args:
            name: of the parameter, such as ``"weight_hh_l0"``.
            fill: writes into a tensor of the parameter's shape, as the functions of :mod:`torch.nn.init` do.
        """
        if name in self._parameters:
            fill(self.get_parameter(name))
        else:
            fresh = torch.empty_like(getattr(self, name))
            fill(fresh)
            assign(self, name, fresh)

    @torch.no_grad()
    def prepare_from_weights(self) -> None:
        """Let quantizers, normalisers and curvature start anew from the weights as they are now.

        Whoever sets weights before training calls this after it: step sizes and gains come from the weights.
        Parameters of quantizers and normalisers stay the same objects, so that an optimizer may hold them.
        """
        for layer, direction in self.layer_directions():
            suffix = suffix_of(layer, direction)
            weights = self.full_precision_weights(layer, direction)
            for key, weight in weights.items():
                if key + suffix in self.quantizers:
                    prepare_anew(self.quantizers[key + suffix], weight)
                if (curvature := getattr(self, f"curvature_{key}{suffix}", None)) is not None:
                    curvature.fill_(1)
            for key in ("ih", "hh"):
                if key + suffix in self.normalizers:
                    prepare_anew(self.normalizers[key + suffix], self.side_weight(key, weights))
            if "cell" + suffix in self.normalizers:
                groups = self.groups_of(layer)
                empty = weight.new_empty(groups, self.hidden_size // groups, 0)
                prepare_anew(self.normalizers["cell" + suffix], empty)
            if "state" + suffix in self.state_quantizers:
                # States lie in (−1, 1): a spread of them stands for the initial weight.
                spread = torch.linspace(-1, 1, self.output_size).to(weight)
                state_quantizer = self.state_quantizers["state" + suffix]
                prepare_anew(state_quantizer, spread.view(1, 1, -1))
                if next(state_quantizer.parameters(), None) is not None:
                    raise ValueError(
                        f"state_quantizer {type(state_quantizer).__name__} learns parameters for one matrix, "
                        "but each sequence has a state of its own: use a method without, such as 'bwn'"
                    )

    @property
    def products(self) -> str:
        """How the fused route multiplies by weights of few levels.

        ``"exact"``, the default: in the layer's dtype. ``"packed16"`` or ``"packed12"``: as packed bits, with
        activations and gradients rounded so that sums of six (or four) have as many bits; float32 on a CPU.
        :meth:`qlstm_core.RecurrentLayer.routes` tells where it is exact all the same.

        Raises:
            ValueError: set to another name.
        """
        return self._products

    @products.setter
    def products(self, name: str) -> None:
        self._products = check_products(name)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    @property
    def needs_batch(self) -> bool:
        """Whether a normaliser computes statistics over the batch in training."""
        return any(getattr(norm, "statistics", None) == "batch" for norm in self.normalizers.values())

    def flatten_parameters(self) -> None:
        """Do nothing: torch.nn.LSTM has this method, and callers of a drop-in call it."""

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The weights and biases of every layer and direction, in torch's order."""
        return [
            [getattr(self, name + suffix_of(layer, direction)) for name in self.parameter_shapes(layer)]
            for layer, direction in self.layer_directions()
        ]

    def extra_repr(self) -> str:
        """Return torch's text, and the quantizers and normalisers that are not ``none``."""
        shown = [f"{self.input_size}, {self.hidden_size}"]
        for name, default in _REPR_DEFAULTS.items():
            if getattr(self, name) != default:
                shown.append(f"{name}={getattr(self, name)}")
        shown += [f"{key}={label!r}" for key, label in self.labels.items()]
        return ", ".join(shown if self.products == EXACT else [*shown, f"products={self.products!r}"])

    def __repr__(self) -> str:
        """Return one line: the labels say all that the modules inside would."""
        return f"{type(self).__name__}({self.extra_repr()})"

    # Weights

    def full_precision_weights(self, layer: int, direction: int) -> dict[str, Tensor]:
        """Return the full-precision weights, each ``(gates, rows, cols)``."""
        suffix = suffix_of(layer, direction)
        return {
            key: getattr(self, f"weight_{key}{suffix}").view(shape)
            for key, shape in self.matrix_shapes(layer).items()
        }

    def quantized_weights(self, layer: int = 0, direction: int = 0) -> dict[str, Tensor]:
        """Return Q(W) of one layer and direction, each ``(gates, rows, cols)``, connected to the graph."""
        suffix = suffix_of(layer, direction)
        weights = self.full_precision_weights(layer, direction)
        for key, weight in weights.items():
            if key + suffix in self.quantizers:
                quantizer = self.quantizers[key + suffix]
                assert isinstance(quantizer, Quantizer)
                weights[key] = self.quantize(f"weight_{key}{suffix}", weight, quantizer)
        return weights

    def prepared_cell(self, layer: int, direction: int) -> PreparedCell:
        """Quantize the weights and gather what one layer in one direction computes with."""
        suffix = suffix_of(layer, direction)
        weights = self.quantized_weights(layer, direction)
        reweighting: dict[str, Normalizer] = {}
        acting: dict[str, Normalizer] = {}
        for key in ("ih", "hh", "cell"):
            if key + suffix in self.normalizers:
                norm = self.normalizers[key + suffix]
                assert isinstance(norm, Normalizer)
                if acts_on_weights(norm):
                    reweighting[key] = norm
                if acts_on_activations(norm):
                    acting[key] = norm
        groups = self.groups_of(layer)
        rows = (groups * len(self.cell.gates), self.hidden_size // groups)
        biases = [getattr(self, name + suffix).view(rows) for name in self.bias_names]
        state_quantizer = self.state_quantizers["state" + suffix] if self.state_quantizers else None
        assert state_quantizer is None or isinstance(state_quantizer, Quantizer)
        return PreparedCell(
            cell=self.cell,
            input=self.linear_map("ih", layer, weights, reweighting.get("ih")),
            recurrent=self.linear_map("hh", layer, weights, reweighting.get("hh"))
            if self.cell.recurrent
            else None,
            bias_ih=biases[0] if biases else None,
            bias_hh=biases[1] if len(biases) == 2 else None,
            norm_ih=acting.get("ih"),
            norm_hh=acting.get("hh"),
            norm_cell=acting.get("cell"),
            projection=weights["hr"].squeeze(0) if self.proj_size else None,
            state_quantizer=state_quantizer,
            groups=groups,
            products=self.products,
        )

    def weight_quantizers(self) -> dict[str, Quantizer]:
        """Return the quantizers by the name of the full-precision weight that each acts on."""
        return {
            f"weight_{key}": module
            for key, module in self.quantizers.items()
            if isinstance(module, Quantizer)
        }

    def adopt_quantizer(self, weight: str, quantizer: Quantizer) -> None:
        """Take the quantizer of another layer that has the same weight."""
        self.quantizers[weight.removeprefix("weight_")] = quantizer

    def matrices(self) -> dict[str, Tensor]:
        """Return each full-precision weight by its name, ``(gates, rows, cols)``."""
        return {
            f"weight_{key}{suffix_of(layer, direction)}": weight
            for layer, direction in self.layer_directions()
            for key, weight in self.full_precision_weights(layer, direction).items()
        }

    def storage_bytes(self) -> int:
        """Bytes of the layer as deployed.

        Weights at their quantizer's bits and scales; all else at 32 bits: the biases of ``hidden`` per gate
        (two that are only ever added fold into one), gains, biases and running statistics of the normalisers.
        """
        names = self.bias_names
        biases = len(names) and len(self.cell.gates) + (len(names) - 1) * len(self.cell.separate)
        total = sum(self.weight_bytes().values())
        total += 4 * biases * self.hidden_size * self.num_layers * self.num_directions
        for module in self.normalizers.values():
            assert isinstance(module, Normalizer)
            total += module.storage_bytes()
        return total


_REPR_DEFAULTS: dict[str, Any] = {
    "proj_size": 0,
    "num_layers": 1,
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "tokens": False,
}


def reweighted(normalizer: Normalizer, weight: Tensor, name: str) -> Tensor:
    """Return the weight that a normaliser of weights makes of the one called ``weight_{name}``."""
    return check_result(normalizer, f"weight_{name}", weight, normalizer.weight(weight))


def suffix_of(layer: int, direction: int) -> str:
    """Return how the names of the parameters of one layer and direction end, as torch has it."""
    return f"_l{layer}{'_reverse' if direction else ''}"


def _placed(template: Normalizer, side: str, tokens: bool) -> Normalizer:
    """Return a normaliser's copy for one side, which it is told."""
    normalizer = copy.deepcopy(template)
    normalizer.side, normalizer.tokens = side, tokens
    return normalizer


def _check_cell(layer: WeightedLayer) -> None:
    """Raise for a family without cell, and for a projection that its cell cannot have."""
    name = type(layer).__name__
    if not isinstance(getattr(layer, "cell", None), Cell):
        raise TypeError(f"{name} has no cell: write cell = Cell(name, gates, states, step) in the class")
    if layer.proj_size and not layer.cell.projection:
        raise ValueError(
            f"{name} has no projection, since cell {layer.cell.name!r} does not declare one: "
            f"proj_size must be 0, got {layer.proj_size}"
        )
