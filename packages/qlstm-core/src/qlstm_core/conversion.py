"""From a float model to one with quantized weights, in one call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qlstm_core.interfaces import NoQuantizer, Quantizer
from qlstm_core.layers.from_float import TorchTwin
from qlstm_core.layers.gru import GRU
from qlstm_core.layers.lstm import LSTM
from qlstm_core.layers.matrix import Embedding, Linear
from qlstm_core.layers.quantized import QuantizedLayer, evaluating, model_bytes
from qlstm_core.layers.templates import NormalizerLike, QuantizerLike

RECURRENT: dict[type[nn.Module], type[TorchTwin]] = {nn.LSTM: LSTM, nn.GRU: GRU}
MATRICES: dict[type[nn.Module], type[Linear] | type[Embedding]] = {
    nn.Linear: Linear,
    nn.Embedding: Embedding,
}
_READ_BY_OTHERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that read the weights of the layers in them without calling these."""
_WITHOUT_COUNTERPART: tuple[type[nn.Module], ...] = (nn.RNN, nn.RNNCellBase, nn.EmbeddingBag)
"""Layers of torch that are named in the report, since they are of a kind, and cannot be replaced."""

Filter = str | type[nn.Module] | Callable[[str, nn.Module], bool]
"""A pattern for names, a class, or a function of name and layer that says whether it is meant."""


