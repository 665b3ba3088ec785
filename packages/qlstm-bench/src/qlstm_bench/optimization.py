"""How the parameters move: the optimizer, who has which learning rate, and when it changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

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
    if config.optimizer == "sgd" and registry.quantizers.create(config.quantizer).needs_curvature:
        raise ConfigError(
            f"optimizer: quantizer {config.quantizer!r} weighs errors by the optimizer's second moments, "
            "and sgd keeps none; expected adam or adagrad"
        )


def make_optimizer(model: nn.Module, config: RunConfig, quantized_lr: float) -> torch.optim.Optimizer:
    """Return the optimizer that the settings ask for.

    Args:
        model: whose parameters it holds.
        config: gives its name, the learning rate, and maybe ``quantized_lr``.
        quantized_lr: learning rate of quantized weights as a multiple, where the settings give none.
    """
    factor = quantized_lr if config.quantized_lr is None else config.quantized_lr
    quantized = list(quantized_weights(model)) if factor != 1 else []
    held = {id(weight) for weight in quantized}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) not in held]}]
    if quantized:
        groups.append({"params": quantized, "lr": config.lr * factor})
    return OPTIMIZERS[config.optimizer](groups, lr=config.lr)


def quantized_weights(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the full-precision weights of every recurrent layer that a quantizer acts on."""
    for layer in model.modules():
        if isinstance(layer, RecurrentLayer):
            for name in layer.quantizers:
                yield layer.get_parameter(f"weight_{name}")


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
        optimizer: whose rates change.
        higher_is_better: of the figure of merit.
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
