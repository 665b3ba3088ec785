"""Word-level language modelling: predict the next word of a text."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from qlstm_bench.data.text import Unit
from qlstm_bench.tasks.language_modelling import LanguageModelling, State
from qlstm_bench.tasks.layers import make_initial_state, make_layer
from qlstm_bench.training.optimizer import has_unit_levels
from qlstm_core import Embedding, InitialState, Linear, RecurrentLayer

_LARGEST_EXPONENT = 700.0


class WordLanguageModel(nn.Module):
    """Embedded words, a recurrent layer, and a linear one that scores the next word: ``V h_t + a``.

    Dropout acts on the embedded words and on what the recurrent layer gives. Embedding and V start from
    U(−limit, limit), a from 0.

    Args:
        words: size of the vocabulary.
        recurrent: takes embedded words, ``(T, B, input_size)``.
        dropout: share of the features that are zeroed in training.
        initial_state: state that it begins from where none is given; zeros by default.
        limit: largest magnitude of a weight of embedding or V at the start.
        embedding_quantizer, head_quantizer: quantizers of the embedding and of V.
    """

    def __init__(
        self,
        words: int,
        recurrent: RecurrentLayer,
        dropout: float,
        initial_state: InitialState | None = None,
        *,
        limit: float = 0.1,
        embedding_quantizer: str = "none",
        head_quantizer: str = "none",
    ) -> None:
        super().__init__()
        self.embedding = Embedding(words, recurrent.input_size, quantizer=embedding_quantizer)
        self.recurrent = recurrent
        self.output = Linear(recurrent.output_size, words, quantizer=head_quantizer)
        self.dropout = dropout
        self.initial_state = initial_state
        nn.init.uniform_(self.embedding.weight, -limit, limit)
        nn.init.uniform_(self.output.weight, -limit, limit)
        nn.init.zeros_(self.output.bias)
        self.embedding.prepare_from_weights()
        self.output.prepare_from_weights()

    def features(self, words: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return what the output layer sees, ``(T, B, features)``, and the recurrent layer's last state."""
        if state is None and self.initial_state is not None:
            state = self.initial_state(words.shape[1])
        x = F.dropout(self.embedding(words), self.dropout, self.training)
        h, state = self.recurrent(x, state)
        return F.dropout(h, self.dropout, self.training), state

    def forward(self, words: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the logits ``(T, B, words)`` of the next words, and the recurrent layer's last state.

        Args:
            words: ``(T, B)``, integers.
            state: initial state of the recurrent layer; by default, the one that the model begins from.
        """
        h, state = self.features(words, state)
        return self.output(h), state

    def packed_stages(self) -> list[nn.Module]:
        """Return what ``forward`` applies in ``eval()``, for :func:`qlstm_core.pack`."""
        start = [] if self.initial_state is None else [self.initial_state]
        return [self.embedding, *start, self.recurrent, self.output]


class WordLM(LanguageModelling):
    """Predict the next word.

    Defaults are the paper's, of which the authors' code gives those that the poster does not: 300 units and
    an embedding of the same size, dropout ½, 20 streams, 35 steps, plain SGD with learning rate 20, divided
    by 4 at each validation that is no better than the best, gradients clipped to norm ¼ over all parameters.
    Weights of ±1 or 0, ±1 are learnt 2√d times faster: their levels are that much larger than those that the
    layer starts from. (``batch-separate`` wants ``max_steps=35``.)

    Source: Hou et al. 2019, "Normalization helps training of quantized LSTM".
    """

    defaults: ClassVar[dict[str, Any]] = {
        "data": "ptb-word", "hidden": 300, "batch": 20, "unroll": 35, "dropout": 0.5,
        "optimizer": "sgd", "lr": 20.0, "stall_divisor": 4.0, "clip": 0.25,
    }  # fmt: skip
    metric = "ppl"
    metric_title = "perplexity"
    unit: ClassVar[Unit] = "words"
    quantizes: ClassVar[tuple[str, ...]] = ("embedding", "head")

    def model(self, quantizer: str, normalizer: str) -> WordLanguageModel:
        """Return a fresh :class:`WordLanguageModel`."""
        layer = self._layer(quantizer, normalizer)
        start = make_initial_state(self._config, layer)
        return WordLanguageModel(
            len(self._text.symbols),
            layer,
            self._config.dropout,
            start,
            embedding_quantizer=self._config.embedding_quantizer,
            head_quantizer=self._config.head_quantizer,
        )

    def _layer(self, quantizer: str, normalizer: str) -> RecurrentLayer:
        """Return the recurrent layer, whose input has the size of its output."""
        c = self._config
        between = c.dropout if c.layers > 1 else 0.0
        return make_layer(c, c.proj or c.hidden, quantizer, normalizer, dropout=between)

    def to_metric(self, loss: float) -> float:
        """Return the exponential of the loss, cut off before it overflows."""
        return math.exp(min(loss, _LARGEST_EXPONENT))

    def quantized_lr(self, layer: RecurrentLayer) -> float:
        """Return 2√d where the levels are ±1 or 0, ±1, else 1."""
        return 2 * math.sqrt(layer.hidden_size) if has_unit_levels(layer) else 1.0
