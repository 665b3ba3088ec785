"""What holds for the gradients of quantizers and normalisers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qlstm_core.interfaces import Normalizer, Quantizer
from qlstm_core.testing.assertions import require, require_equal, require_finite, skip
from qlstm_core.testing.inputs import BATCH, MODES, QUANTIZE, Plugin, Use, normal, prepared, uses


def check_gradient(plugin: Plugin) -> None:
    """Input and own parameters get finite gradients, for huge, tiny, all-equal and all-zero input too."""
    for mode, training in MODES.items():
        for use in uses(plugin):
            for description, value in use.inputs(torch.float32).items():
                for initial in (
                    use.weight_for(value),
                    value if use.gates == 0 else use.weight_for(value) * 0,
                ):
                    module = prepared(plugin, initial).train(training)
                    where = f"in {mode}, for a {use.what} {description},"
                    _, reached = _gradient(module, use, value, where)
                    require_finite(reached, f"{where} the gradient of the {use.what}")
                    for name, parameter in module.named_parameters():
                        if parameter.grad is not None:
                            require_finite(parameter.grad, f"{where} the gradient of parameter {name!r}")
        _require_parameters_reached(plugin, training, mode)


def check_straight_through(quantizer: Quantizer) -> None:
    """With ``gradient = "straight-through"``, the gradient passes to the weight unchanged."""
    if quantizer.gradient != "straight-through":
        skip(f"declares a {quantizer.gradient} gradient")
    for mode, training in MODES.items():
        for description, weight in QUANTIZE.inputs(torch.float32).items():
            where = f"in {mode}, for a weight {description},"
            q = prepared(quantizer, QUANTIZE.weight_for(weight)).train(training)
            given, reached = _gradient(q, QUANTIZE, weight, where)
            advice = 'declare gradient = "custom" for a pseudo-gradient of another form'
            require_equal(reached, given, f"{where} the gradient changes on its way to the weight; {advice}")


def check_derivative(normalizer: Normalizer) -> None:
    """The gradients of input and parameters are derivatives: they agree with finite differences."""
    shape = (2, 3, 4)
    for mode, training in MODES.items():
        for use in uses(normalizer):
            n = prepared(normalizer, normal(shape, dtype=torch.float64)).train(training)
            point = normal(shape if use.gates == 0 else (BATCH, *shape[:2]), seed=3, dtype=torch.float64)
            _require_derivative(n, use, point, f"in {mode}, for a {use.what},")


def _gradient(module: Plugin, use: Use, value: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Return a gradient given to the result for ``value``, and the one that reaches ``value``."""
    leaf = value.clone().requires_grad_()
    result = use.apply(module, leaf)
    require(
        result.requires_grad, f"{where} the result is cut off from the {use.what}: no gradient flows back"
    )
    given = normal(tuple(result.shape), seed=13).to(result)
    result.backward(given)
    require(leaf.grad is not None, f"{where} no gradient reaches the {use.what}")
    assert leaf.grad is not None
    return given, leaf.grad


def _require_parameters_reached(plugin: Plugin, training: bool, mode: str) -> None:
    module = prepared(plugin, normal() / 4).train(training)
    for use in uses(plugin):
        _gradient(module, use, use.ordinary(), f"in {mode}")
    for name, parameter in module.named_parameters():
        reached = parameter.grad is not None or not parameter.requires_grad
        require(reached, f"in {mode}, no gradient reaches parameter {name!r}")


def _require_derivative(module: Plugin, use: Use, point: Tensor, where: str) -> None:
    """Compare the gradients of input and parameters with finite differences."""
    tensors = {f"the {use.what}": point.requires_grad_()}
    tensors |= {f"the parameter {name!r}": p for name, p in module.named_parameters() if p.requires_grad}
    weights = normal(tuple(use.apply(module, point).shape), seed=13, dtype=torch.float64)
    require_derivative(lambda: (use.apply(module, point) * weights).sum(), tensors, f"{where} ")


def require_derivative(loss: Callable[[], Tensor], tensors: dict[str, Tensor], where: str = "") -> None:
    """Compare gradients with central differences along random directions, one for each tensor.

    Args:
        loss: computes a scalar from the tensors as they are, in float64.
        tensors: those that it depends on, by what they are.
        where: opens the message.
    """
    gradients = torch.autograd.grad(loss(), list(tensors.values()), allow_unused=True, materialize_grads=True)
    step = 1e-6
    for seed, ((name, tensor), gradient) in enumerate(zip(tensors.items(), gradients, strict=True)):
        direction = normal(tuple(tensor.shape), seed=30 + seed, dtype=torch.float64)
        losses = []
        with torch.no_grad():
            for shift in (step, -2 * step):
                tensor += shift * direction
                losses.append(loss())
            tensor += step * direction
        slope = float(losses[0] - losses[1]) / (2 * step)
        found = float((gradient * direction).sum())
        scale = float((gradient * direction).abs().sum()) + abs(slope)
        message = f"{where}the gradient of {name} is not the derivative: along a random direction it gives"
        require(
            abs(found - slope) <= 1e-5 * scale, f"{message} {found:.6g}, finite differences give {slope:.6g}"
        )
