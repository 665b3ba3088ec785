"""How the parameters move: the optimizer, who has which learning rate, and when it changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from qlstm_bench.config import Clipping, ConfigError, RunConfig
from qlstm_bench.training.optimizer_catalogue import (
    build_optimizer,
    keeps_second_moments,
    optimizers_with_second_moments,
)
from qlstm_core import Quantizer, RecurrentLayer
from qlstm_core.layers.quantized import evaluating
from qlstm_core.plugins import registry


def check_curvature(config: RunConfig) -> None:
    """Check that the optimizer keeps what the quantizers want to know.

    Raises:
        ConfigError: a quantizer that needs second moments, and an optimizer that keeps none of what it
            quantizes.
    """
    if registry.quantizers.create(config.state_quantizer).needs_curvature:
        raise ConfigError(
            f"state_quantizer: {config.state_quantizer!r} weighs errors by the optimizer's second moments, "
            "and a state has none; expected a method without, such as 'bwn'"
        )
    others = (config.input_quantizer or "none", config.embedding_quantizer, config.head_quantizer)
    needing = [
        name for name in (config.quantizer, *others) if registry.quantizers.create(name).needs_curvature
    ]
    if needing and not keeps_second_moments(config.optimizer, config.lr):
        raise ConfigError(
            f"optimizer: quantizer {needing[0]!r} weighs errors by the optimizer's second moments, and "
            f"{config.optimizer} keeps none; expected one of {', '.join(optimizers_with_second_moments())}"
        )


def make_optimizer(model: nn.Module, config: RunConfig, quantized_lr: float) -> torch.optim.Optimizer:
    """Return the optimizer that the settings ask for, with quantized weights in a group of their own.

    Groups have a ``name``: ``"others"`` comes first, ``"quantized"`` where there are quantized weights, and
    ``"gains"`` where these have a learning rate of their own.

    Args:
        model: the model whose parameters it holds.
        config: gives its name and options, the learning rate, ``gain_lr``, and maybe ``quantized_lr``.
        quantized_lr: learning rate of quantized weights as a multiple, where the settings give none.

    Raises:
        ConfigError: options or parameters that the optimizer refuses.
        PluginError: a factory that returns no optimizer.
    """
    factor = quantized_lr if config.quantized_lr is None else config.quantized_lr
    quantized = list(quantized_weights(model))
    gains = list(normalizer_gains(model)) if config.gain_lr != 1 else []
    held = {id(parameter) for parameter in (*quantized, *gains)}
    others = [p for p in model.parameters() if id(p) not in held]
    groups: list[dict[str, Any]] = [{"params": others, "name": "others"}]
    if quantized:
        groups.append({"params": quantized, "lr": config.lr * factor, "name": "quantized"})
    if gains:
        groups.append({"params": gains, "lr": config.lr * config.gain_lr, "name": "gains"})
    return build_optimizer(config.optimizer, groups, config.lr)


def quantized_weights(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the full-precision weights of every recurrent layer that a quantizer acts on."""
    for layer in model.modules():
        if isinstance(layer, RecurrentLayer):
            for name in layer.weight_quantizers():
                yield layer.get_parameter(name)


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
    with evaluating(layer):
        keys = {name.split("_l")[0] for name in layer.quantizers}
        weights = layer.quantized_weights()
        return all(bool((weights[key].abs().max() == 1).item()) for key in keys)


class Schedule:
    """Changes learning rates as validations and epochs go by, and says when to stop.

    At a validation that is no better than the best before it all rates are divided by ``stall_divisor``;
    after each epoch beyond ``epoch_decay_after`` those that ``decay_of`` names are multiplied by
    ``epoch_decay``; after ``patience`` validations in a row without a better one, training stops.

    Args:
        config: gives these settings.
        optimizer: the optimizer whose rates change, from :func:`make_optimizer`.
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
        for group in self._optimizer.param_groups:
            group["lr"] /= self._config.stall_divisor
        return False

    def epoch_ended(self, epoch: int) -> None:
        """Take note that ``epoch`` passes over the data are done."""
        if epoch > self._config.epoch_decay_after:
            for group in self._optimizer.param_groups:
                if self._config.decay_of in ("all", group["name"]):
                    group["lr"] *= self._config.epoch_decay

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


class WeightAverage:
    """A model whose weights follow those of another as an exponential moving average.

    Parameters and buffers follow: ``a ← decay · a + (1 − decay) · w``, from the first w on. Full-precision
    weights are averaged; quantizers then see the average.

    Args:
        model: the model that is trained.
        decay: share of the average that an update leaves.
        of: ``"recurrent"`` averages the recurrent layers alone; the average then shares all other parameters
            and buffers with ``model``.

    Attributes:
        module: the model with the averaged weights.
    """

    def __init__(self, model: nn.Module, decay: float, of: Literal["all", "recurrent"] = "all") -> None:
        followed = [model] if of == "all" else list(_recurrent_layers(model))
        self._followed = nn.ModuleList(followed)
        follow = get_ema_multi_avg_fn(decay)
        self._average = AveragedModel(self._followed, multi_avg_fn=follow, use_buffers=True)
        # A copy of the model in which these have taken the places of what they follow.
        places: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        places |= {
            id(one): copied for one, copied in zip(followed, self._average.module.children(), strict=True)
        }
        self.module: nn.Module = copy.deepcopy(model, places)

    def update(self) -> None:
        """Take in the model's weights as they are now."""
        self._average.update_parameters(self._followed)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and how many updates they have had."""
        return self._average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what :meth:`state_dict` returned."""
        self._average.load_state_dict(state)


def _recurrent_layers(model: nn.Module) -> Iterator[RecurrentLayer]:
    return (layer for layer in model.modules() if isinstance(layer, RecurrentLayer))


class GradientNorm(NamedTuple):
    """The norm of a gradient over all parameters, before it was clipped.

    Args:
        value: the norm.
        clipped: whether what is limited was beyond its limit, or is not finite.
    """

    value: float
    clipped: bool


def clip_gradients_(model: nn.Module, limit: float, clipping: Clipping = "global") -> GradientNorm:
    """Scale gradients down to a norm of ``limit`` where it is larger, in place; return what it was.

    The norm is taken in float64: the squares of gradients above 1e19 overflow float32, and exploding is what
    they do here. It is infinite or NaN only where a gradient is.

    Args:
        model: a model whose parameters have gradients.
        limit: largest norm.
        clipping: ``"global"`` has one norm over all parameters, as Hou et al. have; it scales the output
            layer's gradient to nothing where those of the recurrent weights explode. ``"apart"`` has a norm
            of the recurrent layers' parameters and another of the rest. ``"recurrent"`` has the first of
            these alone and leaves the rest as it is, as Kuchaiev and Ginsburg do.
    """
    recurrent = {id(p) for layer in _recurrent_layers(model) for p in layer.parameters()}
    inner: list[Tensor] = []
    outer: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.grad is not None:
            if parameter.grad.is_sparse:  # rows that came up twice are added, before their norm is taken
                parameter.grad = parameter.grad.coalesce()
            (inner if id(parameter) in recurrent else outer).append(parameter.grad)
    limited = {"global": [inner + outer], "apart": [inner, outer], "recurrent": [inner]}[clipping]
    norms = [_clip(group, limit) for group in limited]
    free = _norm(outer) if clipping == "recurrent" else 0.0
    return GradientNorm(math.hypot(*norms, free), not all(norm <= limit for norm in norms))


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
