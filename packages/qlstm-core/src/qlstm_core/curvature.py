"""The optimizer's second moments, for quantizers that weigh errors by the loss's curvature (LAB, LAT)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qlstm_core.layers.stack import RecurrentLayer

_SECOND_MOMENTS = ("exp_avg_sq", "square_avg", "sum")
"""Names under which torch's optimizers keep them: Adam's family, RMSprop and Adadelta, Adagrad."""


def track_curvature(model: nn.Module, optimizer: torch.optim.Optimizer) -> RemovableHandle:
    """Keep the second moments that ``optimizer`` has of each weight at hand for quantizers that need them.

    After every optimizer step, each layer's ``curvature`` buffers (ones before the first step) take the
    exponential averages of squared gradients that Adam, AdamW, RMSprop, Adagrad and their like keep. The
    buffers belong to the ``state_dict``, so that a resumed run and an evaluated model quantize as the
    training did.

    Args:
        model: a module with recurrent layers, or one of them.
        optimizer: holds their weights.

    Returns:
        A handle whose ``remove()`` stops the tracking.

    Raises:
        ValueError: no layer of ``model`` has a quantizer that needs curvature, or the optimizer does not hold
            the weight of one that does.
        TypeError: an optimizer that keeps no second moment (SGD, for example), at once where it shows before
            the first step, else in that step.

    Source: Hou, Yao and Kwok 2017, "Loss-aware binarization of deep networks", arXiv:1611.01600, section 3.2.
    """
    weights = _tracked(model)
    if not weights:
        raise ValueError("no quantizer of this model needs second moments: track_curvature has nothing to do")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, weight, _ in weights:
        if id(weight) not in held:
            raise ValueError(f"the optimizer does not hold {name}, whose quantizer needs its second moments")
    if isinstance(optimizer, torch.optim.SGD | torch.optim.ASGD | torch.optim.Rprop | torch.optim.LBFGS):
        raise TypeError(_no_moments(optimizer))

    def update(stepped: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for _, weight, curvature in weights:
            state = stepped.state.get(weight)
            if not state:
                continue  # no gradient reached it yet
            moment = next((state[name] for name in _SECOND_MOMENTS if name in state), None)
            if moment is None:
                raise TypeError(_no_moments(stepped))
            curvature.copy_(moment)

    return optimizer.register_step_post_hook(update)


def _tracked(model: nn.Module) -> list[tuple[str, nn.Parameter, Tensor]]:
    """Return name, weight and curvature buffer of every weight whose quantizer needs curvature."""
    found = []
    for prefix, module in model.named_modules():
        if isinstance(module, RecurrentLayer):
            for name, buffer in module.named_buffers(recurse=False):
                if name.startswith("curvature_"):
                    weight = "weight_" + name.removeprefix("curvature_")
                    found.append((f"{prefix}.{weight}".lstrip("."), module.get_parameter(weight), buffer))
    return found


def _no_moments(optimizer: torch.optim.Optimizer) -> str:
    return (
        f"{type(optimizer).__name__} keeps no second moments, which this model's quantizers need: "
        "use Adam, AdamW, RMSprop or Adagrad"
    )
