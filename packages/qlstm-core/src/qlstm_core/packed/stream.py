"""The state of a network that receives one step at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from qlstm_core.packed.engine.operands import Inputs, Workspace
from qlstm_core.packed.kernels.layout import aligned

if TYPE_CHECKING:
    from qlstm_core.packed.executor import Executor

_FLOAT32, _INT32, _INT64 = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.int64)


class Stream:
    """The state that :meth:`qlstm_core.packed.PackedLayer.step` carries on, and room to compute in.

    It belongs to one stream of steps and is changed by each; two threads need one each. Iterating gives
    copies of the current state as ``nn.LSTM`` shapes it, so ``h, c = stream`` and ``packed(x,
    tuple(stream))`` work. A copy of a stream, by :meth:`clone`, ``copy`` or ``pickle``, is a stream of its
    own that goes on from the same step; it then belongs to whichever network of the same sizes takes its next
    step.

    Args:
        h, c: the state, which is changed; c of a GRU has no features.
        batched: whether steps have a batch dimension.
        steps: number of steps that have been processed.

    Attributes:
        steps: number of steps that have been processed.
    """

    def __init__(self, h: NDArray[np.float32], c: NDArray[np.float32], batched: bool, steps: int = 0) -> None:
        self.executor: Executor | None = None
        self.batched = batched
        self.steps = steps
        self._h, self._c = h, c

    def bind(self, executor: Executor) -> None:
        """Make room for the steps of one network."""
        program, h, c = executor.program, self._h, self._c
        config = program.config
        batch = h.shape[1]
        places, size = program.places(batch, batch)
        x, tokens = aligned((batch, config.input_size), np.float32), np.zeros(batch, np.int64)
        y = aligned((batch, config.output_size), np.float32)
        self.y = y if self.batched else y[0]
        self.y_tensor = torch.from_numpy(self.y)
        self._x = x if self.batched else x[0]
        self._tokens = tokens if self.batched else tokens.reshape(())
        self._unsigned = tokens.view(np.uint64)
        sizes, starts = np.full(1, batch, np.int64), np.zeros(1, np.int64)
        # The engine's arguments around the number of steps: of x and tokens, one is without rows.
        self._with_x = (executor.arrays, Inputs(x, tokens[:0], sizes, starts), h, c, y)
        self._with_tokens = (executor.arrays, Inputs(x[:0], tokens, sizes, starts), h, c, y)
        self._workspace = Workspace(aligned((size,), np.uint8), places)
        self.executor = executor

    def clone(self) -> Stream:
        """Return a stream of its own that goes on from here, for example for a beam of a search."""
        return copy.copy(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # What is bound to a network, such as addresses of compiled code, is made again with the next step.
        return Stream, (self._h.copy(), self._c.copy(), self.batched, self.steps)

    def take(self, x: NDArray[Any]) -> tuple[Any, ...]:
        """Take in one step's vectors or tokens; return the engine's arguments, of one type at each step.

        Raises:
            ValueError: a shape, dtype or token that does not fit.
        """
        own: NDArray[Any]
        if x.dtype == _FLOAT32:
            own, arguments = self._x, self._with_x
        elif x.dtype == _INT64 or x.dtype == _INT32:
            own, arguments = self._tokens, self._with_tokens
        else:
            raise ValueError(f"a step is float32, or int32 or int64 tokens, got {x.dtype}")
        if x.shape != own.shape:
            raise ValueError(
                f"a step of this stream has shape {own.shape}, got {x.shape}; "
                "another batch begins with state=None"
            )
        own[...] = x
        # Read without a sign, negative tokens are the largest: one pass checks both bounds.
        if own is self._tokens and own.size and self._unsigned.max() >= self._x.shape[-1]:
            raise ValueError(
                f"tokens must lie in [0, input_size), here [0, {self._x.shape[-1]}), "
                f"got {own.min()} to {own.max()}"
            )
        return *arguments, self.steps, self._workspace

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield copies of h and, of an LSTM, c, as tensors."""
        for state in (self._h, self._c) if self._c.shape[-1] else (self._h,):
            yield torch.from_numpy((state if self.batched else state[:, 0]).copy())
