"""The optimizer's second moments, for quantizers that weigh errors by the loss's curvature (LAB, LAT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qlstm_core.layers.computed_weights import source_of
from qlstm_core.layers.quantized import QuantizedLayer, curvature_name

_SECOND_MOMENTS = ("exp_avg_sq", "square_avg", "sum")
"""Names under which torch's optimizers keep them: Adam's family, RMSprop and Adadelta, Adagrad."""


def track_curvature(model: nn.Module, optimizer: torch.optim.Optimizer) -> RemovableHandle:
    """Keep the second moments that ``optimizer`` has of each weight at hand for quantizers that need them.

    After every optimizer step, each layer's ``curvature`` buffers (ones before the first step) take the
    exponential averages of squared gradients that Adam, AdamW, RMSprop, Adagrad and their like keep. The
    buffers belong to the ``state_dict``, so that a resumed run and an evaluated model quantize as the
    training did.

    Layers are followed wherever they go: to another device or dtype, through ``load_state_dict`` of model or
    optimizer and ``add_param_group``. A copy of model or optimizer is not tracked, since torch copies no
    hooks of an optimizer: call this again with the copies. Where parts of a model have optimizers of their
    own, call it once for each part. For a weight that is computed (parametrised, pruned), the moments of the
    parameter of its shape stand for its own.

    Args:
        model: a module with quantized layers, or one of them.
        optimizer: holds their weights.

    Returns:
        A handle whose ``remove()`` stops the tracking.

    Raises:
        ValueError: no layer of ``model`` has a quantizer that needs curvature, or the optimizer does not hold
            the weight of one that does; in a later step, no longer, because another has taken its place.
        TypeError: an optimizer that keeps no second moment (SGD, for example), at once where it shows before
            the first step, else in that step.

    Source: Hou, Yao and Kwok 2017, "Loss-aware binarization of deep networks", arXiv:1611.01600, section 3.2.
    """
    tracked = _tracked(model)
    if not tracked:
        raise ValueError("no quantizer of this model needs second moments: track_curvature has nothing to do")
    for name, layer, weight_name in tracked:
        if not _holds(optimizer, _source(layer, weight_name)):
            raise ValueError(f"the optimizer does not hold {name}, whose quantizer needs its second moments")
    if isinstance(optimizer, torch.optim.SGD | torch.optim.ASGD | torch.optim.Rprop | torch.optim.LBFGS):
        raise TypeError(_no_moments(optimizer))

    def update(stepped: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for name, layer, weight_name in tracked:
            # Looked up at each step: moving a module replaces its buffers, loading one maybe its weights.
            weight = _source(layer, weight_name)
            state = stepped.state.get(weight)
            if not state:
                if not _holds(stepped, weight):
                    raise ValueError(
                        f"the optimizer no longer holds {name}: another parameter has taken its place "
                        "(as with load_state_dict(assign=True)), which no step will change; "
                        "make the optimizer again, then call track_curvature"
                    )
                continue  # no gradient reached it yet
            moment = second_moments(state, weight)
            if moment is None:
                raise TypeError(_no_moments(stepped))
            _curvature(layer, weight_name).copy_(moment)

    return optimizer.register_step_post_hook(update)


def second_moments(state: Mapping[str, Any], weight: Tensor) -> Tensor | None:
    """Return the averages of squared gradients that an optimizer keeps of a weight, of the weight's shape.

    Args:
        state: what the optimizer keeps of the weight, after a step: ``optimizer.state[weight]``.
        weight: the weight.

    Returns:
        The tensor itself; ``None`` where the optimizer keeps none, or one of whole rows and columns.
    """
    found = (state[name] for name in _SECOND_MOMENTS if name in state)
    return next((moment for moment in found if moment.shape == weight.shape), None)


def _tracked(model: nn.Module) -> list[tuple[str, QuantizedLayer, str]]:
    """Return the full name, the layer and the name in it of every weight whose quantizer needs curvature."""
    return [
        (f"{prefix}.{weight}".lstrip("."), module, weight)
        for prefix, module in model.named_modules()
        if isinstance(module, QuantizedLayer)
        for weight, quantizer in module.weight_quantizers().items()
        if quantizer.needs_curvature
    ]


def _curvature(layer: QuantizedLayer, weight: str) -> Tensor:
    return layer.get_buffer(curvature_name(weight))


def _source(layer: QuantizedLayer, weight: str) -> nn.Parameter:
    """Return the parameter whose second moments are those of a weight."""
    return source_of(layer, weight, _curvature(layer, weight).shape)


def _holds(optimizer: torch.optim.Optimizer, weight: Tensor) -> bool:
    return any(weight is p for group in optimizer.param_groups for p in group["params"])


def _no_moments(optimizer: torch.optim.Optimizer) -> str:
    return (
        f"{type(optimizer).__name__} keeps no second moments, which this model's quantizers need: "
        "use Adam, AdamW, RMSprop or Adagrad"
    )
