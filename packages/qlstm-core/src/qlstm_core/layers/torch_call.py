"""How torch's recurrent layers are called: padded, unbatched or packed sequences, as rows of all steps."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from qlstm_core.layers.border import batch_sizes
from qlstm_core.layers.checks import TOKEN_DTYPES, check_dimensions


class SequenceCall:
    """Brings every form of input to ``_rows``, and what that returns back to the form of the input."""

    batch_first: bool

    @abstractmethod
    def _check_input(self, x: Tensor, tokens: bool, packed: bool) -> None:
        """Raise torch's errors where features, dtype or tokens do not fit."""

    @abstractmethod
    def _rows(
        self, x: Tensor, state: tuple[Tensor, ...] | None, batch_sizes: list[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run ``(Σ batch_sizes, features)``, or tokens, and return output and final state, batched."""

    def _call(
        self, x: Tensor | PackedSequence, state: tuple[Tensor, ...] | None
    ) -> tuple[Any, tuple[Tensor, ...]]:
        for given in (x.data if isinstance(x, PackedSequence) else x, *(state or ())):
            if not isinstance(given, Tensor):
                raise TypeError(f"{type(self).__name__}: expected tensors, got {type(given).__name__}")
        if isinstance(x, PackedSequence):
            return self._call_packed(x, state)
        return self._call_padded(x, state)

    def _call_padded(self, x: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        tokens = x.dtype in TOKEN_DTYPES and x.dim() <= 2
        batched = check_dimensions(type(self).__name__, x, state, features=0 if tokens else 1)
        if not batched:
            x = x.unsqueeze(1)
            state = None if state is None else tuple(s.unsqueeze(1) for s in state)
        elif self.batch_first:
            x = x.transpose(0, 1)
        self._check_input(x, tokens, packed=False)
        steps, batch = x.shape[:2]
        if steps == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        y, state = self._rows(x.flatten(0, 1), state, [batch] * steps)
        y = y.unflatten(0, (steps, batch))
        if not batched:
            return y.squeeze(1), tuple(s.squeeze(1) for s in state)
        return (y.transpose(0, 1) if self.batch_first else y), state

    def _call_packed(
        self, packed: PackedSequence, state: tuple[Tensor, ...] | None
    ) -> tuple[PackedSequence, tuple[Tensor, ...]]:
        x, _, sorted_indices, unsorted_indices = packed
        sizes = batch_sizes(packed)
        self._check_input(x, x.dtype in TOKEN_DTYPES and x.dim() == 1, packed=True)
        if state is not None and sorted_indices is not None:
            state = tuple(s.index_select(1, sorted_indices) for s in state)
        y, state = self._rows(x, state, sizes)
        if unsorted_indices is not None:
            state = tuple(s.index_select(1, unsorted_indices) for s in state)
        return packed._replace(data=y), state


def bare(state: tuple[Any, ...]) -> Any:
    """Return a state as torch does: the tuple, or what is in it where it has one part."""
    return state if len(state) > 1 else state[0]
