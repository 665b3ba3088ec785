"""Packed models: what ``pack`` returns for a whole model, how they are called, streamed and sampled from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from qlstm_core.layers.torch_call import bare
from qlstm_core.packed import file_format
from qlstm_core.packed.arguments import as_tensor, state_parts
from qlstm_core.packed.chain import Chain, EmbeddingStage, RecurrentStage, Stage
from qlstm_core.packed.layer import PackedLayer, default_activation_bits, packed_layer, relative_error
from qlstm_core.packed.matrix import PackedEmbedding, PackedLinear
from qlstm_core.packed.module import PackedModule
from qlstm_core.packed.stream import Stream
from qlstm_core.packed.vocabulary import Vocabulary

Array = Tensor | NDArray[Any]


class ModelStream:
    """The state that :meth:`PackedModel.step` carries on: a stream of each recurrent layer.

    Iterating gives copies of the current state as a whole sequence returns it, so ``h, c = stream`` of a
    model with one LSTM. A copy, by :meth:`clone`, ``copy.deepcopy`` or ``pickle``, goes on by itself.

    Args:
        streams: one for each recurrent layer.
    """

    def __init__(self, streams: Iterable[Stream]) -> None:
        self.streams = tuple(streams)

    @property
    def steps(self) -> int:
        """Number of steps that have been processed."""
        return self.streams[0].steps

    def clone(self) -> ModelStream:
        """Return a stream of its own that goes on from here, for example for a beam of a search."""
        return ModelStream(stream.clone() for stream in self.streams)

    def __copy__(self) -> ModelStream:
        return self.clone()

    def __iter__(self) -> Iterator[Any]:
        """Yield the parts of the state: of one recurrent layer its states, of several theirs in turn."""
        if len(self.streams) == 1:
            yield from self.streams[0]
        else:
            for stream in self.streams:
                yield bare(tuple(stream))


class PackedModel(PackedModule):
    """A whole model with its weights as bits, ready to run on the CPU; see :func:`qlstm_core.pack`.

    Args:
        chain: the model.
        activation_bits: bits of a table entry, the sum of a group of activations: 8, 12 or 16; default: as of
            the recurrent layers, the finest of them.

    Attributes:
        chain: the model, as data.
        activation_bits: bits of a table entry.
        stages: the modules that run, one after the other.
    """

    def __init__(self, chain: Chain, activation_bits: int | None = None) -> None:
        super().__init__()
        self.chain = chain
        if activation_bits is None:
            activation_bits = max(default_activation_bits(stage.network) for stage in chain.recurrent)
        self.activation_bits = activation_bits
        self.stages = nn.ModuleList(self._module(stage) for stage in chain.stages).eval()
        last = max(index for index, s in enumerate(chain.stages) if isinstance(s, RecurrentStage))
        modules: list[Any] = list(self.stages)
        self._body, self._head = modules[: last + 1], modules[last + 1 :]
        self._starts = [
            None if stage.start is None else tuple(torch.from_numpy(part) for part in stage.start)
            for stage in chain.recurrent
        ]

    def _module(self, stage: Stage) -> PackedModule:
        if isinstance(stage, RecurrentStage):
            return packed_layer(stage.network, self.activation_bits)
        if isinstance(stage, EmbeddingStage):
            return PackedEmbedding(stage)
        return PackedLinear(stage, self.activation_bits)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """What the tokens stand for, if that is known."""
        return self.chain.vocabulary

    @property
    def kernel(self) -> str:
        """Name of the kernel that runs, see :func:`qlstm_core.packed.kernels.choose.choose`."""
        return next(stage.kernel for stage in self._body if isinstance(stage, PackedLayer))

    @property
    def nbytes(self) -> int:
        """Bytes of all weights as stored, shared ones once: those of the file up to its header."""
        return file_format.nbytes(self.chain)

    @property
    def float32_nbytes(self) -> int:
        """Bytes of the model with every weight as float32."""
        return self.chain.float32_nbytes

    def forward(self, x: Array | PackedSequence, state: Any = None) -> tuple[Any, Any]:
        """Run whole sequences.

        Args:
            x: tokens, int32 or int64, ``(T, B)`` (``(B, T)`` where the recurrent layer is ``batch_first``),
                ``(T,)`` unbatched, or a ``PackedSequence``; or, without an embedding, vectors as the
                recurrent layer takes them. A torch tensor on the CPU or a NumPy array.
            state: what a call before returned; default: what the model begins from. Of a model with several
                recurrent layers, a tuple with the state of each.

        Returns:
            The last stage's output, and the state of the recurrent layer, or of each of several in a tuple;
            as tensors where ``x`` is one, else as arrays.

        Raises:
            ValueError, RuntimeError: shapes, dtypes and tokens that do not fit.
        """
        data = x.data if isinstance(x, PackedSequence) else x
        features, finals = self._features(_on_rows(as_tensor, x), state)
        output = self._finished(features)
        if isinstance(x, np.ndarray):
            return output.numpy(), _arrays(bare(tuple(finals)))
        tracked = [data, *(part for given in self._given(state) for part in state_parts(given))]
        output = _on_rows(lambda values: self._without_gradient(tracked, (values,))[0], output)
        return output, bare(tuple(finals))

    def _features(self, x: Any, state: Any) -> tuple[Any, list[Any]]:
        """Return what the last recurrent layer gives, and the last state of each."""
        finals: list[Any] = []
        for stage, given in zip(self._body, self._places(state), strict=True):
            if isinstance(stage, PackedLayer):
                begin = self._start(len(finals), x, stage.batch_first, 2) if given is None else given
                x, final = stage(x, begin)
                finals.append(final)
            else:
                x = _on_rows(stage, x)
        return x, finals

    def _finished(self, features: Any) -> Any:
        """Return what the stages after the last recurrent layer make of its output."""
        for stage in self._head:
            features = _on_rows(stage, features)
        if self.chain.outcome == "softmax":
            return _on_rows(lambda logits: logits.softmax(-1), features)
        if self.chain.outcome == "log-softmax":
            return _on_rows(lambda logits: logits.log_softmax(-1), features)
        return features

    def _places(self, state: Any) -> list[Any]:
        """Return what is given as the state of each stage of the body; of those without state ``None``."""
        given = iter(self._given(state))
        return [next(given) if isinstance(stage, PackedLayer) else None for stage in self._body]

    def _given(self, state: Any) -> list[Any]:
        """Return the state of each recurrent layer as it is given, ``None`` for its start.

        Raises:
            ValueError: states of another number of layers.
        """
        count = len(self._starts)
        if state is None:
            return [None] * count
        if isinstance(state, ModelStream):
            states: list[Any] = list(state.streams)
        else:
            states = [state] if count == 1 else list(state)
        if len(states) != count:
            raise ValueError(
                f"the model has {count} recurrent layers, and {len(states)} states are given: one of each is "
                "expected"
            )
        return states

    def _start(self, index: int, x: Any, batch_first: bool, dimensions: int) -> Any:
        """Return the state that sequences begin from in a recurrent layer, ``None`` for zeros.

        Args:
            index: number of the recurrent layer.
            x: what it is called with.
            batch_first: whether a padded batch comes before its steps.
            dimensions: those of a batch of tokens: 2, or 1 of a step.
        """
        start = self._starts[index]
        if start is None:
            return None
        if isinstance(x, PackedSequence):
            batch = int(x.batch_sizes[0])
        elif x.dim() != dimensions + x.is_floating_point():
            return bare(start)
        else:
            batch = x.shape[0 if batch_first or dimensions == 1 else 1]
        return bare(tuple(part.unsqueeze(1).expand(-1, batch, -1) for part in start))

    def step(self, x: Array, state: Any = None) -> tuple[Any, ModelStream]:
        """Run one step of a stream.

        Example::

            state = None
            for token in tokens:
                scores, state = packed.step(token, state)

        Args:
            x: tokens, int32 or int64, ``(B,)``, or ``()`` unbatched; or vectors as the recurrent layer takes
                them.
            state: what the step before returned; to begin, ``None`` or a state as a whole sequence takes and
                returns it, which is copied.

        Returns:
            The last stage's output, in memory that the next step may overwrite; and the state, the same
            object at every step.

        Raises:
            ValueError: a bidirectional network; shapes, dtypes and tokens that do not fit.
        """
        y: Any = as_tensor(x if isinstance(x, Tensor) else np.asarray(x))
        places = self._places(state)
        streams: list[Stream] = []
        for stage, given in zip(self._body, places, strict=True):
            if isinstance(stage, PackedLayer):
                begin = self._start(len(streams), y, stage.batch_first, 1) if given is None else given
                y, stream = stage.step(y, begin)
                streams.append(stream)
            else:
                y = stage(y)
        y = self._finished(y)
        if not isinstance(state, ModelStream):
            state = ModelStream(streams)
        if not isinstance(x, Tensor):
            return y.numpy(), state
        return self._without_gradient((x,), (y,))[0], state

    def stream(self, state: Any, steps: int = 0) -> ModelStream:
        """Return a stream that goes on from a saved state, for :meth:`step`.

        Args:
            state: as a whole sequence returned it, with a batch dimension or without; copied.
            steps: how many steps led to it. They count where batch statistics are kept for each step.

        Raises:
            ValueError, RuntimeError: a bidirectional network; shapes that do not fit; negative steps.
        """
        layers = [stage for stage in self._body if isinstance(stage, PackedLayer)]
        return ModelStream(
            layer.stream(given, steps) for layer, given in zip(layers, self._given(state), strict=True)
        )

    def generate(
        self,
        tokens: Array,
        n: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Return ``n`` tokens that follow the given ones, each drawn from what the model predicts.

        Example::

            words = packed.vocabulary
            print(words.decode(packed.generate(words.encode("the gate"), 20, temperature=0.7, seed=1)))

        Args:
            tokens: int32 or int64, ``(T,)``, or several texts side by side as a call takes them; at least one
                step.
            n: number of tokens.
            temperature: each is drawn from softmax(scores / temperature); 0 takes that of the highest score.
            top_k: draw among so many of the highest scores; default: among all.
            seed: the same seed gives the same tokens; default: another one each time.

        Returns:
            int64 ``(n,)``, or ``(n, B)`` (``(B, n)`` with ``batch_first``), a tensor where ``tokens`` is one,
            else an array.

        Raises:
            ValueError: a model that does not predict its own tokens, or that is bidirectional; arguments that
                do not fit.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ValueError(f"n must be a whole number from 0, got {n!r}")
        drawn = list(islice(self.sample(tokens, temperature, top_k, seed), n))
        batched = as_tensor(tokens).dim() == 2
        if drawn:
            found = torch.stack(drawn, -1 if batched and self._batch_first else 0)
        else:
            batch = [tokens.shape[0 if self._batch_first else 1]] if batched else []
            found = torch.zeros(
                [*batch, 0] if batched and self._batch_first else [0, *batch], dtype=torch.int64
            )
        return found.numpy() if isinstance(tokens, np.ndarray) else found

    def sample(
        self,
        tokens: Array,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> Iterator[Tensor]:
        """Return an iterator without end over the tokens that follow, one by one; see :meth:`generate`.

        Yields:
            int64 ``()``, or ``(B,)``.
        """
        size = self.chain.tokens
        if size is None or self.chain.stages[-1].output_size != size:
            gives = self.chain.stages[-1].output_size
            takes = "no tokens" if size is None else f"{size:,} tokens"
            raise ValueError(
                f"the model takes {takes} and gives {gives:,} scores: it does not predict tokens"
            )
        if any(stage.network.config.bidirectional for stage in self.chain.recurrent):
            raise ValueError(
                "a bidirectional network reads whole sequences: it does not predict what follows"
            )
        if not isinstance(temperature, int | float) or not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be a finite number from 0, got {temperature!r}")
        if top_k is not None and (
            isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= size
        ):
            raise ValueError(f"top_k must be a whole number from 1 to {size:,}, the tokens, got {top_k!r}")
        if seed is not None and (not isinstance(seed, int) or not 0 <= seed < 2**63):
            raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1, got {seed!r}")
        given = as_tensor(tokens)
        if given.dim() not in (1, 2) or given.is_floating_point() or not given.numel():
            raise ValueError(
                "tokens to go on from are at least one step of integers, (T,) or with a batch, got "
                f"{given.dtype} of shape {tuple(given.shape)}"
            )
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return self._sampled(given, float(temperature), top_k, generator)

    def _sampled(
        self, tokens: Tensor, temperature: float, top_k: int | None, generator: torch.Generator
    ) -> Iterator[Tensor]:
        along = 1 if tokens.dim() == 2 and self._batch_first else 0
        features, finals = self._features(tokens, None)
        state = self.stream(bare(tuple(finals)), tokens.shape[along])
        scores = self._finished(features.select(along, -1))
        while True:
            token = draw(self._logits(scores), temperature, top_k, generator)
            yield token
            scores, state = self.step(token, state)

    def _logits(self, output: Tensor) -> Tensor:
        return output.log() if self.chain.outcome == "softmax" else output

    @property
    def _batch_first(self) -> bool:
        return next(stage.batch_first for stage in self._body if isinstance(stage, PackedLayer))

    def rounding_error(self, x: Array | PackedSequence, state: Any = None) -> float:
        """Measure what rounding activations costs for an input; see :meth:`PackedLayer.rounding_error`."""
        exact = PackedModel(self.chain.with_floats(), self.activation_bits)
        return relative_error(self(x, state)[0], exact(x, state)[0])

    def save(self, file: file_format.Target) -> None:
        """Write the model, with its vocabulary, to a file.

        Args:
            file: a path, by custom ``….safetensors``, where the file will be whole or not at all and replaces
                one that exists; or a binary file that is open for writing, such as ``io.BytesIO()``.
        """
        file_format.save(self.chain, file, self.activation_bits)

    @classmethod
    def load(cls, file: file_format.Target, activation_bits: int | None = None) -> Self:
        """Read a model that :meth:`save` wrote; nothing in the file is executed.

        Args:
            file: a path, or a binary file that is open for reading.
            activation_bits: 8, 12 or 16; default: as saved.

        Raises:
            PackedFileError: a file that is truncated, altered, of a later version or inconsistent, or that
                holds a layer alone.
            OSError: a file that cannot be read.
        """
        chain, saved = file_format.load(file)
        if not isinstance(chain, Chain):
            raise file_format.PackedFileError(
                f"{file_format.name_of(file)}: holds a recurrent layer alone, not a {cls.__name__}: "
                "load_packed reads it"
            )
        return cls(chain, saved if activation_bits is None else activation_bits)

    def extra_repr(self) -> str:
        """Return the bytes of all weights and how it is stored."""
        symbols = "" if self.vocabulary is None else f", {len(self.vocabulary):,} symbols"
        return f"{self.nbytes:,} bytes, {self.activation_bits}-bit tables, {self.chain.outcome}{symbols}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.chain, self.activation_bits)


def draw(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> Tensor:
    """Return a token for each vector of logits, drawn from softmax(logits / temperature).

    Args:
        logits: ``(tokens,)`` or ``(B, tokens)``.
        temperature: 0 takes the highest.
        top_k: number of the highest logits that are drawn among; ``None`` for all.
        generator: draws.

    Returns:
        int64 ``()`` or ``(B,)``.
    """
    if temperature == 0:
        return logits.argmax(-1)
    candidates = None
    if top_k is not None:
        logits, candidates = logits.topk(top_k)
    # The largest is subtracted first: a small temperature must not overflow.
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature
    chosen = torch.multinomial(scaled.softmax(-1), 1, generator=generator)
    return (chosen if candidates is None else candidates.gather(-1, chosen)).squeeze(-1)


def _on_rows(function: Any, x: Any) -> Any:
    """Apply a function of tensors to a tensor, or to the data of a PackedSequence."""
    return x._replace(data=function(x.data)) if isinstance(x, PackedSequence) else function(x)


def _arrays(state: Any) -> Any:
    """Return a state's tensors as arrays, however nested."""
    return state.numpy() if isinstance(state, Tensor) else tuple(_arrays(part) for part in state)
