"""An average of the weights over the steps of a training, to be evaluated in their place."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of ``model`` whose ``update_parameters(model)`` lets it follow.

    Each parameter and buffer follows as an exponential moving average: ``a ← decay · a + (1 − decay) · w``.
    Full-precision weights are averaged; quantizers then see the average.
    """
    follow = get_ema_multi_avg_fn(decay)
    return AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
