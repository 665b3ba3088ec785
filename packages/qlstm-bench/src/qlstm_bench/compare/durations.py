"""What methods cost on this machine: a training step and packed inference, all by turns in one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import qlstm_core
from qlstm_bench.config import RunConfig
from qlstm_bench.speed.timing import Case, interleaved, torch_threads
from qlstm_bench.speed.training import PEER, Shape, training_step
from qlstm_bench.tasks.layers import make_layer
from qlstm_core import RecurrentLayer
from qlstm_core.plugins.errors import blame


@dataclass(frozen=True)
class Duration:
    """What one method costs on one thread; NaN where it cannot be measured.

    Args:
        training_ms: forward and backward pass of one layer over a batch, in milliseconds.
        training_ratio: how many times as long as ``torch.nn.LSTM``'s takes.
        packed_us: packed inference for one sequence, in microseconds a time step.
        packed_ratio: how many times faster than ``torch.nn.LSTM`` in float32.
        remark: why something is not measured.
    """

    training_ms: float = math.nan
    training_ratio: float = math.nan
    packed_us: float = math.nan
    packed_ratio: float = math.nan
    remark: str = ""


def measure(
    methods: Mapping[str, RunConfig],
    shape: Shape,
    rounds: int = 5,
    done: Callable[[float], None] = lambda share: None,
) -> dict[str, Duration]:
    """Return what methods cost, and ``torch.nn.LSTM``, under its name and first.

    Args:
        methods: settings that say cell, quantizer and normaliser of a method, by what it is called.
        shape: size of the layer and its input.
        rounds: number of times that each is timed.
        done: told the share of the work that is done, between 0 and 1.
    """
    torch.manual_seed(0)
    x = torch.randn(shape.steps, shape.batch, shape.input)
    gradient = torch.randn(shape.steps, shape.batch, shape.hidden)
    with torch_threads(1):
        peer = nn.LSTM(shape.input, shape.hidden)
        calls = {PEER: _Calls(training_step(peer, False, x, gradient), _inference(peer, x[:, :1]))}
        calls |= {name: _calls(config, shape, x, gradient) for name, config in methods.items()}
        cases = [
            Case(f"{part} {name}", call, units)
            for name, of_method in calls.items()
            for part, call, units in (
                ("step", of_method.step, 1),
                ("sequence", of_method.sequence, shape.steps),
            )
            if call is not None
        ]
        timings = interleaved(cases, rounds, done=lambda measured: done(measured / (len(cases) * rounds)))
    found = {}
    for name, of_method in calls.items():
        step, sequence = timings.get(f"step {name}"), timings.get(f"sequence {name}")
        found[name] = Duration(
            training_ms=step.median * 1e3 if step else math.nan,
            training_ratio=step.ratio(timings[f"step {PEER}"]) if step else math.nan,
            packed_us=sequence.median * 1e6 if sequence else math.nan,
            packed_ratio=timings[f"sequence {PEER}"].ratio(sequence) if sequence else math.nan,
            remark=of_method.remark,
        )
    return found


@dataclass(frozen=True)
class _Calls:
    """What is timed of a method: a training step, a packed sequence; or why one of them cannot be."""

    step: Callable[[], object] | None = None
    sequence: Callable[[], object] | None = None
    remark: str = ""


def _calls(config: RunConfig, shape: Shape, x: Tensor, gradient: Tensor) -> _Calls:
    """Return what is timed of a method, each called once before: its code may be anyone's."""
    try:
        layer = _layer(config, shape)
        step = training_step(layer, False, x, gradient)
        step()
    except BaseException as error:
        return _Calls(remark=f"no training step: {blame(error)}")
    if config.quantizer == "none":  # nothing to pack
        return _Calls(step)
    try:
        sequence = _inference(qlstm_core.pack(layer), x[:, :1].contiguous())
        sequence()
    except BaseException as error:
        return _Calls(step, remark=f"not packed: {blame(error)}")
    return _Calls(step, sequence)


def _layer(config: RunConfig, shape: Shape) -> RecurrentLayer:
    """Return a layer of the method's, of the size that is timed."""
    size = {"hidden": shape.hidden, "layers": 1, "proj": None, "start": "torch"}
    resized = config.model_copy(update=size)
    return make_layer(resized, shape.input, config.quantizer, config.normalizer)


def _inference(network: Callable[[Tensor], object], x: Tensor) -> Callable[[], object]:
    def call() -> None:
        with torch.inference_mode():
            network(x)

    return call
