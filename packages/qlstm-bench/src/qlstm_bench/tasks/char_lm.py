"""Character-level language modelling: predict the next character of a text."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from qlstm_bench.data.text import Unit
from qlstm_bench.tasks.language_modelling import LanguageModelling, State
from qlstm_bench.tasks.layers import make_initial_state, make_layer
from qlstm_core import InitialState, Linear, RecurrentLayer


class CharLanguageModel(nn.Module):
    """A recurrent layer on one-hot characters, and a linear one that scores the next: ``V h_t + a``.

    The one-hot vectors are never made: the layer takes the characters' numbers. V starts from U(−0.1, 0.1),
    a from 0.

    Args:
        recurrent: takes the characters' numbers; its ``input_size`` is the vocabulary's.
        initial_state: state that it begins from where none is given; zeros by default.
        head_quantizer: quantizer of V.
    """

    def __init__(
        self,
        recurrent: RecurrentLayer,
        initial_state: InitialState | None = None,
        *,
        head_quantizer: str = "none",
    ) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.output = Linear(recurrent.output_size, recurrent.input_size, quantizer=head_quantizer)
        self.initial_state = initial_state
        nn.init.uniform_(self.output.weight, -0.1, 0.1)
        nn.init.zeros_(self.output.bias)
        self.output.prepare_from_weights()

    def forward(self, characters: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the logits ``(T, B, symbols)`` of the next characters, and the layer's last state.

        Args:
            characters: ``(T, B)``, integers.
            state: initial state of the layer; by default, the one that the model begins from.
        """
        if state is None and self.initial_state is not None:
            state = self.initial_state(characters.shape[1])
        h, state = self.recurrent(characters, state)
        return self.output(h), state

    def packed_stages(self) -> list[nn.Module]:
        """Return what ``forward`` applies, for :func:`qlstm_core.pack`."""
        start = [] if self.initial_state is None else [self.initial_state]
        return [*start, self.recurrent, self.output]


class CharLM(LanguageModelling):
    """Predict the next character: the paper's first task.

    Defaults are the paper's, of which the authors' code gives those that the poster does not: 512 units, 64
    streams, 100 steps, Adam with learning rate 0.002 that shrinks by 2 % an epoch after the tenth, gradients
    clipped to norm 5 over all parameters. (For text8: ``hidden`` 2000, ``unroll`` 180, ``epoch_decay`` 1.)

    Source: Hou et al. 2019, "Normalization helps training of quantized LSTM".
    """

    defaults: ClassVar[dict[str, Any]] = {
        "data": "stdlib-char", "hidden": 512, "batch": 64, "unroll": 100, "lr": 0.002, "clip": 5.0,
        "epoch_decay": 0.98, "epoch_decay_after": 10,
    }  # fmt: skip
    metric = "bpc"
    metric_title = "bits per character"
    unit: ClassVar[Unit] = "characters"
    quantizes: ClassVar[tuple[str, ...]] = ("head",)

    def model(self, quantizer: str, normalizer: str) -> CharLanguageModel:
        """Return a fresh :class:`CharLanguageModel`."""
        layer = make_layer(self._config, len(self._text.symbols), quantizer, normalizer, tokens=True)
        start = make_initial_state(self._config, layer)
        return CharLanguageModel(layer, start, head_quantizer=self._config.head_quantizer)

    def to_metric(self, loss: float) -> float:
        """Return nats as bits."""
        return loss / math.log(2)
