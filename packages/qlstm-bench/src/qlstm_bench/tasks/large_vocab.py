"""Word-level language modelling with a large vocabulary: sampled softmax, projected and factorized cells."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.tasks.language_modelling import State, detach
from qlstm_bench.tasks.layers import make_initial_state
from qlstm_bench.tasks.sampled_softmax import draw_words, sampled_cross_entropy
from qlstm_bench.tasks.word_lm import WordLanguageModel, WordLM
from qlstm_bench.training.optimizer_catalogue import takes_sparse_gradients
from qlstm_core import InitialState, RecurrentLayer

_SHARDS = 8
"""Parts that the authors' code splits embedding and output weights into, each started by its own size."""


class SampledWordLanguageModel(WordLanguageModel):
    """A word language model that computes its own loss in training, from few of the words.

    Embedding and V start from U(±√(3·8/words)), at most ±0.1: unit scaling, as the authors' code has it, of
    each of the 8 shards that it splits them into.

    Args:
        words, recurrent, dropout, initial_state: as :class:`WordLanguageModel`.
        samples: words drawn for each batch.
        sparse: have the gradients of embedding and output weights as sparse tensors.
        embedding_factor: multiplies the gradient of the embedding.
        embedding_quantizer, head_quantizer: as :class:`WordLanguageModel`; what is quantized has dense
            gradients.
    """

    def __init__(
        self,
        words: int,
        recurrent: RecurrentLayer,
        dropout: float,
        samples: int,
        sparse: bool,
        initial_state: InitialState | None = None,
        *,
        embedding_factor: float = 1.0,
        embedding_quantizer: str = "none",
        head_quantizer: str = "none",
    ) -> None:
        limit = min(0.1, math.sqrt(3 * _SHARDS / words))
        super().__init__(
            words,
            recurrent,
            dropout,
            initial_state,
            limit=limit,
            embedding_quantizer=embedding_quantizer,
            head_quantizer=head_quantizer,
        )
        self.samples = samples
        self.embedding.sparse = sparse and not self.embedding.quantizes
        self.sparse_head = sparse and not self.output.quantizes
        if embedding_factor != 1:
            self.embedding.weight.register_hook(lambda gradient: gradient * embedding_factor)
        if sparse:  # torch warns at the first sparse gradient until one has decided
            torch.sparse.check_sparse_tensor_invariants.disable()

    def forward(
        self, words: Tensor, state: State | None = None, following: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return the logits of the next words, or their sampled loss where these are given; and the state.

        Args:
            words: ``(T, B)``, integers.
            state: initial state of the recurrent layer; by default, the one that the model begins from.
            following: the next words, ``(T, B)``.
        """
        h, state = self.features(words, state)
        if following is None:
            return self.output(h), state
        draw = draw_words(self.samples, len(self.output.weight), words.device)
        weight, bias = self.output.quantized_weight(), self.output.bias
        loss = sampled_cross_entropy(
            h.flatten(0, 1), weight, bias, following.flatten(), draw, sparse=self.sparse_head
        )
        return loss, state


class LargeVocabularyLM(WordLM):
    """Predict the next word of a large vocabulary, with a softmax over a sample of it in training.

    Validation and test use the whole vocabulary. Defaults are the paper's: an LSTM of two layers of 8192
    units projected to 1024, embedded words of that size, 256 streams, 8192 samples, Adagrad with learning
    rate 0.2; of its code: 20 steps, dropout 0.1, and the gradients of the recurrent layers clipped at norm 1
    of a loss summed over the steps, which is 1/20 of ours. ``--cell f-lstm --rank 512`` and ``--cell g-lstm
    --groups 4`` are the paper's models.

    Args:
        samples: words drawn for each batch.
        embedding_reduction: ``"sum"`` gives the embedding the gradient of the loss summed over the streams,
            as the authors' code does, ``"mean"`` that of the mean, which all else has. Adagrad hardly moves
            an embedding that has the mean's: its rows are rarely seen, and its first sum outweighs theirs.

    Source: Kuchaiev and Ginsburg 2017, "Factorization tricks for LSTM networks", arXiv:1703.10722.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "data": "billion-word", "hidden": 8192, "proj": 1024, "layers": 2, "batch": 256, "unroll": 20,
        "dropout": 0.1, "optimizer": "adagrad", "lr": 0.2, "clip": 0.05, "clipping": "recurrent",
    }  # fmt: skip

    def __init__(self, samples: int = 8192, embedding_reduction: Literal["sum", "mean"] = "sum") -> None:
        if not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples!r}")
        if embedding_reduction not in ("sum", "mean"):
            raise ValueError(f"embedding_reduction must be sum or mean, got {embedding_reduction!r}")
        self._samples = samples
        self._embedding_reduction = embedding_reduction

    def prepare(self, config: RunConfig) -> None:
        """Load the text and see that the sample is a part of its vocabulary."""
        super().prepare(config)
        if self._samples >= len(self._text.symbols):
            raise ConfigError(
                f"{config.task}: samples={self._samples} is not below the vocabulary of {self.dataset}, "
                f"{len(self._text.symbols)} words; expected fewer, as in large-vocab-lm:samples=512"
            )
        # Adam needs every row's gradient, as most optimizers do, and processes exchange dense ones.
        self._sparse = config.processes == 1 and takes_sparse_gradients(config.optimizer, config.lr)

    def model(self, quantizer: str, normalizer: str) -> SampledWordLanguageModel:
        """Return a fresh :class:`SampledWordLanguageModel`."""
        c = self._config
        layer = self._layer(quantizer, normalizer)
        words, start = len(self._text.symbols), make_initial_state(c, layer)
        factor = c.batch if self._embedding_reduction == "sum" else 1
        return SampledWordLanguageModel(
            words,
            layer,
            c.dropout,
            self._samples,
            self._sparse,
            start,
            embedding_factor=factor,
            embedding_quantizer=c.embedding_quantizer,
            head_quantizer=c.head_quantizer,
        )

    def loss(
        self, model: torch.nn.Module, batch: tuple[Tensor, Tensor], state: State | None
    ) -> tuple[Tensor, State]:
        """Return the mean sampled cross-entropy and the last state, detached."""
        words, following = batch
        loss, state = model(words, state, following)
        return loss, detach(state)
