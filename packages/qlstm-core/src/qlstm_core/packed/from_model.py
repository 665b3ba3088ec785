"""From a trained model to a chain of stages: what it computes in ``eval()``, with its weights as bits."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from qlstm_core.conversion import RECURRENT
from qlstm_core.layers import Embedding, InitialState, Linear, RecurrentLayer
from qlstm_core.packed.chain import Chain, EmbeddingStage, LinearStage, Outcome, RecurrentStage, Stage
from qlstm_core.packed.from_layer import bits_of, extract, float32_array
from qlstm_core.packed.layer import PackedLayer
from qlstm_core.packed.network import Bits, Floats, Matrix
from qlstm_core.packed.vocabulary import Vocabulary

_IGNORED = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.Identity,
)
"""What does nothing in ``eval()``."""
_TAKEN = (
    "Embedding, InitialState, recurrent layers, Linear, Dropout, Identity, and Softmax(-1) or LogSoftmax(-1) "
    "at the end"
)
_INSTEAD = "leave it out of the chain, or pack the recurrent layer alone: model.rnn = pack(model.rnn)"


class _Named(NamedTuple):
    """A module of a model, and its name there."""

    name: str
    module: nn.Module


@torch.no_grad()
def chain_of(model: nn.Module, vocabulary: Vocabulary | None = None) -> Chain:
    """Return what ``model`` computes in ``eval()``; the model itself stays as it is.

    Args:
        model: a ``nn.Sequential``, or a model with a method ``packed_stages()`` that returns the modules that
            its ``forward`` applies, one after the other.
        vocabulary: what its tokens stand for.

    Raises:
        TypeError: a model that does not list its stages, or a stage of a kind that cannot be packed.
        ValueError: a stage that cannot be packed as it is, stages that do not fit one another, nothing
            recurrent, nothing quantized, one weight with two quantizers, or a vocabulary that does not fit.
    """
    given = list(_listed(model))
    outcome, given = _outcome(given)
    stages: list[Stage] = []
    owners: dict[int, tuple[str, str, Matrix]] = {}
    start: _Named | None = None
    for one in given:
        if isinstance(one.module, InitialState):
            start = one
            continue
        stage = _stage(one, start if _is_recurrent(one.module) else None, owners)
        if start is not None and not isinstance(stage, RecurrentStage):
            raise ValueError(
                f"stage {start.name!r} is the state of a recurrent layer, but {one.name!r} follows: "
                "list it before its layer"
            )
        start = None
        stages.append(stage)
    if start is not None:
        raise ValueError(f"stage {start.name!r} is the state of a recurrent layer, but none follows")
    chain = Chain(tuple(stages), outcome, vocabulary)
    if not any(isinstance(matrix, Bits) for matrix in chain.matrices()):
        raise ValueError(
            "nothing to pack: every weight of the model is full precision (quantizer='none'); train it with "
            "a quantizer, or give it one with qlstm_core.convert(model, quantizer)"
        )
    return chain


def _listed(model: nn.Module) -> Iterator[_Named]:
    """Yield the stages of a model with their names, nested sequences in their place.

    Raises:
        TypeError: a model that lists none, or that lists something else than modules.
    """
    names = {id(module): name for name, module in model.named_modules()}
    listing = getattr(model, "packed_stages", None)
    if listing is not None:
        given = listing()
        modules: list[Any] = list(given) if isinstance(given, Iterable) else [given]
    elif isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        modules = list(model)
    else:
        raise TypeError(
            "pack takes an LSTM, GRU, FactorizedLSTM or GroupedLSTM of qlstm_core, an nn.Sequential, or a "
            "model with a method packed_stages() that returns the modules which its forward applies, one "
            f"after the other; got {type(model).__module__}.{type(model).__name__}"
        )
    for position, module in enumerate(modules):
        if not isinstance(module, nn.Module) or module is model:
            found = "the model itself" if module is model else type(module).__name__
            raise TypeError(
                f"packed_stages() of {type(model).__name__} returned {found} at place {position}, "
                "expected its modules"
            )
        name = names.get(id(module), f"stage {position}")
        if isinstance(module, nn.Sequential) or hasattr(module, "packed_stages"):
            for inner in _listed(module):
                yield _Named(f"{name}.{inner.name}", inner.module)
        elif not isinstance(module, _IGNORED):
            yield _Named(name, module)


def _is_recurrent(module: nn.Module) -> bool:
    return isinstance(module, RecurrentLayer | PackedLayer) or type(module) in RECURRENT


def _outcome(given: list[_Named]) -> tuple[Outcome, list[_Named]]:
    """Return what the last module makes of the output, and the modules before it."""
    if not given or not isinstance(given[-1].module, nn.Softmax | nn.LogSoftmax):
        return "logits", given
    last = given[-1]
    if last.module.dim != -1:
        raise ValueError(
            f"stage {last.name!r} is a {type(last.module).__name__} over dimension {last.module.dim}; "
            "expected dim=-1, the symbols"
        )
    return ("softmax" if isinstance(last.module, nn.Softmax) else "log-softmax"), given[:-1]


def _stage(one: _Named, start: _Named | None, owners: dict[int, tuple[str, str, Matrix]]) -> Stage:
    """Return one module as a stage.

    Args:
        one: the module.
        start: initial state of a recurrent layer.
        owners: by its id, each weight that is a stage's already: name and quantizer there, and its matrix.
    """
    name, module = one
    if any(is_lazy(parameter) or parameter.is_meta for parameter in module.parameters()):
        raise ValueError(f"stage {name!r} has no weights yet: run the model once, or load its weights")
    try:
        if _is_recurrent(module):
            return _recurrent(name, module, start)
        if isinstance(module, nn.Embedding | nn.Linear):
            return _matrix_stage(name, module, owners)
    except (TypeError, ValueError) as error:
        raise type(error)(f"stage {name!r} cannot be packed: {error}") from error
    raise TypeError(
        f"stage {name!r} cannot be packed: it is a {type(module).__module__}.{type(module).__name__}, and "
        f"stages are {_TAKEN}; {_INSTEAD}"
    )


def _recurrent(name: str, module: nn.Module, start: _Named | None) -> RecurrentStage:
    if isinstance(module, PackedLayer):
        network = module.network
    else:
        family = RECURRENT.get(type(module))
        layer: Any = module if family is None else family.from_float(module)
        network = extract(layer, unquantized=True)
    if start is None:
        return RecurrentStage(name, network)
    given = start.module
    assert isinstance(given, InitialState)
    if given.noise and given.noise_in_eval:
        raise ValueError(
            f"its initial state, {start.name!r}, adds noise in eval(), which differs from call to call: "
            f"set {start.name}.noise_in_eval = False"
        )
    states = [state.detach().cpu().squeeze(1) for state in given.parameters()]
    return RecurrentStage(name, network, tuple(float32_array(state) for state in states))


def _matrix_stage(
    name: str, module: nn.Embedding | nn.Linear, owners: dict[int, tuple[str, str, Matrix]]
) -> EmbeddingStage | LinearStage:
    plain = (
        (nn.Embedding.forward, Embedding.forward)
        if isinstance(module, nn.Embedding)
        else (nn.Linear.forward, Linear.forward)
    )
    if type(module).forward not in plain:
        raise TypeError(f"{type(module).__name__} has a forward of its own, which packing does not see")
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        raise ValueError("max_norm changes its rows when they are read: leave it out")
    label = module.labels.get("quantizer", "none") if isinstance(module, Embedding | Linear) else "none"
    matrix = _matrix(name, module)
    given = module.weight
    if id(given) in owners:
        other, theirs, shared = owners[id(given)]
        if not _equal(matrix, shared):
            raise ValueError(
                f"its weight is that of {other!r} too, where its quantizer is {theirs}, and here it is "
                f"{label}: a shared weight has one quantizer; give both the same, or a weight each"
            )
        matrix = shared
    owners[id(given)] = (name, label, matrix)
    if isinstance(module, nn.Linear):
        bias = None if module.bias is None else _finite("bias", float32_array(module.bias.cpu()))
        return LinearStage(name, label, matrix, bias)
    padding = None
    if module.padding_idx is not None and isinstance(matrix, Bits):
        row = _finite("weight", float32_array(module.weight[module.padding_idx].cpu()))
        padding = (module.padding_idx, row)
    return EmbeddingStage(name, label, matrix, padding)


def _matrix(name: str, module: nn.Embedding | nn.Linear) -> Matrix:
    """Return a weight as bit planes, or as it is where it has no quantizer, ``(1, rows, cols)``."""
    if not (isinstance(module, Embedding | Linear) and module.quantizes):
        return _finite("weight", float32_array(module.weight.unsqueeze(0).cpu()))
    frozen = copy.deepcopy(module).cpu().eval()
    weight: Tensor = frozen.weight.detach().unsqueeze(0)
    dense = frozen.quantize("weight", weight, frozen.quantizer)
    return bits_of(f"{name}.weight", weight, frozen.quantizer, getattr(frozen, "curvature", None), dense)


def _equal(matrix: Matrix, other: Matrix) -> bool:
    if not (isinstance(matrix, Bits) and isinstance(other, Bits)):
        return isinstance(matrix, np.ndarray) and isinstance(other, np.ndarray)
    return (
        (matrix.planes, matrix.offset) == (other.planes, other.offset)
        and np.array_equal(matrix.signs, other.signs)
        and np.array_equal(matrix.scales, other.scales)
    )


def _finite(name: str, array: Floats) -> Floats:
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite: the network has diverged")
    return array
