"""One layer and direction over a batch, step after step, with the gradients that pass back through it."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from qlstm_bench.gradients.normalization import GradientAnalysisError, Normalization
from qlstm_bench.gradients.through_time import StateGradients, vector_norms
from qlstm_core import Normalizer, RecurrentLayer
from qlstm_core.interfaces import acts_on_weights
from qlstm_core.layers.prepared import PreparedCell
from qlstm_core.layers.sequence import quantize_state
from qlstm_core.layers.weights import suffix_of


class Unrolled:
    """What a layer in one direction computed, by step; step k leads from state k − 1 to state k.

    Steps are in the order of computation, which is that of time or its reverse. All tensors are detached.

    Args:
        layer: that was measured, or the copy of it.
        gradients: from :func:`qlstm_bench.gradients.through_time.state_gradients`.

    Attributes:
        prepared: quantized weights, normalisers, biases.
        quantized: whether a quantizer acts on the recurrent weights.
        reweighted: whether a normaliser does.

    Raises:
        GradientAnalysisError: sequences of different lengths.
    """

    def __init__(self, layer: RecurrentLayer, gradients: StateGradients) -> None:
        trace = gradients.trace
        if len({len(h) for h in trace.h}) > 1:
            raise GradientAnalysisError(
                "gradient bounds are for sequences of one length, got some that end before others"
            )
        self._gradients = gradients
        self.prepared = trace.prepared
        suffix = suffix_of(trace.layer, trace.direction)
        norm = dict(layer.normalizers.items()).get(f"hh{suffix}")
        self.quantized = any(f"{key}{suffix}" in layer.quantizers for key in ("hh", "inner", "outer"))
        self.reweighted = isinstance(norm, Normalizer) and acts_on_weights(norm)

    def _stack(self, tensors: list[Tensor]) -> Tensor:
        """Return ``(T, batch, …)``, in the order of computation; ``(0,)`` where the cell has none."""
        if not tensors:
            return self._gradients.h[0].new_empty(0)
        return torch.stack(
            [t.detach() for t in (tensors[::-1] if self._gradients.trace.direction else tensors)]
        )

    def _before(self, index: int, states: Tensor) -> Tensor:
        if not states.numel():
            return states
        return torch.cat([self._gradients.trace.initial[index].detach().unsqueeze(0), states[:-1]])

    @cached_property
    def x(self) -> Tensor:
        """The input's side of the gates, N(W_x x_k) + b: ``(T, batch, gates, hidden)``."""
        return self._stack(self._gradients.trace.x)

    @cached_property
    def r(self) -> Tensor:
        """The recurrent side of the gates, N(W_h h_{k−1}) + b: ``(T, batch, gates, hidden)``."""
        return self._stack(self._gradients.trace.r)

    @cached_property
    def h_before(self) -> Tensor:
        """The hidden state that each step starts from, ``(T, batch, out)``."""
        return self._before(0, self._stack(self._gradients.trace.h))

    @cached_property
    def c_before(self) -> Tensor:
        """The cell state that each step starts from, ``(T, batch, hidden)``; ``(0,)`` where there is none."""
        return self._before(1, self.c)

    @cached_property
    def c(self) -> Tensor:
        """The cell state that each step makes, ``(T, batch, hidden)``; ``(0,)`` where there is none."""
        return self._stack(self._gradients.trace.c)

    @cached_property
    def dh(self) -> Tensor:
        """``∂ξ/∂h_k`` of the state that each step makes, ``(T, batch, out)``."""
        return self._stack(self._gradients.h)

    @cached_property
    def dc(self) -> Tensor:
        """``∂ξ/∂c_k`` of the state that each step makes, ``(T, batch, hidden)``."""
        return self._stack(self._gradients.c)

    @property
    def gates(self) -> str:
        """The gates' letters, in their order."""
        return self.prepared.cell.gates

    @cached_property
    def matrices(self) -> Tensor:
        """The recurrent matrices as they act, quantized and reweighted: ``(gates, hidden, out)``."""
        return self.matrices_of(self.prepared, self.dh)

    @staticmethod
    def matrices_of(prepared: PreparedCell, h: Tensor) -> Tensor:
        """Return the matrices of a cell's recurrent product, ``(gates, hidden, out)``.

        Args:
            prepared: the layer in one direction.
            h: any hidden state, ``(…, out)``, for its size, dtype and device.

        Raises:
            GradientAnalysisError: a cell without recurrent matrix.
        """
        if prepared.recurrent is None:
            raise GradientAnalysisError(f"cell {prepared.cell.name!r} has no recurrent matrix")
        columns = prepared.recurrent(torch.eye(h.shape[-1], dtype=h.dtype, device=h.device))
        return _regroup(columns.detach(), prepared.groups).permute(1, 2, 0)

    @cached_property
    def lengths(self) -> Tensor | None:
        """Row norms of the recurrent matrices where a normaliser sets them, ``(gates, hidden)``: |g_j|."""
        return vector_norms(self.matrices) if self.reweighted else None

    @cached_property
    def directions(self) -> Tensor:
        """The recurrent matrices: with rows of length 1, D⁻¹W, where a normaliser sets their lengths."""
        if self.lengths is None:
            return self.matrices
        lengths = self.lengths.unsqueeze(-1)
        return self.matrices / torch.where(lengths > 0, lengths, torch.ones_like(lengths))

    @cached_property
    def recurrent_norm(self) -> Normalization | None:
        """The normaliser of the recurrent side, where it acts on pre-activations."""
        if self.prepared.norm_hh is None or self.prepared.recurrent is None:
            return None
        with torch.no_grad():
            h = self.h_before.flatten(0, 1)
            if self.prepared.state_quantizer is not None:
                h = quantize_state(self.prepared.state_quantizer, h)
            products = self.prepared.recurrent(h).unflatten(0, self.h_before.shape[:2])
        return Normalization.of(self.prepared.norm_hh, self.prepared, products)

    @cached_property
    def cell_norm(self) -> Normalization | None:
        """The normaliser of the cell state, whose one gate is that of the output."""
        if self.prepared.norm_cell is None:
            return None
        cells = self.c.unflatten(-1, (self.prepared.groups, -1))
        return Normalization.of(self.prepared.norm_cell, self.prepared, cells)

    @property
    def couples(self) -> bool:
        """Whether sequences act on one another, so that only the batch as a whole can be bounded."""
        return any(norm is not None and norm.couples for norm in (self.recurrent_norm, self.cell_norm))

    def pull_back(self, dr: Tensor) -> Tensor:
        """Return what reaches h_{k−1} through the recurrent products, ``(T, batch, out)``.

        Args:
            dr: ``∂ξ/∂r``, the gradient of the recurrent side of the gates, ``(T, batch, gates, hidden)``.
        """
        if self.recurrent_norm is not None:
            groups = self.prepared.groups
            dr = _regroup(self.recurrent_norm.pull_back(_ungroup(dr, groups)), groups)
        return dr.flatten(2) @ self.matrices.flatten(0, 1)

    @cached_property
    def stretch(self) -> Tensor:
        """How much normalisation can stretch the gradient of each gate: ``(T, batch or 1, gates)``.

        ``max_j g_j`` (weight), ``max_j |g_j|/σ`` (layer), ``max_j |g_j|/σ_j`` (batch), or 1.
        """
        stretch = self.dh.new_ones(len(self.dh), 1, len(self.gates))
        if self.lengths is not None:
            stretch = stretch * self.lengths.amax(-1)
        if self.recurrent_norm is not None:
            by_group = self.recurrent_norm.stretch
            stretch = stretch * by_group.unflatten(-1, (self.prepared.groups, -1)).amax(-2)
        return stretch

    def gain_and_sigma(self) -> tuple[Tensor, Tensor]:
        """Return mean |g| and median σ of each gate, ``(gates,)``; NaN where there is none."""
        nothing = self.dh.new_full((len(self.gates),), torch.nan)
        norm = self.recurrent_norm
        if norm is None:
            return (nothing if self.lengths is None else self.lengths.mean(-1)), nothing
        groups = (self.prepared.groups, -1)
        gain = norm.gain.abs().unflatten(0, groups).mean((0, 2))
        sigma = (
            (1 / norm.scale).movedim(2, 0).unflatten(0, groups).transpose(0, 1).flatten(1).median(-1).values
        )
        return gain, sigma

    def over_batch(self, vectors: Tensor) -> Tensor:
        """Return norms of ``(T, batch, features)``: each sequence's, or the batch's where they couple."""
        return vector_norms(vectors.flatten(1).unsqueeze(1) if self.couples else vectors)

    def largest(self, values: Tensor) -> Tensor:
        """Return largest magnitudes of ``(T, batch, features)``, by sequence or batch likewise."""
        largest = values.abs().amax(-1)
        return largest.amax(1, keepdim=True) if self.couples else largest


def _regroup(values: Tensor, groups: int) -> Tensor:
    """Return ``(…, groups · gates, rows)`` as ``(…, gates, hidden)``."""
    regrouped: Tensor = values.unflatten(-2, (groups, -1)).transpose(-3, -2).flatten(-2)
    return regrouped


def _ungroup(values: Tensor, groups: int) -> Tensor:
    """Undo :func:`_regroup`."""
    ungrouped: Tensor = values.unflatten(-1, (groups, -1)).transpose(-3, -2).flatten(-3, -2)
    return ungrouped
