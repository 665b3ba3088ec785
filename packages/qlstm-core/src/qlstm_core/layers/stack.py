"""What torch puts around a recurrent cell: layers, directions, dropout, packed sequences, states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence

from qlstm_core.layers.border import record_call
from qlstm_core.layers.cell import Cell
from qlstm_core.layers.checks import check_device, check_features, check_kind, check_state, check_tokens
from qlstm_core.layers.fused import run_fused
from qlstm_core.layers.prepared import PreparedCell, StateTrace
from qlstm_core.layers.route import Route, choose_route
from qlstm_core.layers.sequence import quantize_state, run_loop, run_torch
from qlstm_core.layers.torch_call import SequenceCall, bare
from qlstm_core.layers.weights import WeightedLayer


class RecurrentLayer(SequenceCall, WeightedLayer):
    """Base of the cell families: everything about a recurrent layer but its gates.

    A family defines its ``cell``; one whose weights are not a matrix per gate and side also the shapes and
    maps of :class:`WeightedLayer`.
    """

    _traces: list[StateTrace] | None = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Refuse a family whose cell is none, where it is defined."""
        super().__init_subclass__(**keywords)
        if not isinstance(getattr(cls, "cell", None), Cell | None):
            raise TypeError(
                f"{cls.__name__}.cell must be a Cell(name, gates, states, step), got {cls.cell!r}"
            )

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Run the layer over a sequence; inputs, outputs and errors as torch's module of the same name.

        Args:
            input: ``(T, B, input_size)`` (``(B, T, input_size)`` with ``batch_first``), ``(T, input_size)``
                unbatched, a ``PackedSequence``, or integer tokens (int32 or int64) without the last
                dimension.
            hx: initial state: ``(h_0, c_0)`` for an LSTM, ``h_0`` for a GRU, in general the tuple of the
                cell's states, or the one that it has; zeros when ``None``.

        Returns:
            Output of the last layer, and the final state.
        """
        if isinstance(input, Proxy):
            return record_call(self, input, hx)
        state = None if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
        output, state = self._call(input, state)
        return output, bare(state)

    def _check_input(self, x: Tensor, tokens: bool, packed: bool) -> None:
        weight = next(self.parameters())
        check_device(x, weight.device)
        if tokens:
            check_tokens(x, self.input_size)
        else:
            check_features(x, weight.dtype, self.input_size, packed)

    def _rows(
        self, x: Tensor, state: tuple[Tensor, ...] | None, batch_sizes: list[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self._run(x, self._initial_state(x, state, batch_sizes[0]), batch_sizes)

    def _initial_state(self, x: Tensor, state: tuple[Tensor, ...] | None, batch: int) -> tuple[Tensor, ...]:
        cells = self.num_layers * self.num_directions
        sizes = [self.output_size if name == "h" else self.hidden_size for name in self.cell.states]
        shapes = [(cells, batch, size) for size in sizes]
        dtype = x.dtype if x.is_floating_point() else self.dtype
        if state is None:
            return tuple(x.new_zeros(shape, dtype=dtype) for shape in shapes)
        check_state(type(self).__name__, state, shapes, dtype, x.device)
        return state

    def _run(
        self, x: Tensor, state: tuple[Tensor, ...], batch_sizes: list[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run all layers over ``(Σ batch_sizes, …)``; states are ``(layers · directions, batch, …)``."""
        if self.training and batch_sizes[0] < 2 and self.needs_batch:
            raise ValueError(
                f"batch normalisation needs at least 2 sequences in training, got {batch_sizes[0]}; "
                "use a larger batch, or a normaliser without batch statistics such as 'layer'"
            )
        layers = [
            [self.prepared_cell(layer, d) for d in range(self.num_directions)]
            for layer in range(self.num_layers)
        ]
        if all(
            self._route(prepared, x, state, batch_sizes).kind == "torch"
            for cells in layers
            for prepared in cells
        ):
            return run_torch(layers, x, state, batch_sizes, dropout=self.dropout, training=self.training)
        finals: list[tuple[Tensor, ...]] = []
        for layer, cells in enumerate(layers):
            if layer > 0:
                x = F.dropout(x, self.dropout, self.training)
                if cells[0].state_quantizer is not None:
                    x = quantize_state(cells[0].state_quantizer, x)
            first = layer * len(cells)
            initial = tuple(s[first : first + len(cells)] for s in state)
            x, final = self._run_layer(layer, cells, x, initial, batch_sizes)
            finals.append(final)
        return x, tuple(torch.cat(s) for s in zip(*finals, strict=True))

    def _run_layer(
        self,
        layer: int,
        cells: list[PreparedCell],
        x: Tensor,
        state: tuple[Tensor, ...],
        batch_sizes: list[int],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run one layer in all directions; states are ``(directions, batch, …)``."""
        routes = [self._route(prepared, x, state, batch_sizes) for prepared in cells]
        if all(route.kind == "torch" for route in routes):
            return run_torch([cells], x, state, batch_sizes)
        outputs, finals = [], []
        for direction, prepared in enumerate(cells):
            initial = tuple(s[direction] for s in state)
            trace = None
            if self._traces is not None:
                trace = StateTrace(layer, direction, prepared, initial, x, batch_sizes)
                self._traces.append(trace)
            if routes[direction].kind == "fused":
                y, final = run_fused(prepared, x, initial, batch_sizes, reverse=direction == 1)
            else:
                y, final = run_loop(prepared, x, initial, batch_sizes, reverse=direction == 1, trace=trace)
            outputs.append(y)
            finals.append(final)
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        return y, tuple(torch.stack(s) for s in zip(*finals, strict=True))

    def _route(
        self, prepared: PreparedCell, x: Tensor, state: tuple[Tensor, ...], batch_sizes: Sequence[int]
    ) -> Route:
        return choose_route(prepared, x, state, batch_sizes, traced=self._traces is not None)

    def routes(self, *, tokens: bool | None = None) -> list[Route]:
        """Return how each layer will be run, and why: one :class:`Route` per layer and direction.

        As things are now: the answer differs under autocast, and in training with batch statistics if a
        sequence is alone at some steps.

        Args:
            tokens: whether the input will be tokens; default: what the layer was told.
        """
        tokens = self.tokens if tokens is None else tokens
        found = []
        device = next(self.parameters()).device
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for layer, direction in self.layer_directions():
                prepared = self.prepared_cell(layer, direction)
                first = tokens and layer == 0
                x = torch.empty(0, dtype=torch.int64 if first else prepared.input.dtype, device=device)
                found.append(self._route(prepared, x, (), ()))
        return found


def check_recurrent(caller: str, layer: object) -> None:
    """Refuse what is no recurrent layer of ours, such as torch's of the same name.

    Raises:
        TypeError: something else.
    """
    check_kind(caller, layer, RecurrentLayer, "a recurrent layer of qlstm_core, such as its LSTM")


@contextmanager
def record_states(layer: RecurrentLayer) -> Iterator[list[StateTrace]]:
    """Keep every state (h_t, c_t) and the gates of ``layer``'s forward calls, connected to the graph.

    While active the layer runs its readable loop, whatever faster route it would take. Gradients with respect
    to the kept states are those through time::

        with record_states(layer) as traces:
            output, _ = layer(x)
        norms = [g.norm() for g in torch.autograd.grad(loss(output[-1]), traces[0].h)]

    Args:
        layer: the layer to record.

    Yields:
        A list that receives one :class:`StateTrace` per layer and direction of each forward call.

    Raises:
        TypeError: another kind of layer.
    """
    check_recurrent("record_states", layer)
    traces: list[StateTrace] = []
    previous, layer._traces = layer._traces, traces
    try:
        yield traces
    finally:
        layer._traces = previous
