"""The cost of running a trained network: packed bits beside torch and ONNX Runtime, float32 and int8."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import qlstm_core
from qlstm_bench.errors import BenchError
from qlstm_bench.speed import peers
from qlstm_bench.speed.peers import Array, Peer
from qlstm_bench.speed.timing import Case, Timing, interleaved, part_of, torch_threads

Call = Callable[[], Array]

ACTIVATION_BITS = (8, 12, 16)

FLOAT32 = "torch.nn.LSTM"
INT8 = "ONNX Runtime int8"


@dataclass(frozen=True)
class Scenario:
    """One way of running a network.

    Args:
        hidden: units; input features, too, unless there are ``symbols``.
        batch: sequences side by side.
        steps: time steps of a sequence.
        stepwise: one call per time step, as in streaming, instead of one per sequence.
        symbols: the input is one of so many tokens, which the peers read as one-hot vectors.
    """

    hidden: int
    batch: int = 1
    steps: int = 100
    stepwise: bool = False
    symbols: int | None = None

    @property
    def input_size(self) -> int:
        """Features of the input."""
        return self.symbols or self.hidden

    @property
    def title(self) -> str:
        """What a reader is told."""
        kind = f"tokens of {self.symbols}" if self.symbols else f"input {self.input_size}"
        calls = "one call per step" if self.stepwise else "one call"
        return f"hidden {self.hidden}, {kind}, batch {self.batch}, {self.steps} steps, {calls}"


SCENARIOS = (
    Scenario(512),
    Scenario(1024),
    Scenario(512, stepwise=True),
    Scenario(512, batch=64),
    Scenario(512, symbols=50),
)


@dataclass(frozen=True)
class RunTiming:
    """The duration of one network in one scenario.

    Args:
        scenario: the scenario in which it was run.
        name: name of the network or peer.
        timing: seconds per time step.
        ratios: how many times faster than each reference, ``FLOAT32`` and, if here, ``INT8``: medians of the
            ratios within rounds.
        error: ‖y − y*‖/‖y*‖ over all steps, y* in float64 with the same quantized weights.
    """

    scenario: Scenario
    name: str
    timing: Timing
    ratios: dict[str, float]
    error: float


def compare_inference(
    scenarios: Sequence[Scenario] = SCENARIOS,
    *,
    quantizers: Sequence[str] = ("bwn", "twn"),
    normalizer: str = "none",
    activation_bits: Sequence[int] = ACTIVATION_BITS,
    rounds: int = 7,
    done: Callable[[float], None] = lambda share: None,
) -> Iterator[list[RunTiming]]:
    """Yield, for each scenario, what each packed network and each peer costs per time step, on one thread.

    The peers run the quantized weights of the first quantizer. With a normaliser, which they do not know,
    they run without it: they keep their cost, and the packed network bears its own.

    Args:
        scenarios: ways of running.
        quantizers: quantizers of the packed networks.
        normalizer: normaliser of the packed networks.
        activation_bits: bits of their activation tables.
        rounds: number of times that each is timed.
        done: told the share of the work that is done, between 0 and 1.

    Raises:
        PluginError: an unknown quantizer or normaliser.
        BenchError: one that cannot be packed.
    """
    for number, scenario in enumerate(scenarios):
        with torch_threads(1):
            part = partial(part_of, done, number, len(scenarios))
            yield _compare(scenario, quantizers, normalizer, activation_bits, rounds, part)


def float_twin(layer: qlstm_core.LSTM) -> nn.LSTM:
    """Return ``torch.nn.LSTM`` with the quantized weights of a layer, without its normaliser."""
    twin = nn.LSTM(layer.input_size, layer.hidden_size)
    with torch.no_grad():
        for key, weight in layer.quantized_weights().items():
            getattr(twin, f"weight_{key}_l0").copy_(weight.flatten(0, 1))
    return twin.eval()


def _compare(
    scenario: Scenario,
    quantizers: Sequence[str],
    normalizer: str,
    activation_bits: Sequence[int],
    rounds: int,
    part: Callable[[int], Callable[[int], None]],
) -> list[RunTiming]:
    torch.manual_seed(0)
    sizes = (scenario.input_size, scenario.hidden)
    layers = {
        name: qlstm_core.LSTM(*sizes, quantizer=name, normalizer=normalizer).eval() for name in quantizers
    }
    data = _Data.random(scenario)
    twin = float_twin(layers[quantizers[0]])
    networks: list[tuple[str, Call, nn.Module]] = [
        (peer.name, _peer_call(peer, scenario, data), twin) for peer in _peers(twin, scenario)
    ]
    for name, layer in layers.items():
        for bits in activation_bits:
            packed = _pack(name, layer, bits)
            networks.append((f"{name}, {bits}-bit tables", _packed_call(packed, scenario, data), layer))
    errors = {name: _error(call(), data.reference(module)) for name, call, module in networks}
    cases = [Case(name, call, scenario.steps) for name, call, _ in networks]
    timings = interleaved(cases, rounds, done=part(len(cases) * rounds))
    references = [name for name in (FLOAT32, INT8) if name in timings]
    return [
        RunTiming(
            scenario,
            name,
            timing,
            {reference: timings[reference].ratio(timing) for reference in references},
            errors[name],
        )
        for name, timing in timings.items()
    ]


def _pack(name: str, layer: qlstm_core.LSTM, activation_bits: int) -> qlstm_core.PackedLSTM:
    try:
        packed = qlstm_core.pack(layer, activation_bits=activation_bits)
    except ValueError as error:
        raise BenchError(f"{name!r} with {activation_bits}-bit tables cannot be packed: {error}") from error
    assert isinstance(packed, qlstm_core.PackedLSTM)
    return packed


def _peers(twin: nn.LSTM, scenario: Scenario) -> list[Peer]:
    found = [peers.torch_float32(twin), peers.torch_int8(twin)]
    if scenario.stepwise:
        found.append(peers.torch_cell(twin))
    if peers.onnx_runtime_missing() is None:
        found += [peers.onnx_runtime_float32(twin), peers.onnx_runtime_int8(twin)]
    return found


def _peer_call(peer: Peer, scenario: Scenario, data: _Data) -> Call:
    def sequence() -> Array:
        return peer.forward(data.x, (data.zero, data.zero))[0]

    def step_by_step() -> Array:
        state, outputs = (data.zero, data.zero), []
        for t in range(len(data.x)):
            y, state = peer.forward(data.x[t : t + 1], state)
            outputs.append(y[0])
        return np.stack(outputs)

    return step_by_step if scenario.stepwise else sequence


def _packed_call(packed: qlstm_core.PackedLSTM, scenario: Scenario, data: _Data) -> Call:
    x = data.x if data.tokens is None else data.tokens

    def sequence() -> Array:
        y: Array = packed(x)[0]
        return y

    def step_by_step() -> Array:
        state, outputs = None, np.empty((*x.shape[:2], scenario.hidden), np.float32)
        for t in range(len(x)):
            y, state = packed.step(x[t], state)
            outputs[t] = y
        return outputs

    return step_by_step if scenario.stepwise else sequence


def _error(y: Array, wanted: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(y - wanted) / np.linalg.norm(wanted))


@dataclass(frozen=True)
class _Data:
    """The input of a scenario, as vectors and, where it has symbols, as tokens; and a state of zeros."""

    x: Array
    tokens: NDArray[np.int64] | None
    zero: Array

    @classmethod
    def random(cls, scenario: Scenario) -> _Data:
        generator = np.random.default_rng(0)
        shape = (scenario.steps, scenario.batch)
        zero = np.zeros((1, scenario.batch, scenario.hidden), np.float32)
        if scenario.symbols is None:
            return cls(generator.standard_normal((*shape, scenario.input_size), np.float32), None, zero)
        tokens = generator.integers(scenario.symbols, size=shape)
        return cls(np.eye(scenario.symbols, dtype=np.float32)[tokens], tokens, zero)

    def reference(self, module: nn.Module) -> NDArray[np.float64]:
        """Return what ``module`` computes in float64."""
        with torch.no_grad():
            y, _ = copy.deepcopy(module).double()(torch.from_numpy(self.x).double())
        array: NDArray[np.float64] = y.numpy()
        return array
