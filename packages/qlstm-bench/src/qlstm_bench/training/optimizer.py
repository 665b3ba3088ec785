"""How the parameters move: the optimizer, who has which learning rate, and when it changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_core import Quantizer, RecurrentLayer
from qlstm_core.plugins import registry

# Kuchaiev and Ginsburg's code starts Adagrad's sums at 1 for a loss summed over 20 steps; ours is the mean.
_ADAGRAD_START = 1 / 20**2

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adagrad": partial(torch.optim.Adagrad, initial_accumulator_value=_ADAGRAD_START),
}
"""The optimizers by the names that users type."""


def check_curvature(config: RunConfig) -> None:
    """Check that the optimizer keeps what the quantizer wants to know.

    Raises:
        ConfigError: a quantizer that needs second moments, and an optimizer that keeps none.
    """
    if config.optimizer != "sgd":
        return
    for name in (config.quantizer, config.input_quantizer or "none"):
        if registry.quantizers.create(name).needs_curvature:
            raise ConfigError(
                f"optimizer: quantizer {name!r} weighs errors by the optimizer's second moments, "
                "and sgd keeps none; expected adam or adagrad"
            )


def make_optimizer(model: nn.Module, config: RunConfig, quantized_lr: float) -> torch.optim.Optimizer:
    """Return the optimizer that the settings ask for.

    Args:
        model: the model whose parameters it holds.
        config: gives its name, the learning rate, ``gain_lr``, and maybe ``quantized_lr``.
        quantized_lr: learning rate of quantized weights as a multiple, where the settings give none.
    """
    factor = quantized_lr if config.quantized_lr is None else config.quantized_lr
    quantized = list(quantized_weights(model)) if factor != 1 else []
    gains = list(normalizer_gains(model)) if config.gain_lr != 1 else []
    held = {id(parameter) for parameter in (*quantized, *gains)}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) not in held]}]
    if quantized:
        groups.append({"params": quantized, "lr": config.lr * factor})
    if gains:
        groups.append({"params": gains, "lr": config.lr * config.gain_lr})
    return OPTIMIZERS[config.optimizer](groups, lr=config.lr)


def quantized_weights(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the full-precision weights of every recurrent layer that a quantizer acts on."""
    for layer in model.modules():
        if isinstance(layer, RecurrentLayer):
            for name in layer.quantizers:
                yield layer.get_parameter(f"weight_{name}")


def normalizer_gains(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the gains of every recurrent layer's normalisers."""
    for layer in model.modules():
        if isinstance(layer, RecurrentLayer):
            for normalizer in layer.normalizers.values():
                if isinstance(gain := getattr(normalizer, "gain", None), nn.Parameter):
                    yield gain


@torch.no_grad()
def has_unit_levels(layer: RecurrentLayer) -> bool:
    """Return whether a layer's quantizers give ±1, or 0 and ±1, whatever the weights are."""
    fixed = [q for q in layer.quantizers.values() if isinstance(q, Quantizer) and q.scales == 0]
    if not fixed or len(fixed) < len(layer.quantizers):
        return False
    training = layer.training
    layer.eval()
    try:
        keys = {name.split("_l")[0] for name in layer.quantizers}
        weights = layer.quantized_weights()
        return all(bool((weights[key].abs().max() == 1).item()) for key in keys)
    finally:
        layer.train(training)


class Schedule:
    """Changes learning rates as validations and epochs go by, and says when to stop.

    At a validation that is no better than the best before it the rates are divided by ``stall_divisor``;
    after each epoch beyond ``epoch_decay_after`` they are multiplied by ``epoch_decay``; after ``patience``
    validations in a row without a better one, training stops.

    Args:
        config: gives these settings.
        optimizer: the optimizer whose rates change.
        higher_is_better: whether a larger figure of merit is the better one.
    """

    def __init__(self, config: RunConfig, optimizer: torch.optim.Optimizer, higher_is_better: bool) -> None:
        self._config, self._optimizer = config, optimizer
        self._sign = 1 if higher_is_better else -1
        self.best: float | None = None
        self.stalled = 0

    def validated(self, figure: float) -> bool:
        """Take note of a figure of merit in validation; return whether it is the best so far."""
        if not math.isnan(figure) and (self.best is None or self._sign * (figure - self.best) > 0):
            self.best, self.stalled = figure, 0
            return True
        self.stalled += 1
        self._scale(1 / self._config.stall_divisor)
        return False

    def epoch_ended(self, epoch: int) -> None:
        """Take note that ``epoch`` passes over the data are done."""
        if epoch > self._config.epoch_decay_after:
            self._scale(self._config.epoch_decay)

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return self._config.patience is not None and self.stalled >= self._config.patience

    def state_dict(self) -> dict[str, Any]:
        """Return what decides how it goes on; the rates themselves are the optimizer's."""
        return {"best": self.best, "stalled": self.stalled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what :meth:`state_dict` returned."""
        self.best, self.stalled = state["best"], state["stalled"]

    def _scale(self, factor: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] *= factor


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of ``model`` whose ``update_parameters(model)`` lets it follow.

    Each parameter and buffer follows as an exponential moving average: ``a ← decay · a + (1 − decay) · w``.
    Full-precision weights are averaged; quantizers then see the average.
    """
    follow = get_ema_multi_avg_fn(decay)
    return AveragedModel(model, multi_avg_fn=follow, use_buffers=True)


def clip_gradients_(model: nn.Module, limit: float, *, apart: bool = False) -> float:
    """Scale gradients down to a norm of ``limit`` where it is larger, in place; return what it was over all.

    The norm is taken in float64: the squares of gradients above 1e19 overflow float32, and exploding is what
    they do here. It is infinite or NaN only where a gradient is.

    Args:
        model: a model whose parameters have gradients.
        limit: largest norm.
        apart: give the parameters of recurrent layers a norm of their own, and the rest another. One norm
            over all, the paper's, scales the output layer's gradient to nothing where those of the recurrent
            weights explode.
    """
    recurrent = {
        id(p) for layer in model.modules() if isinstance(layer, RecurrentLayer) for p in layer.parameters()
    }
    gradients: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in model.parameters():
        if parameter.grad is not None:
            if parameter.grad.is_sparse:  # rows that came up twice are added, before their norm is taken
                parameter.grad = parameter.grad.coalesce()
            gradients[apart and id(parameter) in recurrent].append(parameter.grad)
    norms = [_clip(group, limit) for group in gradients]
    return math.hypot(*norms)


def _clip(gradients: Sequence[Tensor], limit: float) -> float:
    norm = _norm(gradients)
    if limit < norm < math.inf:
        for gradient in gradients:
            gradient.mul_(limit / norm)
    return norm


def _norm(gradients: Iterable[Tensor]) -> float:
    values = [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]
    norms = [torch.linalg.vector_norm(value, dtype=torch.float64) for value in values]
    return float(torch.stack(norms).norm()) if norms else 0.0
