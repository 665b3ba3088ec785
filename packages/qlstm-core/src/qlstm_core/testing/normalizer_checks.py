"""What holds for normalisers beyond what holds for every plugin: sequences apart, the declared statistics.

Normalisers that declare ``statistics`` promise a formula (see :class:`qlstm_core.Normalizer`), by which fused
kernels compute in their stead. It is written out here once more, in float64 and without torch's
normalisation operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qlstm_core.interfaces import Normalizer
from qlstm_core.testing.assertions import (
    require,
    require_close,
    require_equal,
    require_finite,
    require_fit,
    skip,
)
from qlstm_core.testing.inputs import BATCH, MODES, NORMALIZE_ACTIVATIONS, SHAPE, STEPS, normal, prepared

TOLERANCE = 1e-9
"""Of results in float64 on input of unit variance."""


def check_declarations(normalizer: Normalizer) -> None:
    """``statistics``, ``centered`` and ``cell`` hold what the interface allows; what they promise exists."""
    allowed = (None, "features", "batch")
    statistics = normalizer.statistics
    require(statistics in allowed, f"statistics must be one of {allowed}, got {statistics!r}")
    for name in ("centered", "cell"):
        value = getattr(normalizer, name)
        require(type(value) is bool, f"{name} must be True or False, got {value!r}")
    if statistics is None:
        return
    n = prepared(normalizer, normal() / 4)
    promise = f"statistics = {statistics!r} promises"
    for name in ("gain", "bias"):
        value = getattr(n, name, "nothing")
        fits = isinstance(value, Tensor) and value.shape == SHAPE[:2]
        require(fits or (name == "bias" and value is None), f"{promise} {name} of {SHAPE[:2]}, got {value!r}")
    for name in ("running_mean", "running_var") if statistics == "batch" else ():
        value = getattr(n, name, "nothing")
        fits = isinstance(value, Tensor) and value.dim() == 3 and value.shape[1:] == SHAPE[:2]
        require(fits, f"{promise} {name} of (steps, *{SHAPE[:2]}), got {value!r}")
    for name in ("eps", "momentum") if statistics == "batch" else ("eps",):
        value = getattr(n, name, "nothing")
        require(type(value) in (int, float), f"{promise} a number {name}, got {value!r}")


@torch.no_grad()
def check_sequences_independent(normalizer: Normalizer) -> None:
    """Changing one sequence changes no other's result: in ``eval()``, with feature statistics always."""
    x = NORMALIZE_ACTIVATIONS.ordinary()
    changed = x.clone()
    changed[0] = 8 * normal(tuple(x.shape[1:]), seed=5)
    for mode, training in MODES.items():
        if training and normalizer.statistics != "features":
            continue
        expected, found, alone = (
            NORMALIZE_ACTIVATIONS.apply(prepared(normalizer, normal() / 4).train(training), value)
            for value in (x, changed, x[:1])
        )
        require_equal(found[1:], expected[1:], f"in {mode}, changing one sequence changes others")
        message = f"in {mode}, a sequence by itself gives another result than in a batch"
        require_close(alone, expected[:1], message, tolerance=1e-5)


@torch.no_grad()
def check_any_step(normalizer: Normalizer) -> None:
    """Any step from 0 on is taken, also beyond those with statistics of their own."""
    x = NORMALIZE_ACTIVATIONS.ordinary()
    for mode, training in MODES.items():
        n = prepared(normalizer, normal() / 4).train(training)
        for step in STEPS:
            result = n(x, step)
            require_fit(result, x, f"in {mode}, at step {step},")
            require_finite(result, f"in {mode}, the result at step {step}")


@torch.no_grad()
def check_scale_invariance(normalizer: Normalizer) -> None:
    """With ``statistics``, scaling the pre-activation by a positive factor does not change the result."""
    _require_statistics(normalizer)
    n: Any = prepared(normalizer, normal(dtype=torch.float64) / 4)
    # So large that eps does not count.
    x = NORMALIZE_ACTIVATIONS.ordinary(torch.float64) * 1e6 * max(n.eps, 1e-12) ** 0.5
    expected = n(x, 0)
    for factor in (1 / 8, 3.0, 1000.0):
        message = f"a pre-activation {factor} times as large gives another result"
        require_close(n(factor * x, 0), expected, message, tolerance=1e-6 * float(expected.abs().max()))


@torch.no_grad()
def check_statistics(normalizer: Normalizer) -> None:
    """With ``statistics``, ``forward`` computes the promised ``gain ⊙ (x − μ)/√(v + eps) + bias``."""
    _require_statistics(normalizer)
    for mode, training in MODES.items():
        n = _random_state(normalizer).train(training)
        for k, step in enumerate((*STEPS, 0)):
            x = 1 + 2 * normal((BATCH, *SHAPE[:2]), seed=k, dtype=torch.float64)
            if normalizer.statistics == "batch" and not training:
                row = min(step, len(n.running_mean) - 1)
                mean, variance = n.running_mean[row], n.running_var[row]
            else:
                mean, variance = _moments(n, x)
            expected = n.gain * (x - mean) / (variance + n.eps).sqrt()
            if n.bias is not None:
                expected = expected + n.bias
            what = f"in {mode}, at step {step}, the result is not gain ⊙ (x − μ)/√(v + eps) + bias"
            require_close(n(x, step), expected, what, tolerance=TOLERANCE * float(expected.abs().max()))


@torch.no_grad()
def check_running_statistics(normalizer: Normalizer) -> None:
    """With batch statistics, training moves the step's running mean and unbiased variance by ``momentum``."""
    if normalizer.statistics != "batch":
        skip("keeps no batch statistics")
    n = _random_state(normalizer).train()
    for k, step in enumerate((*STEPS, 0)):
        x = 1 + 2 * normal((BATCH, *SHAPE[:2]), seed=k, dtype=torch.float64)
        row = min(step, len(n.running_mean) - 1)
        mean, variance = n.running_mean.clone(), n.running_var.clone()
        mean[row] += n.momentum * (x.mean(0) - mean[row])
        variance[row] += n.momentum * (x.var(0, correction=1) - variance[row])
        n(x, step)
        for name, expected in (("running_mean", mean), ("running_var", variance)):
            found = getattr(n, name)
            message = (
                f"after step {step} in training, {name} is not (1 − momentum)·old + momentum·new in row {row}"
            )
            require_close(found, expected, message, tolerance=TOLERANCE)


def check_storage_bytes(normalizer: Normalizer) -> None:
    """``storage_bytes`` counts 4 bytes for each element of parameters and buffers."""
    n = prepared(normalizer, normal() / 4)
    expected = 4 * sum(tensor.numel() for tensor in (*n.parameters(), *n.buffers()))
    found = n.storage_bytes()
    require(found == expected, f"storage_bytes is {found}; parameters and buffers take {expected}")


def _require_statistics(normalizer: Normalizer) -> None:
    if normalizer.statistics is None:
        skip("declares no statistics")


def _random_state(normalizer: Normalizer) -> Any:
    """Return a prepared copy in float64 with gain, bias and running statistics all different."""
    n = prepared(normalizer, normal(dtype=torch.float64) / 4)
    for seed, tensor in enumerate((*n.parameters(), *n.buffers())):
        tensor.copy_(normal(tuple(tensor.shape), seed=40 + seed).abs() + 0.5)
    return n


def _moments(n: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return μ and v over the axis that the normaliser declares."""
    axis = -1 if n.statistics == "features" else 0
    count = x.shape[axis]
    mean = x.sum(axis, keepdim=True) / count * n.centered
    return mean, ((x - mean) ** 2).sum(axis, keepdim=True) / count