@dataclass(frozen=True)
class Layer:
    """What became of one layer of a model.

    Args:
        name: its name in the model, ``""`` for the model itself.
        kind: class of the float layer.
        why: why it was skipped; ``""`` where it was replaced.
        bytes_before, bytes_after: its size as deployed; equal where it was skipped.
    """

    name: str
    kind: str
    why: str
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Report:
    """What :func:`convert` did, layer by layer, in the order of ``named_modules``; printed, it is a table."""

    layers: list[Layer] = field(default_factory=list)

    @property
    def replaced(self) -> list[str]:
        """Names of the layers that were replaced."""
        return [layer.name for layer in self.layers if not layer.why]

    @property
    def skipped(self) -> dict[str, str]:
        """Name of each layer that was not, and why."""
        return {layer.name: layer.why for layer in self.layers if layer.why}

    def __str__(self) -> str:
        """Return a line for each layer."""
        rows = [
            (
                layer.name or "(the model)",
                layer.kind,
                f"skipped: {layer.why}"
                if layer.why
                else f"{layer.bytes_before:,} → {layer.bytes_after:,} bytes",
            )
            for layer in self.layers
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(2)] if rows else [0, 0]
        return "\n".join(f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {text}" for name, kind, text in rows)


class Conversion(NamedTuple):
    """A converted model, and what was done to it."""

    model: nn.Module
    report: Report


def convert(
    model: nn.Module,
    quantizer: QuantizerLike = "none",
    normalizer: NormalizerLike | dict[str, NormalizerLike] = "none",
    *,
    only: Filter | Iterable[Filter] | None = None,
    data: Any = None,
    tokens: bool = False,
    inplace: bool = False,
) -> Conversion:
    """Replace every torch.nn.LSTM, GRU, Linear and Embedding of a model by ours, with its weights.

    Parameters stay the same objects, so that shared weights stay shared (and share their quantizer) and, with
    ``inplace``, an optimizer still holds them; but the one bias of a normalised layer is new. Several calls
    may treat several kinds of layers::

        model, report = convert(trained, "bwn", "layer", only=nn.LSTM, data=batches)
        model, _ = convert(model, "uniform:bits=4,per_row=true", only=[nn.Embedding, nn.Linear])
        print(report)

    Args:
        model: any module; it may be one of these layers itself.
        quantizer: of all weights of the replaced layers: a name, maybe with options, or a
            :class:`qlstm_core.Quantizer`.
        normalizer: of the recurrent layers among them, likewise; Linear and Embedding have none.
        only: which layers: a pattern for their names (``"decoder.*"``), a class (``nn.LSTM``), a function of
            name and layer, or several of these, of which one must fit; default: all.
        data: batches on which the float model is run, to fit normalisers to it, as
            :meth:`qlstm_core.LSTM.from_float` says: an iterable, of which each item is passed to the model as
            its argument, or its arguments where it is a tuple. A tensor is one batch.
        tokens: the recurrent layers' input will be tokens.
        inplace: change the model itself instead of a copy.

    Returns:
        The converted model and a :class:`Report`.

    Raises:
        TypeError: a model that is none, or a filter that is none.
        ValueError: no layer to replace, with the reasons; a shared weight that would get two quantizers; a
            layer that ``data`` does not reach; what a layer's ``from_float`` refuses.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: expected a torch.nn.Module, got {type(model).__name__}: {model!r}")
    filters = _filters(only)
    if not inplace:
        model = copy.deepcopy(model)
    kinds: tuple[type[nn.Module], ...] = (*RECURRENT, *MATRICES, *_WITHOUT_COUNTERPART)
    found: dict[str, nn.Module] = {
        name: module for name, module in model.named_modules() if isinstance(module, kinds)
    }
    readers: dict[str, nn.Module] = {
        name: module for name, module in model.named_modules() if isinstance(module, _READ_BY_OTHERS)
    }
    why = {name: _obstacle(name, module, filters, readers, quantizer) for name, module in found.items()}
    chosen = {name: module for name, module in found.items() if why[name] is None}
    if not chosen:
        reasons = "; ".join(f"{name or 'the model'}: {reason}" for name, reason in why.items())
        raise ValueError(
            "convert: nothing to replace: "
            + (reasons or f"{type(model).__name__} has no torch.nn.LSTM, GRU, Linear or Embedding")
        )
    inputs = _recorded(model, chosen, data) if data is not None and normalizer != "none" else None
    owners = _owners(model)
    new: dict[int, QuantizedLayer] = {}
    for name, module in chosen.items():
        options: dict[str, Any] = {"quantizer": quantizer}
        if type(module) in RECURRENT:
            seen = None if inputs is None else inputs.get(name)
            if inputs is not None and seen is None:
                raise ValueError(
                    f"convert: {name or 'the model'}, a {type(module).__name__}, was never called with data, "
                    "to which its normalisers are to be fitted: leave it out with only, or leave data out"
                )
            options |= {"normalizer": normalizer, "tokens": tokens, "data": seen}
        family: Any = (RECURRENT | MATRICES)[type(module)]
        layer = family.from_float(module, **options)
        _keep_parameters(layer, module, name, owners)
        new[id(module)] = layer
    report = Report([_row(name, module, why[name], new.get(id(module))) for name, module in found.items()])
    if id(model) in new:
        model = new[id(model)]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in new:
                parent._modules[name] = new[id(child)]
    return Conversion(model, report)


def _row(name: str, module: nn.Module, why: str | None, new: nn.Module | None) -> Layer:
    before = model_bytes(module)
    return Layer(name, type(module).__name__, why or "", before, before if new is None else model_bytes(new))


def _filters(only: Filter | Iterable[Filter] | None) -> list[Filter] | None:
    if only is None:
        return None
    given = list(only) if isinstance(only, Iterable) and not isinstance(only, str | type) else [only]
    for item in given:
        if not (isinstance(item, str) or callable(item)):
            raise TypeError(
                "only must be names, classes or functions of name and layer, "
                f"got {type(item).__name__}: {item!r}"
            )
    return given


def _obstacle(
    name: str,
    module: nn.Module,
    filters: list[Any] | None,
    readers: dict[str, nn.Module],
    quantizer: QuantizerLike,
) -> str | None:
    """Return why a layer is not to be replaced, or ``None``; ``readers`` are modules of _READ_BY_OTHERS."""
    if isinstance(module, QuantizedLayer):
        return "is one of ours already"
    if isinstance(module, _WITHOUT_COUNTERPART):
        return "there is no such layer with quantized weights here"
    if filters is not None and not any(_fits(item, name, module) for item in filters):
        return "not chosen by only"
    if any(parameter not in module._parameters for parameter in _weight_names(module)):
        return "its weight is parametrised or pruned: make it permanent first"
    if type(module) not in (*RECURRENT, *MATRICES):
        return f"a subclass, {type(module).__name__}, may do something else in its forward"
    for parent, outer in readers.items():
        if name.startswith(f"{parent}.") if parent else name:
            return f"{parent or 'the model'}, a {type(outer).__name__}, reads its weight without calling it"
    if (
        isinstance(module, nn.Embedding)
        and quantizer != "none"
        and (module.sparse or module.max_norm is not None)
    ):
        return "sparse or max_norm changes single rows, and a quantizer looks at all of them"
    if (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    ):
        return "has hooks, which would be lost"
    return None


def _weight_names(module: nn.Module) -> list[str]:
    return list(module._flat_weights_names) if isinstance(module, nn.RNNBase) else ["weight"]


def _fits(item: Filter, name: str, module: nn.Module) -> bool:
    if isinstance(item, str):
        return fnmatchcase(name, item)
    if isinstance(item, type):
        return isinstance(module, item)
    return bool(item(name, module))


def _recorded(model: nn.Module, chosen: dict[str, nn.Module], data: Any) -> dict[str, list[Any]]:
    """Run the float model and return what its recurrent layers were called with, by name."""
    calls: dict[str, list[Any]] = {name: [] for name, module in chosen.items() if type(module) in RECURRENT}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = dict(zip(("input", "hx"), args, strict=False)) | kwargs
            calls[name].append((given["input"], given.get("hx")))

        return hook

    handles = [
        module.register_forward_pre_hook(record(name), with_kwargs=True)
        for name, module in chosen.items()
        if name in calls
    ]
    try:
        with torch.no_grad(), evaluating(model):
            for batch in _model_inputs(data):
                model(*batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: seen for name, seen in calls.items() if seen}


def _model_inputs(data: Any) -> Iterator[tuple[Any, ...]]:
    for batch in [data] if isinstance(data, Tensor) else data:
        yield batch if isinstance(batch, tuple) else (batch,)


Owner = tuple[str, str, Quantizer]


def _owners(model: nn.Module) -> dict[int, Owner]:
    """Return who quantizes each weight already: layer, label and quantizer by the weight's id."""
    return {
        id(module._parameters.get(weight)): (name, str(quantizer), quantizer)
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLayer)
        for weight, quantizer in module.weight_quantizers().items()
    }


def _keep_parameters(layer: Any, source: nn.Module, name: str, owners: dict[int, Owner]) -> None:
    """Let a new layer have the float layer's parameters themselves, and the quantizer of shared ones."""
    for weight, parameter in source._parameters.items():
        if parameter is None or weight not in layer._parameters:
            continue
        if weight.startswith("bias") and not torch.equal(layer._parameters[weight], parameter):
            continue  # the sum of two
        layer._parameters[weight] = parameter
        quantizer = layer.weight_quantizers().get(weight, NoQuantizer())
        if id(parameter) in owners:
            other, label, shared = owners[id(parameter)]
            if label != str(quantizer):
                raise ValueError(
                    f"convert: {name}.{weight} is shared with {other}, where its quantizer is "
                    f"{label}, and would get {quantizer}: a shared weight has one quantizer"
                )
            layer.adopt_quantizer(weight, shared)
        elif not isinstance(quantizer, NoQuantizer):
            owners[id(parameter)] = (name, str(quantizer), quantizer)
