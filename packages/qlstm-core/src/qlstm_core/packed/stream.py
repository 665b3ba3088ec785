"""The state of a network that receives one step at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qlstm_core.packed.format import aligned
from qlstm_core.packed.program import Program


class Stream:
    """What :meth:`PackedLayer.step` keeps between two calls: the state, and room to compute in.

    It belongs to one stream of steps and is changed by each; two threads need one each. Iterating gives the
    current state as ``nn.LSTM`` shapes it, so ``h, c = stream`` and ``packed(x, tuple(stream))`` work; these
    are views that the next step changes.

    Attributes:
        steps: how many steps have been processed.
    """

    def __init__(self, program: Program, states: tuple[NDArray[np.float32], ...], batched: bool) -> None:
        config = program.config
        self.program = program
        self.batched = batched
        self.states = states
        self.steps = 0
        h = states[0]
        batch = h.shape[1]
        c = states[1] if len(states) > 1 else np.zeros((*h.shape[:2], 0), np.float32)
        places, size = program.places(batch, batch)
        self.x = aligned((batch, config.input_size), np.float32)
        self.tokens = np.zeros(batch, np.int64)
        y = aligned((batch, config.output_size), np.float32)
        self.y = y if batched else y[0]
        self.y_tensor = torch.from_numpy(self.y)
        sizes, starts = np.full(1, batch, np.int64), np.zeros(1, np.int64)
        work = aligned((size,), np.uint8)
        # Arguments of the engine behind x and tokens, around the number of steps.
        self.before = (sizes, starts, h, c, y)
        self.after = (work, places)

    def put(self, x: NDArray[Any]) -> tuple[Any, Any]:
        """Take in one step's vectors or tokens; return what the engine reads, one of the two without rows.

        Raises:
            ValueError: a shape, dtype or token that does not fit.
        """
        own: NDArray[Any]
        if x.dtype == np.float32:
            own = self.x if self.batched else self.x[0]
        elif x.dtype == np.int64 or x.dtype == np.int32:
            own = self.tokens if self.batched else self.tokens[0:1].reshape(())
        else:
            raise ValueError(f"a step is float32, or int32 or int64 tokens, got {x.dtype}")
        if x.shape != own.shape:
            raise ValueError(
                f"a step of this stream has shape {own.shape}, got {x.shape}; "
                "another batch begins with state=None"
            )
        own[...] = x
        if x.dtype == np.float32:
            return self.x, self.tokens[:0]
        if self.tokens.min() < 0 or self.tokens.max() >= self.x.shape[1]:
            raise ValueError(
                f"tokens must lie in [0, input_size), here [0, {self.x.shape[1]}), "
                f"got {self.tokens.min()} to {self.tokens.max()}"
            )
        return self.x[:0], self.tokens

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield h and, of an LSTM, c, as tensors that share memory with the stream."""
        for state in self.states:
            yield torch.from_numpy(state if self.batched else state[:, 0])
