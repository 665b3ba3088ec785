"""A packed network on this host: laid out for a kernel, with the compiled engine that runs it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlstm_core.packed.arguments import NO_TOKENS
from qlstm_core.packed.engine.kernel_calls import bind, resolve
from qlstm_core.packed.engine.loop import run
from qlstm_core.packed.engine.matrix import multiply, read_rows
from qlstm_core.packed.engine.operands import Inputs, NetworkArrays, Workspace
from qlstm_core.packed.engine.program import CELL, Program, build, build_matrix, pairings_of
from qlstm_core.packed.kernels.choose import choose
from qlstm_core.packed.kernels.layout import aligned
from qlstm_core.packed.network import Bits, Floats, Network

Array = NDArray[Any]


class _Scratch(threading.local):
    """Memory that a thread's calls compute in: fresh pages for each would cost more than a short sequence."""

    most_kept = 2**22
    kept = aligned((0,), np.uint8)

    def of(self, size: int) -> NDArray[np.uint8]:
        """Return at least ``size`` bytes, of any content; up to 4 MiB are kept for the next call."""
        if size <= len(self.kept):
            return self.kept
        fresh = aligned((size,), np.uint8)
        if size <= self.most_kept:
            self.kept = fresh
        return fresh


_SCRATCH = _Scratch()


class Executor:
    """Runs a network with the best kernel of this host.

    Args:
        network: the network to lay out.
        activation_bits: 8, 12 or 16.

    Attributes:
        kernel: name of the kernel.
        program: the network laid out for the kernel.
        arrays: the arrays of the network and the kernel, as the engine takes them.

    Raises:
        ValueError: another ``activation_bits``.
    """

    def __init__(self, network: Network, activation_bits: int) -> None:
        kernel = choose()
        self.kernel = kernel.name
        self.program: Program = build(network, activation_bits, kernel.span)
        p = self.program
        record, self._functions = bind(kernel, activation_bits, pairings_of(p.matrices))
        self.arrays = NetworkArrays(record, p.cells, p.matrices, p.blocks, p.floats)

    @cached_property
    def run(self) -> Callable[..., None]:
        """The engine for any arguments, see :func:`qlstm_core.packed.engine.loop.run`: only sizes differ."""
        x, state = np.zeros((0, 1), np.float32), np.zeros((1, 0, 1), np.float32)
        places, _ = self.program.places(0, 0)
        inputs = Inputs(x, NO_TOKENS, NO_TOKENS, NO_TOKENS)
        workspace = Workspace(np.zeros(0, np.uint8), places)
        return resolve(run, (self.arrays, inputs, state, state, x, 0, workspace))

    def run_sequences(self, x: Array, tokens: Array, batch_sizes: list[int], h: Array, c: Array) -> Array:
        """Run whole sequences.

        Args:
            x: ``(rows, features)`` float32, the rows of all steps one after the other; without rows where
                there are tokens.
            tokens: ``(rows,)`` int64; or none.
            batch_sizes: number of sequences alive at each step, never increasing.
            h, c: the state, which is changed; c of a GRU has no features.

        Returns:
            The outputs, ``(rows, features)``.
        """
        config, rows = self.program.config, max(len(x), len(tokens))
        sizes = np.array(batch_sizes, np.int64)
        inputs = Inputs(x, tokens, sizes, np.cumsum(sizes) - sizes)
        y = np.empty((rows, config.output_size * config.directions), np.float32)
        places, size = self.program.places(batch_sizes[0], rows)
        self.run(self.arrays, inputs, h, c, y, 0, Workspace(_SCRATCH.of(size), places))
        return y


class Product:
    """Multiplies vectors with one matrix of bits, with the best kernel of this host: ``W x + b``.

    Args:
        matrix: the weight, ``(1, outputs, inputs)``.
        bias: ``(outputs,)``, or ``None``.
        activation_bits: 8, 12 or 16.

    Raises:
        ValueError: another ``activation_bits``.
    """

    def __init__(self, matrix: Bits, bias: Floats | None, activation_bits: int) -> None:
        kernel = choose()
        p = build_matrix(matrix, activation_bits, kernel.span)
        record, self._functions = bind(kernel, activation_bits, pairings_of(p.matrices))
        self._arrays = NetworkArrays(record, np.zeros(0, CELL), p.matrices, p.blocks, p.floats)
        self._bias = np.zeros(0, np.float32) if bias is None else bias
        self._outputs = matrix.shape[1]
        self._places, self._size = p.places()

    @cached_property
    def _multiply(self) -> Callable[..., None]:
        x, workspace = np.zeros((0, 1), np.float32), Workspace(np.zeros(0, np.uint8), self._places)
        return resolve(multiply, (self._arrays, x, self._bias, x, workspace))

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``(rows, outputs)`` of ``(rows, inputs)`` float32, C-contiguous."""
        y = np.empty((len(x), self._outputs), np.float32)
        self._multiply(self._arrays, x, self._bias, y, Workspace(_SCRATCH.of(self._size), self._places))
        return y


class Rows:
    """Reads rows of one matrix of bits.

    Args:
        matrix: the weight, ``(1, rows, cols)``.
    """

    def __init__(self, matrix: Bits) -> None:
        scales, offset = matrix.levels()
        self._scales = np.ascontiguousarray(scales[:, 0])
        self._offset = np.zeros(1, np.float32) if offset is None else np.ascontiguousarray(offset[0])
        self._signs = matrix.signs
        _, self._count, self._cols = matrix.shape

    @cached_property
    def _read(self) -> Callable[..., None]:
        tokens, y = np.zeros(0, np.int64), np.zeros((0, 1), np.float32)
        return resolve(read_rows, (self._signs, self._scales, self._offset, self._count, tokens, y))

    def __call__(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return ``(tokens, cols)``, the rows that ``(tokens,)`` C-contiguous, in range, name."""
        y = np.empty((len(tokens), self._cols), np.float32)
        self._read(self._signs, self._scales, self._offset, self._count, tokens, y)
        return y
