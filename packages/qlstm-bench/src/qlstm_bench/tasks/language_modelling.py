"""Language modelling by truncated back-propagation; what its tasks share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.data import DataError, load_text
from qlstm_bench.data.text import Codes, Unit
from qlstm_bench.tasks.streams import count_segments, cut_streams, segment
from qlstm_bench.tasks.task import Task
from qlstm_core import RecurrentLayer, Vocabulary

State = Tensor | tuple[Tensor, ...]


class LanguageModelling(Task):
    """Predict the next symbol of a long text, cut into ``batch`` streams that are read side by side.

    A step trains on the next ``unroll`` symbols of every stream, from the state that the last step left. A
    kind of language modelling says what a symbol is, and how loss becomes figure of merit and model; its
    model's ``forward(symbols, state)`` takes ``(T, B)`` integers and returns logits ``(T, B, vocabulary)``
    and the last state, and its recurrent layer is called ``recurrent``.
    """

    unit: ClassVar[Unit]

    def prepare(self, config: RunConfig) -> None:
        """Load the text and cut its parts into streams."""
        if config.unroll is None:
            raise ConfigError(f"{config.task}: unroll must be given: a text has no end to unroll to")
        self._unroll: int = config.unroll
        text = load_text(config.data if self.given_data is None else self.given_data, self.unit)
        self._config = config
        self._text = text
        self.dataset, self.dataset_sha256 = text.name, text.sha256
        if len(text.train) < 2 * config.batch:
            raise DataError(
                f"{text.name}: its training part has {len(text.train)} {self.unit}, too few for batch "
                f"{config.batch}; expected at least 2 for each stream: use a smaller batch or a longer text"
            )
        if len(text.valid) < 2 or len(text.test) < 2:
            raise DataError(
                f"{text.name}: its validation and test parts have {len(text.valid)} and {len(text.test)} "
                f"{self.unit}; expected at least 2 in each, one to predict"
            )
        self._train = cut_streams(text.train, config.batch)
        self.steps_per_epoch = count_segments(self._train, config.unroll)

    @abstractmethod
    def to_metric(self, loss: float) -> float:
        """Return a mean loss in nats as the figure of merit."""

    def recurrent(self, model: nn.Module) -> RecurrentLayer:
        """Return the model's ``recurrent``."""
        layer = model.recurrent
        assert isinstance(layer, RecurrentLayer)
        return layer

    def vocabulary(self) -> Vocabulary:
        """Return the symbols of the text."""
        return Vocabulary(self._text.symbols, "" if self.unit == "characters" else " ")

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return symbols and next symbols of a step, both ``(T, B)``, int64."""
        return segment(self._train, step % self.steps_per_epoch, self._unroll)

    def loss(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], state: State | None
    ) -> tuple[Tensor, State]:
        """Return the mean cross-entropy and the last state, detached."""
        symbols, following = batch
        logits, state = model(symbols, state)
        return cross_entropy(logits.flatten(0, 1), following.flatten()), detach(state)

    def evaluate(self, model: nn.Module, split: str) -> float:
        """Return the figure of merit over a part, read as in training: streams, segments, carried state."""
        streams = self._evaluation_streams(split)
        device = _device_of(model)
        state: State | None = None
        total, count = 0.0, 0
        for index in range(count_segments(streams, self._unroll)):
            symbols, following = (part.to(device) for part in segment(streams, index, self._unroll))
            logits, state = model(symbols, state)
            total += cross_entropy(logits.flatten(0, 1).float(), following.flatten(), reduction="sum").item()
            count += following.numel()
        return self.to_metric(total / count)

    def final_step_loss(self, model: nn.Module) -> Tensor:
        """Return the mean cross-entropy of the last step of validation's first segment."""
        device = next(model.parameters()).device
        first = segment(self._evaluation_streams("valid"), 0, self._unroll)
        symbols, following = (part.to(device) for part in first)
        logits, _ = model(symbols)
        return cross_entropy(logits[-1], following[-1])

    def baseline(self) -> float:
        """Return the figure of merit of validation under the training part's symbol frequencies.

        Each count is raised by one, so that a symbol seen in validation alone has a finite cost.
        """
        size = len(self._text.symbols)
        counts = np.ones(size)
        for start in range(0, len(self._text.train), 2**24):
            counts += np.bincount(self._text.train[start : start + 2**24], minlength=size)
        nats = -np.log(counts / counts.sum())
        return self.to_metric(float(nats[self._evaluated("valid")].mean()))

    def _evaluated(self, split: str) -> Codes:
        return self._text.split(split)[: self._config.eval_symbols]

    def _evaluation_streams(self, split: str) -> Codes:
        """Return as many streams as in training, or fewer where the part is too short for a segment each."""
        codes = self._evaluated(split)
        return cut_streams(codes, max(1, min(self._config.batch, len(codes) // (self._unroll + 1))))


def _device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; a packed model has none, and is on the CPU."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def detach(state: Any) -> Any:
    """Return a state, a tensor or a tuple of tensors, cut off from the graph."""
    return state.detach() if isinstance(state, Tensor) else tuple(part.detach() for part in state)
