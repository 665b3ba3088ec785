"""What the checks put into a plugin, always the same: weights and pre-activations, ordinary and awkward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from qlstm_core.interfaces import Normalizer, Quantizer, acts_on_activations, acts_on_weights
from qlstm_core.testing.assertions import require_fit

Plugin = Quantizer | Normalizer
P = TypeVar("P", Quantizer, Normalizer, Plugin)

SHAPE = (4, 12, 20)
"""The weight of one side of an LSTM: ``(gates, rows, cols)``."""
BATCH = 5
STEPS = (0, 1, 7, 1000)
"""Time steps that normalisers are asked for; the last is beyond any statistics kept per step."""
HUGE, TINY = 1e15, 1e-30
"""Magnitudes whose squares, and sums of these, are finite in float32; or are zero there."""
MODES = {"training": True, "eval()": False}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generators inside, and leave them outside as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        # torch.manual_seed would also note the caller's whole stack, in case CUDA is initialised later.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield


def prepared(template: P, weight: Tensor) -> P:
    """Return a copy of ``template`` prepared for ``weight``, in training mode, as a layer makes one."""
    module = copy.deepcopy(template)
    module.train()
    with seeded(0):
        module.prepare(weight.detach())
    return module


def normal(shape: tuple[int, ...] = SHAPE, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normally distributed numbers, the same for every dtype except for rounding."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)


def curvature_of(quantizer: Quantizer, weight: Tensor) -> Tensor | None:
    """Return positive second moments for a quantizer that needs them, else ``None``."""
    return normal(tuple(weight.shape), seed=7).square().to(weight) if quantizer.needs_curvature else None


def awkward_weights(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return weights that plugins stumble over, by what is special about them."""
    weight = normal(dtype=dtype)
    one_zero_gate, outlier, zeros = weight.clone(), weight.clone(), weight.clone()
    one_zero_gate[1] = 0
    outlier[0, 0, 0] = HUGE
    zeros[:, :, ::2] = 0
    zeros[:, :, 1::4] = -0.0
    return {
        "as initialised": weight / 4,
        "huge": weight * HUGE,
        "tiny": weight * TINY,
        "with one huge element": outlier,
        "all equal": torch.full_like(weight, -0.25),
        "all zero": torch.zeros_like(weight),
        "all zero in one gate": one_zero_gate,
        "with many zeros of both signs": zeros,
        "of three gates": weight[:3].clone(),
        "of one element per gate": weight[:, :1, :1].clone(),
    }


def awkward_preactivations(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return ``(batch, gates, rows)`` pre-activations that plugins stumble over."""
    x = normal((BATCH, *SHAPE[:2]), seed=3, dtype=dtype)
    one_zero_gate, outlier = x.clone(), x.clone()
    one_zero_gate[:, 1] = 0
    outlier[0, 0, 0] = HUGE
    return {
        "of unit variance": x,
        "huge": x * HUGE,
        "tiny": x * TINY,
        "with one huge element": outlier,
        "all equal": torch.full_like(x, -0.25),
        "all zero": torch.zeros_like(x),
        "all zero in one gate": one_zero_gate,
        "the same for every sequence": x[:1].repeat(BATCH, 1, 1),
        "of two sequences": x[:2].clone(),
    }


@dataclass(frozen=True)
class Use:
    """One way in which a layer uses a plugin.

    Args:
        what: what goes in.
        inputs: the awkward inputs of a dtype, the first an ordinary one.
        empty: shapes without elements.
        call: ``(module, input) ↦ output`` of the input's shape.
        gates: the input's dimension that counts gates.
    """

    what: str
    inputs: Callable[[torch.dtype], dict[str, Tensor]]
    empty: dict[str, tuple[int, int, int]]
    call: Callable[[Any, Tensor], Tensor]
    gates: int

    def ordinary(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the first of the inputs, of shape ``SHAPE`` or ``(BATCH, *SHAPE[:2])``."""
        return next(iter(self.inputs(dtype).values()))

    def weight_for(self, value: Tensor) -> Tensor:
        """Return an ordinary weight to prepare a plugin with that is going to meet ``value``."""
        shape = tuple(value.shape) if self.gates == 0 else (*value.shape[1:], SHAPE[2])
        return normal(shape).to(value) / 4

    def apply(self, module: Plugin, value: Tensor, *, seed: int = 0, where: str = "") -> Tensor:
        """Return the output for ``value``, sampled with ``seed`` where the plugin samples.

        Raises:
            AssertionError: it is no tensor of the shape, dtype and device of ``value``; ``where`` opens it.
        """
        with seeded(seed):
            result = self.call(module, value)
        require_fit(result, value, where or f"for a {self.what} of {tuple(value.shape)},")
        return result


NO_WEIGHTS = {"without columns": (4, 12, 0), "without rows": (4, 0, 20)}
NO_SEQUENCES = {"without sequences": (0, *SHAPE[:2])}
QUANTIZE = Use("weight", awkward_weights, NO_WEIGHTS, lambda q, w: q(w, curvature_of(q, w)), gates=0)
NORMALIZE_WEIGHT = Use("weight", awkward_weights, NO_WEIGHTS, lambda n, w: n.weight(w), gates=0)
NORMALIZE_ACTIVATIONS = Use(
    "pre-activation", awkward_preactivations, NO_SEQUENCES, lambda n, x: n(x, 0), gates=1
)


def uses(plugin: Plugin) -> tuple[Use, ...]:
    """Return what a layer uses ``plugin`` for; of a normaliser, the methods that it overrides."""
    if isinstance(plugin, Quantizer):
        return (QUANTIZE,)
    overridden = ((NORMALIZE_WEIGHT, acts_on_weights), (NORMALIZE_ACTIVATIONS, acts_on_activations))
    return tuple(use for use, test in overridden if test(plugin)) or (NORMALIZE_WEIGHT, NORMALIZE_ACTIVATIONS)


def observe(module: Plugin) -> list[Tensor]:
    """Return what a module prepared for ``SHAPE`` gives in ``eval()``: its behaviour, to be compared."""
    was_training = module.training
    module.eval()
    with torch.no_grad():
        results = [use.apply(module, use.ordinary()) for use in uses(module)]
        if isinstance(module, Normalizer):
            results += [module(NORMALIZE_ACTIVATIONS.ordinary(), step) for step in (0, 1)]
    module.train(was_training)
    return results
