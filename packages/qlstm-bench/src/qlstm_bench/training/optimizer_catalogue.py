"""Optimizers by name, with options: torch's own and those of plugins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from qlstm_bench.config import ConfigError
from qlstm_core.curvature import second_moments
from qlstm_core.plugins import Catalogue, PluginError, Registry, Spec, registry
from qlstm_core.plugins.errors import blame, message_of
from qlstm_core.plugins.options import split_options


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec(Spec):
    """An optimizer; ``factory(params, lr=…, **options)`` returns a :class:`torch.optim.Optimizer`.

    ``params`` are groups of parameters as torch's optimizers take them, some with an ``lr`` of their own. A
    training calls ``step()`` without closure, and changes ``lr`` in the groups as it goes on.
    """


# Kuchaiev and Ginsburg's code starts Adagrad's sums at 1 for a loss summed over 20 steps; ours is the mean.
_ADAGRAD_START = 1 / 20**2

_UNUSABLE = ("Optimizer", "LBFGS", "SparseAdam")
"""Classes of torch.optim that train no network here: the base, one that wants a closure and a single group of
parameters, and one that wants every gradient sparse."""


def optimizers_of(registry: Registry) -> Catalogue[OptimizerSpec]:
    """Return the catalogue of all optimizers that the installed plugins provide."""
    return registry.catalogue(
        "qlstm_optimizers", OptimizerSpec, "optimizer", product=Optimizer, arguments=("params", "lr")
    )


def torch_optimizers() -> Iterator[OptimizerSpec]:
    """Yield torch's own optimizers, each by its class's name in small letters."""
    for title, cls in inspect.getmembers(torch.optim, inspect.isclass):
        if not issubclass(cls, Optimizer) or title in _UNUSABLE:
            continue
        summary = f"torch.optim.{title}"
        factory: Callable[..., Optimizer] = cls
        if cls is torch.optim.Adagrad:
            summary += f", whose sums start from {_ADAGRAD_START}"
            factory = partial(cls, initial_accumulator_value=_ADAGRAD_START)
        yield OptimizerSpec(name=title.lower(), summary=summary, factory=factory)


def canonical_optimizer(text: str) -> str:
    """Return the one spelling of an optimizer's name and options.

    Raises:
        PluginError: an unknown name or option, or a value that does not fit.
        ConfigError: ``lr`` among the options.
    """
    if isinstance(text, str) and "lr" in (options := split_options(text)[1]):
        raise ConfigError(
            f"optimizer: {text!r} gives the learning rate, which is a setting of its own: "
            f"expected lr={options['lr']} beside the optimizer"
        )
    return optimizers_of(registry).canonical(text)


def build_optimizer(text: str, groups: Sequence[dict[str, Any]], lr: float) -> Optimizer:
    """Return the optimizer that ``text`` names, on groups of parameters.

    Args:
        text: a name, or a name with options.
        groups: groups of parameters, some with an ``lr`` of their own.
        lr: learning rate of the others.

    Raises:
        ConfigError: values of options, or parameters, that the optimizer refuses.
        PluginError: an unknown name or option, or a factory that returns no optimizer.
    """
    factory = optimizers_of(registry).factory(text)
    try:
        optimizer = factory(groups, lr=lr)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer {text!r}: {message_of(error)}") from error
    if not isinstance(optimizer, Optimizer):
        raise PluginError(
            f"optimizer {text!r}: its factory returned {type(optimizer).__name__}, not Optimizer"
        )
    return optimizer


def check_optimizer(text: str, lr: float) -> None:
    """See that an optimizer makes a step, unless it is one of torch's as it comes.

    Raises:
        ConfigError: it refuses its options, or a step.
        PluginError: as :func:`build_optimizer`.
    """
    if optimizers_of(registry).factory(text) not in vars(torch.optim).values():
        _state_of_a_weight(text, lr)


def keeps_second_moments(text: str, lr: float = 0.001) -> bool:
    """Return whether an optimizer keeps averages of each weight's squared gradients, as its state shows."""
    weight, state = _state_of_a_weight(text, lr)
    return second_moments(state, weight) is not None


def optimizers_with_second_moments() -> list[str]:
    """Return the names of the optimizers that keep averages of each weight's squared gradients."""
    return [name for name in optimizers_of(registry).names() if _holds(keeps_second_moments, name)]


def takes_sparse_gradients(text: str, lr: float) -> bool:
    """Return whether an optimizer steps along sparse gradients, such as those of an embedding's few rows."""
    return _holds(partial(_state_of_a_weight, sparse=True), text, lr)


def _holds(question: Callable[..., Any], *arguments: Any) -> bool:
    """Return whether the answer is yes; an optimizer that cannot be asked says no."""
    try:
        return bool(question(*arguments))
    except (ConfigError, PluginError):
        return False


def _state_of_a_weight(text: str, lr: float, *, sparse: bool = False) -> tuple[nn.Parameter, dict[str, Any]]:
    """Return a weight, and what an optimizer keeps of it after two steps.

    Args:
        text: the optimizer, with options or without.
        lr: learning rate.
        sparse: whether the weight's gradient is.
    """
    weight, bias = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
    others: dict[str, Any] = {"params": [bias], "name": "others"}
    quantized: dict[str, Any] = {"params": [weight], "lr": lr, "name": "quantized"}
    optimizer = build_optimizer(text, [others, quantized], lr)
    try:
        # torch warns of sparse gradients where nobody has decided whether they are checked.
        with torch.sparse.check_sparse_tensor_invariants(enable=False):
            for _ in range(2):  # the first step may only begin a state that the second one cannot use
                bias.grad, weight.grad = torch.ones(3), torch.ones(2, 3)
                if sparse:
                    weight.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 3), (2, 3))
                optimizer.step()
        return weight, optimizer.state[weight]
    except BaseException as error:
        raise ConfigError(f"optimizer {text!r} makes no step: {blame(error)}") from error
