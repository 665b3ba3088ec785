"""Character-level language modelling: predict the next character of a text."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qlstm_bench.config import RunConfig
from qlstm_bench.data import DataError, load_text
from qlstm_bench.data.text import Codes
from qlstm_bench.tasks.interface import Task
from qlstm_core import LSTM

State = tuple[Tensor, Tensor]


class CharLanguageModel(nn.Module):
    """An LSTM on one-hot characters, and a linear layer that scores the next one: ``logits_t = V h_t + a``.

    The one-hot vectors are never made: the LSTM takes the characters' numbers.

    Args:
        symbols: size of the vocabulary.
        hidden: units of each layer.
        layers: number of LSTM layers.
        dropout: between them.
        quantizer, normalizer: of the LSTM; the output layer keeps full precision.
    """

    def __init__(
        self,
        symbols: int,
        hidden: int,
        *,
        layers: int = 1,
        dropout: float = 0.0,
        quantizer: str = "none",
        normalizer: str = "none",
    ) -> None:
        super().__init__()
        self.recurrent = LSTM(
            symbols, hidden, layers, dropout=dropout, quantizer=quantizer, normalizer=normalizer
        )
        self.output = nn.Linear(hidden, symbols)

    def forward(self, characters: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the logits ``(T, B, symbols)`` of the next characters, and the LSTM's last state.

        Args:
            characters: ``(T, B)``, integers.
            state: ``(h, c)``, each ``(layers, B, hidden)``; zeros by default.
        """
        h, state = self.recurrent(characters, state)
        return self.output(h), state


class CharLM(Task):
    """Truncated back-propagation through a long text, cut into ``batch`` streams that are read side by side.

    Defaults are the paper's: Adam with learning rate 0.002, gradients clipped to norm 5, 64 streams,
    100 steps, 512 units.

    Source: Hou et al. 2019, "Normalization helps training of quantized LSTM".
    """

    defaults: ClassVar[dict[str, Any]] = {
        "data": "stdlib-char", "hidden": 512, "batch": 64, "unroll": 100, "lr": 0.002, "clip": 5.0
    }  # fmt: skip
    metric = "bpc"
    metric_title = "bits per character"

    def prepare(self, config: RunConfig) -> None:
        """Load the text and cut its parts into streams."""
        text = load_text(config.data)
        self._config = config
        self._text = text
        self.dataset, self.dataset_sha256 = text.name, text.sha256
        if len(text.train) < 2 * config.batch:
            raise DataError(
                f"{text.name}: its training part has {len(text.train)} characters, too few for batch "
                f"{config.batch}; expected at least 2 for each stream: use a smaller batch or a longer text"
            )
        if len(text.valid) < 2 or len(text.test) < 2:
            raise DataError(
                f"{text.name}: too short: its validation and test parts need at least 2 characters each"
            )
        self._train = cut_streams(text.train, config.batch)
        self.steps_per_epoch = count_segments(self._train, config.unroll)

    def model(self, quantizer: str, normalizer: str) -> CharLanguageModel:
        """Return a fresh :class:`CharLanguageModel`."""
        c = self._config
        return CharLanguageModel(
            len(self._text.symbols),
            c.hidden,
            layers=c.layers,
            dropout=c.dropout,
            quantizer=quantizer,
            normalizer=normalizer,
        )

    def recurrent(self, model: nn.Module) -> LSTM:
        """Return the LSTM."""
        layer = model.recurrent
        assert isinstance(layer, LSTM)
        return layer

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return characters and next characters of a step, both ``(T, B)``, int64."""
        return segment(self._train, step % self.steps_per_epoch, self._config.unroll)

    def loss(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], state: State | None
    ) -> tuple[Tensor, State]:
        """Return the mean cross-entropy and the LSTM's last state, detached."""
        characters, following = batch
        logits, (h, c) = model(characters, state)
        return cross_entropy(logits.flatten(0, 1), following.flatten()), (h.detach(), c.detach())

    def evaluate(self, model: nn.Module, split: str) -> float:
        """Return bits per character over a part, read as in training: streams, segments, carried state."""
        streams = self._evaluation_streams(split)
        device = next(model.parameters()).device
        state: State | None = None
        total, count = 0.0, 0
        for index in range(count_segments(streams, self._config.unroll)):
            characters, following = (part.to(device) for part in segment(streams, index, self._config.unroll))
            logits, state = model(characters, state)
            total += cross_entropy(logits.flatten(0, 1).float(), following.flatten(), reduction="sum").item()
            count += following.numel()
        return self.to_metric(total / count)

    def final_step_loss(self, model: nn.Module) -> Tensor:
        """Return the mean cross-entropy of the last step of validation's first segment."""
        device = next(model.parameters()).device
        segment_ = segment(self._evaluation_streams("valid"), 0, self._config.unroll)
        characters, following = (part.to(device) for part in segment_)
        logits, _ = model(characters)
        return cross_entropy(logits[-1], following[-1])

    def to_metric(self, loss: float) -> float:
        """Return nats as bits."""
        return loss / math.log(2)

    def baseline(self) -> float:
        """Return the cross-entropy of validation under the training part's character frequencies, in bits.

        Each count is raised by one, so that a character seen in validation alone has a finite cost.
        """
        counts = np.bincount(self._text.train, minlength=len(self._text.symbols)) + 1.0
        bits = -np.log2(counts / counts.sum())
        return float(bits[self._evaluated("valid")].mean())

    def _evaluated(self, split: str) -> Codes:
        return self._text.split(split)[: self._config.eval_symbols]

    def _evaluation_streams(self, split: str) -> Codes:
        """Return as many streams as in training, or fewer where the part is too short for a segment each."""
        codes = self._evaluated(split)
        return cut_streams(codes, max(1, min(self._config.batch, len(codes) // (self._config.unroll + 1))))


def cut_streams(codes: Codes, streams: int) -> Codes:
    """Cut a text into contiguous streams, ``(streams, len(codes) // streams)``, without what is left over."""
    length = len(codes) // streams
    return codes[: streams * length].reshape(streams, length)


def count_segments(streams: Codes, unroll: int) -> int:
    """Return how many segments of ``unroll`` predictions streams of L characters have: ⌈(L − 1) / unroll⌉."""
    length: int = streams.shape[1]
    return math.ceil((length - 1) / unroll)


def segment(streams: Codes, index: int, unroll: int) -> tuple[Tensor, Tensor]:
    """Return the characters of one segment and those that follow them, both ``(T, streams)``, int64.

    ``T`` is ``unroll``, or less for the last segment of the streams.
    """
    start = index * unroll
    stop = min(start + unroll, streams.shape[1] - 1)
    part = torch.from_numpy(streams[:, start : stop + 1].T.astype(np.int64))
    return part[:-1], part[1:]
