"""Packed recurrent networks: what ``pack`` returns for a layer, and how they are called."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from qlstm_core.layers.cell import GRU_CELL, LSTM_CELL, Cell
from qlstm_core.layers.checks import check_features, check_tokens
from qlstm_core.layers.torch_call import SequenceCall, bare
from qlstm_core.packed import file_format
from qlstm_core.packed.arguments import as_rows, as_state, as_tensor, initial_state, state_parts
from qlstm_core.packed.kernels.layout import ENTRY_LIMIT, check_activation_bits
from qlstm_core.packed.module import PackedModule
from qlstm_core.packed.network import Bits, Network
from qlstm_core.packed.stream import Stream
from qlstm_core.printable import printable

if TYPE_CHECKING:
    from qlstm_core.packed.executor import Executor

Array = Tensor | NDArray[Any]


def default_activation_bits(network: Network) -> int:
    """Return the fastest tables whose error over a hundred steps stays near 1e-3.

    12 bits, but 16 where a normaliser computes moments of the features: dividing by them lets errors grow
    from step to step.
    """
    norms = (norm for cell in network.cells for norm in cell.norms.values())
    return 16 if any(norm.statistics == "features" for norm in norms) else 12


class PackedLayer(SequenceCall, PackedModule):
    """A recurrent network with its weights as bits, ready to run on the CPU.

    It takes the place of the layer in a float model: ``model.rnn = pack(model.rnn)``.

    Args:
        network: the network to run.
        activation_bits: bits of a table entry, the sum of a group of activations: 8, 12 or 16; default:
            :func:`default_activation_bits`.

    Attributes:
        network: the network.
        batch_first: whether a padded batch comes before its steps.
        activation_bits: bits of a table entry.
    """

    cell: ClassVar[Cell]

    def __init__(self, network: Network, activation_bits: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.batch_first = network.config.batch_first
        bits = default_activation_bits(network) if activation_bits is None else activation_bits
        check_activation_bits(bits)
        self.activation_bits = bits
        self._looked = not any(
            isinstance(network.cells[0].matrices.get(key), Bits) for key in ("ih", "inner")
        )

    @cached_property
    def _executor(self) -> Executor:
        # Made at the first call: who looks at a network, converts or copies it needs no compiler.
        from qlstm_core.packed.executor import Executor

        return Executor(self.network, self.activation_bits)

    @property
    def kernel(self) -> str:
        """Name of the kernel that runs, see :func:`qlstm_core.packed.kernels.choose.choose`."""
        return self._executor.kernel

    def forward(self, x: Array | PackedSequence, state: Any = None) -> tuple[Any, Any]:
        """Run whole sequences; shapes, states and errors as of the layer that was packed.

        Args:
            x: float32, ``(T, B, input_size)`` (``(B, T, input_size)`` with ``batch_first``), ``(T,
                input_size)`` unbatched, or a ``PackedSequence``; or integer tokens (int32 or int64) without
                the last dimension, which stand for one-hot vectors. A torch tensor on the CPU or a NumPy
                array.
            state: ``(h_0, c_0)`` of an LSTM, ``h_0`` of a GRU; zeros when ``None``.

        Returns:
            Output of the last layer and the final state, as tensors where ``x`` is one, else as arrays.

        Raises:
            ValueError, RuntimeError: shapes, dtypes and tokens that do not fit, as the layer raises.
        """
        if isinstance(state, Stream) and state.steps and self._executor.program.cells["steps"].max() > 1:
            raise ValueError(
                "a whole sequence counts its steps from 0, and batch statistics are kept for each step: go "
                "on with step(), or begin again from tuple(state)"
            )
        states = as_state(state)
        if isinstance(x, PackedSequence):
            rows, final = self._call(x._replace(data=as_tensor(x.data)), states)
            values, *finals = self._without_gradient((x.data, *state_parts(state)), (rows.data, *final))
            return rows._replace(data=values), bare(tuple(finals))
        output, final = self._call(as_tensor(x), states)
        if isinstance(x, np.ndarray):
            return output.numpy(), bare(tuple(s.numpy() for s in final))
        output, *finals = self._without_gradient((x, *state_parts(state)), (output, *final))
        return output, bare(tuple(finals))

    def rounding_error(self, x: Array | PackedSequence, state: Any = None) -> float:
        """Measure what rounding activations to ``activation_bits`` costs for an input.

        It is 1e-3 or less for most inputs, but no property of the network: a feature that is a thousand times
        larger than the others leaves few bits for them. Scale such features, or pack with more bits.

        Args:
            x, state: those of a call.

        Returns:
            ``‖y − exact‖ / ‖exact‖`` of the outputs, the exact ones with the same weights as float32.
        """
        exact = type(self)(self.network.with_floats(), self.activation_bits)
        return relative_error(self(x, state)[0], exact(x, state)[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the network as stored: those of the file up to its header."""
        return file_format.nbytes(self.network)

    @property
    def float32_nbytes(self) -> int:
        """Bytes of the network with every weight as float32."""
        return self.network.float32_nbytes

    def extra_repr(self) -> str:
        """Return sizes, quantizers and normalisers of the layer, and how it is stored."""
        labels = (f"{name}={label!r}" for name, label in self.network.config.labels.items())
        return printable(
            ", ".join(
                [
                    self.network.config.sizes,
                    *labels,
                    f"{self.nbytes:,} bytes",
                    f"{self.activation_bits}-bit tables",
                ]
            )
        )

    def save(self, file: file_format.Target) -> None:
        """Write the network to a file.

        Args:
            file: a path, by custom ``….safetensors``, where the file will be whole or not at all and replaces
                one that exists; or a binary file that is open for writing, such as ``io.BytesIO()``.
        """
        file_format.save(self.network, file, self.activation_bits)

    @classmethod
    def load(cls, file: file_format.Target, activation_bits: int | None = None) -> Self:
        """Read a network that :meth:`save` wrote; nothing in the file is executed.

        Args:
            file: a path, or a binary file that is open for reading.
            activation_bits: 8, 12 or 16; default: as saved.

        Raises:
            PackedFileError: a file that is truncated, altered, of a later version or inconsistent, or that
                holds a network of the other cell.
            OSError: a file that cannot be read.
        """
        network, saved = file_format.load(file)
        kind: Any = _CLASSES[network.config.cell] if isinstance(network, Network) else None
        if kind is None or cls not in (kind, PackedLayer):
            found = "PackedModel" if kind is None else kind.__name__
            raise file_format.PackedFileError(
                f"{file_format.name_of(file)}: holds a {found}, not a {cls.__name__}"
            )
        loaded: Self = kind(network, saved if activation_bits is None else activation_bits)
        return loaded

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.network, self.activation_bits)

    def step(self, x: Array, state: Any = None) -> tuple[Any, Stream]:
        """Run one step of a stream, without allocating anything.

        Example::

            state = None
            for x_t in stream:
                y_t, state = packed.step(x_t, state)

        Args:
            x: float32 ``(B, input_size)``, or ``(input_size,)`` unbatched; or integer tokens ``(B,)`` or
                ``()``.
            state: what the step before returned; to begin, ``None`` for zeros or a state as a whole sequence
                takes and returns it, which is copied.

        Returns:
            The output, ``(B, output_size)`` or ``(output_size,)``, in memory that the next step of the same
            stream overwrites; and the state, the same object at every step.

        Raises:
            ValueError: a bidirectional network; shapes, dtypes and tokens that do not fit.
        """
        array: NDArray[Any] = as_tensor(x).numpy() if isinstance(x, Tensor) else np.asarray(x)
        if not isinstance(state, Stream):
            state = self._begin(array, state)
        elif state.executor is not self._executor:
            self._take_over(state)
        self._executor.run(*state.take(array))
        state.steps += 1
        if not isinstance(x, Tensor):
            return state.y, state
        if x.requires_grad:
            return self._without_gradient((x,), (state.y_tensor,))[0], state
        return state.y_tensor, state

    def stream(self, state: Any, steps: int = 0) -> Stream:
        """Return a stream that goes on from a saved state, for :meth:`step`.

        Example::

            h, c = state                            # of a stream, copied
            again = packed.stream((h, c), state.steps)

        Args:
            state: ``(h, c)`` of an LSTM, ``h`` of a GRU, with a batch dimension or without; copied.
            steps: how many steps led to it. They count where batch statistics are kept for each step.

        Raises:
            ValueError, RuntimeError: a bidirectional network; shapes that do not fit; negative steps.
        """
        given = as_state(state)
        if given is None:
            raise ValueError("a stream without a state begins with step(x, None)")
        if type(steps) is not int or steps < 0:
            raise ValueError(f"steps must be an integer from 0, got {steps!r}")
        batched = given[0].dim() != 2
        if not batched:
            given = tuple(s.unsqueeze(1) for s in given)
        return self._bound(given, given[0].shape[1] if given[0].dim() == 3 else 0, batched, steps)

    def _begin(self, x: NDArray[Any], state: Any) -> Stream:
        features = 1 if np.issubdtype(x.dtype, np.floating) else 0
        if x.ndim not in (features, features + 1):
            raise ValueError(
                f"a step has {features} dimensions, or {features + 1} with a batch, got {x.ndim}"
            )
        batched = x.ndim > features
        if features and x.size and not self._looked:
            self._look(x.reshape(-1, x.shape[-1]), stacklevel=4)
        given = as_state(state)
        if given is not None and not batched:
            given = tuple(s.unsqueeze(1) for s in given)
        return self._bound(given, len(x) if batched else 1, batched)

    def _bound(self, state: tuple[Tensor, ...] | None, batch: int, batched: bool, steps: int = 0) -> Stream:
        if self.network.config.bidirectional:
            raise ValueError("a bidirectional network needs whole sequences: there is no step")
        stream = Stream(*self._start(state, batch), batched, steps)
        stream.bind(self._executor)
        return stream

    def _take_over(self, stream: Stream) -> None:
        """Bind a copy of a stream, which may come from a file, to this network."""
        if stream.executor is not None:
            raise ValueError(
                "the state belongs to another packed network; begin with state=None, or go on from a copy, "
                "state.clone()"
            )
        own = self.stream(tuple(stream), stream.steps)
        stream.__dict__.update(own.__dict__)

    def _look(self, x: NDArray[np.float32], stacklevel: int) -> None:
        """Warn, at the first call with vectors only, where one feature leaves few bits for the others."""
        from qlstm_core.packed.kernels.activations import outweighed

        self._looked = True
        hint = outweighed(x, ENTRY_LIMIT[self.activation_bits])
        if hint:
            more = "" if self.activation_bits == 16 else ", or pack(layer, activation_bits=16)"
            warnings.warn(
                f"{hint} in {self.activation_bits}-bit tables: scale the features alike{more}; "
                "rounding_error(x) measures what it costs",
                stacklevel=stacklevel,
            )

    def _check_input(self, x: Tensor, tokens: bool, packed: bool) -> None:
        if tokens:
            check_tokens(x, self.network.config.input_size)
        else:
            size = self.network.config.input_size
            check_features(x, torch.float32, size, packed, convertible=False)

    def _rows(
        self, x: Tensor, state: tuple[Tensor, ...] | None, batch_sizes: list[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = self._start(state, batch_sizes[0])
        vectors, tokens = as_rows(x, self.network.config.input_size)
        if not self._looked and len(vectors):
            self._look(vectors, stacklevel=8)
        y = self._executor.run_sequences(vectors, tokens, batch_sizes, h, c)
        return torch.from_numpy(y), tuple(torch.from_numpy(s) for s in (h, c)[: len(self.cell.states)])

    def _start(self, state: tuple[Tensor, ...] | None, batch: int) -> tuple[Any, Any]:
        return initial_state(type(self).__name__, self.network.config, state, batch)


class PackedLSTM(PackedLayer):
    """An LSTM of any form with its weights as bits; see :func:`qlstm_core.pack`."""

    cell = LSTM_CELL


class PackedGRU(PackedLayer):
    """A GRU with its weights as bits; see :func:`qlstm_core.pack`."""

    cell = GRU_CELL


_CLASSES: dict[Cell, type[PackedLayer]] = {cls.cell: cls for cls in (PackedLSTM, PackedGRU)}


def packed_layer(network: Network, activation_bits: int | None = None) -> PackedLayer:
    """Return the network ready to run, as the class of its cell."""
    return _CLASSES[network.config.cell](network, activation_bits)


def relative_error(output: Any, exact: Any) -> float:
    """Return ``‖output − exact‖ / ‖exact‖`` of the outputs of two calls, of any form."""
    found, wanted = (
        np.asarray(one.data if isinstance(one, PackedSequence) else one, np.float64)
        for one in (output, exact)
    )
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
