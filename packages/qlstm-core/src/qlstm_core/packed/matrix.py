"""Packed embeddings and packed linear layers: the stages of a packed model around its recurrent layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from qlstm_core.layers.checks import TOKEN_DTYPES
from qlstm_core.packed.arguments import as_tensor
from qlstm_core.packed.chain import EmbeddingStage, LinearStage
from qlstm_core.packed.kernels.layout import check_activation_bits
from qlstm_core.packed.module import PackedModule
from qlstm_core.packed.network import Bits, Matrix
from qlstm_core.printable import printable


class PackedEmbedding(PackedModule):
    """An embedding whose rows are read from bits.

    Args:
        stage: the embedding to run.
    """

    def __init__(self, stage: EmbeddingStage) -> None:
        super().__init__()
        self.stage = stage

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return self.stage.matrix.nbytes + self._padding_nbytes

    @property
    def float32_nbytes(self) -> int:
        """Bytes with every weight as float32."""
        return _float32_nbytes(self.stage.matrix)

    @property
    def _padding_nbytes(self) -> int:
        return 0 if self.stage.padding is None else self.stage.padding[1].nbytes

    @cached_property
    def _rows(self) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
        matrix = self.stage.matrix
        if isinstance(matrix, Bits):
            from qlstm_core.packed.executor import Rows

            return Rows(matrix)
        return lambda tokens: np.take(matrix[0], tokens, axis=0)

    def forward(self, tokens: Any) -> Tensor:
        """Return the rows that tokens name, ``(…, features)``, from int32 or int64 ``(…)``.

        Raises:
            ValueError: another dtype, or tokens out of range.
        """
        given = as_tensor(tokens)
        if given.dtype not in TOKEN_DTYPES:
            raise ValueError(f"tokens are int32 or int64, got {given.dtype}")
        flat = np.ascontiguousarray(given.numpy(), np.int64).reshape(-1)
        # Read without a sign, negative tokens are the largest: one pass checks both bounds.
        if flat.size and flat.view(np.uint64).max() >= self.stage.tokens:
            raise ValueError(f"tokens must lie in [0, {self.stage.tokens}), got {flat.min()} to {flat.max()}")
        rows = self._rows(flat)
        if self.stage.padding is not None:
            row, values = self.stage.padding
            rows[flat == row] = values
        return torch.from_numpy(rows).view(*given.shape, self.stage.output_size)

    def extra_repr(self) -> str:
        """Return sizes, quantizer and bytes."""
        return printable(
            f"{self.stage.tokens} tokens, {self.stage.output_size} features, "
            f"quantizer={self.stage.label!r}, {self.nbytes:,} bytes"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.stage,)


class PackedLinear(PackedModule):
    """A linear layer that multiplies with bits.

    Args:
        stage: the layer to run.
        activation_bits: 8, 12 or 16.
    """

    def __init__(self, stage: LinearStage, activation_bits: int) -> None:
        super().__init__()
        self.stage = stage
        check_activation_bits(activation_bits)
        self.activation_bits = activation_bits

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return self.stage.matrix.nbytes + self._bias_nbytes

    @property
    def float32_nbytes(self) -> int:
        """Bytes with every weight as float32."""
        return _float32_nbytes(self.stage.matrix) + self._bias_nbytes

    @property
    def _bias_nbytes(self) -> int:
        return 0 if self.stage.bias is None else self.stage.bias.nbytes

    @cached_property
    def _multiply(self) -> Callable[[Tensor], Tensor]:
        """``x ↦ W x + b`` of ``(rows, inputs)``."""
        matrix, bias = self.stage.matrix, self.stage.bias
        if isinstance(matrix, Bits):
            from qlstm_core.packed.executor import Product

            product = Product(matrix, bias, self.activation_bits)
            return lambda x: torch.from_numpy(product(np.ascontiguousarray(x.numpy())))
        weight = torch.from_numpy(matrix[0])
        return lambda x: F.linear(x, weight, None if bias is None else torch.from_numpy(bias))

    def forward(self, x: Any) -> Tensor:
        """Return ``W x + b``, ``(…, outputs)``, from float32 ``(…, inputs)``.

        Raises:
            ValueError: another dtype.
            RuntimeError: another number of features.
        """
        given = as_tensor(x)
        if given.dtype != torch.float32:
            raise ValueError(f"a packed linear layer takes float32, got {given.dtype}")
        if given.dim() < 1 or given.shape[-1] != self.stage.input_size:
            raise RuntimeError(
                f"a packed linear layer takes {self.stage.input_size} features, "
                f"got shape {tuple(given.shape)}"
            )
        y = self._multiply(given.reshape(-1, self.stage.input_size))
        return y.view(*given.shape[:-1], self.stage.output_size)

    def extra_repr(self) -> str:
        """Return sizes, quantizer and bytes."""
        return printable(
            f"{self.stage.input_size} inputs, {self.stage.output_size} outputs, "
            f"quantizer={self.stage.label!r}, {self.nbytes:,} bytes"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.stage, self.activation_bits)


def _float32_nbytes(matrix: Matrix) -> int:
    return 4 * math.prod(matrix.shape)
