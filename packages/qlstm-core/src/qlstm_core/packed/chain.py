"""What a packed model consists of: a chain of stages, before they become arrays for the kernels or a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from qlstm_core.packed.network import Floats, Matrix, Network, values_of
from qlstm_core.packed.vocabulary import Vocabulary

Outcome = Literal["logits", "softmax", "log-softmax"]
"""What is made of the last stage's output."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
MAX_STAGES = 64
"""So few that a file cannot ask for many times the memory that it takes itself, by sharing a matrix."""


@dataclass(frozen=True)
class EmbeddingStage:
    """Tokens become rows of a matrix.

    Args:
        name: its name in the model.
        label: quantizer, for people to read.
        matrix: ``(1, tokens, features)``.
        padding: a row that is kept in full precision whatever the matrix is: its number and its values.
    """

    name: str
    label: str
    matrix: Matrix
    padding: tuple[int, Floats] | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return int(self.matrix.shape[1])

    @property
    def output_size(self) -> int:
        """Number of features of a row."""
        return int(self.matrix.shape[2])


@dataclass(frozen=True)
class RecurrentStage:
    """A recurrent network; of its output and its state, the output goes on.

    Args:
        name: its name in the model.
        network: the network.
        start: the state that sequences begin from, of ``state_shapes``; ``None`` for zeros.

    Raises:
        ValueError: a start of other shapes.
    """

    name: str
    network: Network
    start: tuple[Floats, ...] | None = None

    def __post_init__(self) -> None:
        if self.start is not None:
            given = [state.shape for state in self.start]
            expected = self.state_shapes
            if given != expected:
                raise ValueError(f"stage {self.name!r} begins from states of {given}, expected {expected}")

    @property
    def state_shapes(self) -> list[tuple[int, int]]:
        """``(layers · directions, features)`` of each of the cell's states."""
        c = self.network.config
        sizes = [c.output_size if name == "h" else c.hidden_size for name in c.cell.states]
        return [(c.num_layers * c.directions, size) for size in sizes]

    @property
    def input_size(self) -> int:
        """Number of features, or of tokens, that it takes."""
        return self.network.config.input_size

    @property
    def output_size(self) -> int:
        """Number of features that it gives."""
        return self.network.config.output_size * self.network.config.directions


@dataclass(frozen=True)
class LinearStage:
    """``W x + b``.

    Args:
        name: its name in the model.
        label: quantizer, for people to read.
        matrix: ``(1, outputs, inputs)``.
        bias: ``(outputs,)``, or ``None``.
    """

    name: str
    label: str
    matrix: Matrix
    bias: Floats | None = None

    @property
    def input_size(self) -> int:
        """Number of features that it takes."""
        return int(self.matrix.shape[2])

    @property
    def output_size(self) -> int:
        """Number of features that it gives."""
        return int(self.matrix.shape[1])


Stage = EmbeddingStage | RecurrentStage | LinearStage


@dataclass(frozen=True)
class Chain:
    """A whole model: stages, one after the other. Two stages may have one matrix, the same object.

    Args:
        stages: an embedding comes first, and at least one stage is recurrent.
        outcome: what is made of the last stage's output.
        vocabulary: what tokens stand for, if that is known.

    Raises:
        ValueError: stages that do not fit one another, or more than ``MAX_STAGES``; nothing recurrent; a
            vocabulary of another size.
    """

    stages: tuple[Stage, ...]
    outcome: Outcome = "logits"
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        if len(self.stages) > MAX_STAGES:
            raise ValueError(f"a model has at most {MAX_STAGES} stages, got {len(self.stages)}")
        if not self.recurrent:
            names = ", ".join(stage.name for stage in self.stages)
            raise ValueError(
                f"the stages are {names or 'none'}, and none of them is recurrent: "
                "a model needs an LSTM, a GRU or another recurrent layer of qlstm_core to be packed"
            )
        for stage, following in zip(self.stages, self.stages[1:], strict=False):
            if isinstance(following, EmbeddingStage):
                raise ValueError(
                    f"stage {following.name!r} takes tokens, and stage {stage.name!r} before it gives "
                    f"{stage.output_size} features: an embedding comes first"
                )
            if stage.output_size != following.input_size:
                raise ValueError(
                    f"stage {stage.name!r} gives {stage.output_size} features, and stage {following.name!r} "
                    f"after it takes {following.input_size}"
                )
        if self.vocabulary is not None:
            if self.tokens is None:
                raise ValueError(
                    f"a vocabulary of {len(self.vocabulary):,} symbols for a model that takes no tokens: its "
                    f"first stage, {self.stages[0].name!r}, is linear"
                )
            if len(self.vocabulary) != self.tokens:
                raise ValueError(
                    f"a vocabulary of {len(self.vocabulary):,} symbols does not fit stage "
                    f"{self.stages[0].name!r}, which takes {self.tokens:,} tokens"
                )

    @property
    def recurrent(self) -> list[RecurrentStage]:
        """The recurrent stages."""
        return [stage for stage in self.stages if isinstance(stage, RecurrentStage)]

    @property
    def tokens(self) -> int | None:
        """Number of tokens that the model tells apart; ``None`` where it takes vectors alone."""
        first = self.stages[0]
        if isinstance(first, LinearStage):
            return None
        return first.tokens if isinstance(first, EmbeddingStage) else first.input_size

    def matrices(self) -> Iterator[Matrix]:
        """Yield the matrices of all stages, one that several have each time."""
        for stage in self.stages:
            if isinstance(stage, RecurrentStage):
                for cell in stage.network.cells:
                    yield from cell.matrices.values()
            else:
                yield stage.matrix

    @property
    def float32_nbytes(self) -> int:
        """Bytes of the chain with every weight as float32, shared ones once."""
        total = 0
        weights: dict[int, int] = {}
        for stage in self.stages:
            if isinstance(stage, RecurrentStage):
                total += stage.network.float32_nbytes + sum(part.nbytes for part in stage.start or ())
                continue
            weights[id(stage.matrix)] = 4 * math.prod(stage.matrix.shape)
            if isinstance(stage, LinearStage) and stage.bias is not None:
                total += stage.bias.nbytes
        return total + sum(weights.values())

    def with_floats(self) -> Chain:
        """Return the same chain with the values of its bits as float32."""
        stages: list[Stage] = []
        for stage in self.stages:
            if isinstance(stage, RecurrentStage):
                stages.append(replace(stage, network=stage.network.with_floats()))
            else:
                stages.append(replace(stage, matrix=values_of(stage.matrix)))
        return replace(self, stages=tuple(stages))
