"""The cost of a training step: forward and backward of one layer, beside ``torch.nn.LSTM``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import qlstm_core
from qlstm_bench.errors import BenchError
from qlstm_bench.speed.timing import Case, Timing, interleaved, part_of, torch_threads
from qlstm_core.layers.packing import check_products
from qlstm_core.layers.route import readable_loop

PEER = "torch.nn.LSTM"

SHAPES = ((100, 64, 50, 512), (100, 64, 50, 128), (35, 20, 300, 300), (784, 100, 1, 100))
"""Steps, batch, input and hidden size of character models, a word model and sequential MNIST."""

NORMALIZERS = ("none", "weight", "layer", "rms", "batch-shared", "batch-separate")


@dataclass(frozen=True)
class Shape:
    """The size of one training step.

    Args:
        steps: time steps that are unrolled.
        batch: sequences side by side.
        input: features of the input.
        hidden: units of the layer.
    """

    steps: int
    batch: int
    input: int
    hidden: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Return the shape that ``"100,64,50,512"`` writes.

        Raises:
            BenchError: it is not four positive whole numbers.
        """
        try:
            sizes = [int(part) for part in text.split(",")]
        except ValueError:
            sizes = []
        if len(sizes) != 4 or min(sizes) < 1:
            raise BenchError(
                f"shape {text!r} is not STEPS,BATCH,INPUT,HIDDEN: four positive whole numbers, "
                "such as 100,64,50,512"
            )
        return cls(*sizes)

    def __str__(self) -> str:
        return f"{self.steps},{self.batch},{self.input},{self.hidden}"


@dataclass(frozen=True)
class StepTiming:
    """The duration of a training step of one layer.

    Args:
        shape: size of the layer and its input.
        threads: number of threads that torch used.
        name: of the normaliser, with ``"loop"`` where the readable loop was asked for, or with the products
            that are not exact; or the peer's.
        route: the path that the layer took.
        timing: seconds per training step.
        ratio: median over the rounds of its duration over the peer's in the same round.
        ratio_of_best: smallest to smallest.
    """

    shape: Shape
    threads: int
    name: str
    route: str
    timing: Timing
    ratio: float
    ratio_of_best: float


def compare_training_steps(
    shapes: Sequence[Shape],
    threads: Sequence[int],
    *,
    normalizers: Sequence[str] = NORMALIZERS,
    quantizer: str = "none",
    products: Sequence[str] = ("exact",),
    loops: bool = True,
    rounds: int = 5,
    done: Callable[[float], None] = lambda share: None,
) -> Iterator[list[StepTiming]]:
    """Yield, for each shape and number of threads, what a training step costs with each normaliser.

    Args:
        shapes: sizes to measure.
        threads: numbers of threads to measure with.
        normalizers: normalisers of the layers beside ``torch.nn.LSTM``.
        quantizer: quantizer of these layers.
        products: how they multiply by quantized weights: each layer is measured with each.
        loops: measure the readable loop without and with layer normalisation, too.
        rounds: number of times that each is timed.
        done: told the share of the work that is done, between 0 and 1.

    Raises:
        PluginError: an unknown quantizer or normaliser.
        BenchError: unknown products.
    """
    for name in products:
        try:
            check_products(name)
        except ValueError as error:
            raise BenchError(str(error)) from error
    total, finished = len(shapes) * len(threads), 0
    for shape in shapes:
        for count in threads:
            with torch_threads(count):
                layers = _layers(shape, normalizers, quantizer, products, loops)
                x = torch.randn(shape.steps, shape.batch, shape.input)
                weight = torch.randn(shape.steps, shape.batch, shape.hidden)
                cases = [Case(name, training_step(*layer, x, weight)) for name, layer in layers.items()]
                timings = interleaved(cases, rounds, done=part_of(done, finished, total, len(cases) * rounds))
            peer = timings[PEER]
            yield [
                StepTiming(
                    shape,
                    count,
                    name,
                    _route(*layers[name]),
                    timing,
                    timing.ratio(peer),
                    timing.ratio_of_best(peer),
                )
                for name, timing in timings.items()
            ]
            finished += 1


def _layers(
    shape: Shape, normalizers: Sequence[str], quantizer: str, products: Sequence[str], loops: bool
) -> dict[str, tuple[nn.Module, bool]]:
    """Return each layer under its name, and whether it is to take the readable loop."""
    torch.manual_seed(0)
    sizes = (shape.input, shape.hidden)
    layers: dict[str, tuple[nn.Module, bool]] = {PEER: (nn.LSTM(*sizes), False)}
    for name in normalizers:
        for kind in products:
            layer = qlstm_core.LSTM(*sizes, quantizer=quantizer, normalizer=name)
            layer.products = kind
            layers[name if kind == "exact" else f"{name}, {kind}"] = layer, False
    if loops:
        for name in ("none", "layer"):
            layers[f"{name}, loop"] = qlstm_core.LSTM(*sizes, quantizer=quantizer, normalizer=name), True
    return layers


def training_step(layer: nn.Module, loop: bool, x: Tensor, weight: Tensor) -> Callable[[], None]:
    """Return what is timed: a forward and backward pass of a layer.

    Args:
        layer: returns its output first.
        loop: whether it is to take the readable loop.
        x: input ``(steps, batch, input)``.
        weight: gradient of the output, of its shape.
    """

    def step() -> None:
        for parameter in layer.parameters():
            parameter.grad = None
        y, _ = layer(x)
        y.backward(weight)

    def step_by_loop() -> None:
        with readable_loop():
            step()

    return step_by_loop if loop else step


def _route(layer: nn.Module, loop: bool) -> str:
    if loop:
        return "loop"
    return layer.routes()[0].kind if isinstance(layer, qlstm_core.RecurrentLayer) else ""
