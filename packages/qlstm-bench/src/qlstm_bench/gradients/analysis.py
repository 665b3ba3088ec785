"""One measurement of a network: gradients through time, spectral norms, λ1 and λ2, gains and σ."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qlstm_bench.gradients.bounds import Bounds, Lambdas, gru_bounds, gru_lambdas, lstm_bounds, lstm_lambdas
from qlstm_bench.gradients.chain_rule import known_cell
from qlstm_bench.gradients.normalization import GradientAnalysisError
from qlstm_bench.gradients.spectral import norm_of_levels, norm_of_signs, sparsity, spectral_norms
from qlstm_bench.gradients.through_time import StateGradients, state_gradients, vector_norms
from qlstm_bench.gradients.unrolled import Unrolled
from qlstm_bench.training.result import StateGradientNorms
from qlstm_core import RecurrentLayer, record_states
from qlstm_core.layers.cell import GRU_CELL, LSTM_CELL, Cell

_BOUNDS: dict[Cell, tuple[Callable[[Unrolled], Lambdas], Callable[[Unrolled], Bounds]]] = {
    LSTM_CELL: (lstm_lambdas, lstm_bounds),
    GRU_CELL: (gru_lambdas, gru_bounds),
}


@dataclass(frozen=True)
class GateSummary:
    """The recurrent matrix of one gate, and what normalises its products.

    Args:
        gate: its letter: i, f, g, o of an LSTM; r, z, n of a GRU.
        full, quantized: spectral norms of W and Q(W).
        signs, levels: ``B₁ √d`` and ``(1 − s) B₁ √d``, lower bounds of ``quantized`` for weights that are all
            ±B₁ or larger, and for those with zeros; NaN at full precision.
        sparsity: s, the share of zeros of Q(W).
        gain: mean |g|; with weight normalisation the rows' lengths. NaN without normaliser, as what follows.
        sigma: median σ, over steps, sequences and units. NaN for weight normalisation.
        stretch: the most that normalisation stretches a gradient by, ``max_j |g_j|/σ_j``: median over steps.
    """

    gate: str
    full: float
    quantized: float
    signs: float
    levels: float
    sparsity: float
    gain: float
    sigma: float
    stretch: float


@dataclass(frozen=True)
class BoundSummary:
    """λ1 and its like over the steps of one batch; of each step the largest over the sequences.

    The first step is left out: before it stands the initial state, at which no gradient is wanted, and whose
    zeros have no σ.

    Args:
        lambda1, lambda2: medians over the steps.
        largest_lambda1: over the steps.
        measured_lambda1: median of λ1 with the gates' slopes as they were on the batch.
        full_lambda1, quantized_lambda1: medians of proposition 1's λ1 for the same states without
            normaliser: from W, and from Q(W).
        gamma: median of ``‖c_{t−1}‖∞``; of a GRU ``‖h_{t−1}‖∞``.
        tightness, measured_tightness: median of log10 (right side / left side). As ``measured_lambda1``, NaN
            where both sides were not computed.
        corollary: share of steps at which λ2 = 0 and λ1 ≤ 1: where the gradient cannot grow.
    """

    lambda1: float
    lambda2: float
    largest_lambda1: float
    measured_lambda1: float
    full_lambda1: float
    quantized_lambda1: float
    gamma: float
    tightness: float
    measured_tightness: float
    corollary: float


@dataclass(frozen=True)
class LayerSummary:
    """What was measured of one layer and direction.

    Args:
        norms: ``‖∂ξ/∂h_t‖`` and ``‖∂ξ/∂c_t‖`` through time.
        gates: one for each recurrent matrix; none where the bounds are not known.
        bounds: ``None`` where they are not known: see ``reason``.
        reason: why there are no bounds.
    """

    norms: StateGradientNorms
    gates: tuple[GateSummary, ...] = ()
    bounds: BoundSummary | None = None
    reason: str = ""


@dataclass(frozen=True)
class LayerAnalysis:
    """All that was measured of one layer and direction; :meth:`summary` is what is kept of it.

    Args:
        layer: the layer that was measured, or its copy.
        gradients: gradients of the loss by the states.
        unrolled, lambdas: ``None`` where the bounds are not known: see ``reason``.
        bounds: both sides; ``None`` also where they were not asked for.
        reason: why there are no bounds.
    """

    layer: RecurrentLayer
    gradients: StateGradients
    unrolled: Unrolled | None
    lambdas: Lambdas | None
    bounds: Bounds | None
    reason: str = ""

    def summary(self) -> LayerSummary:
        """Return the figures that fit in a table or a line of a file."""
        norms = self.gradients.norms()
        if self.unrolled is None or self.lambdas is None:
            return LayerSummary(norms, reason=self.reason)
        place = self.gradients.trace.layer * self.layer.num_directions + self.gradients.trace.direction
        w = recurrent_matrices(self.layer, quantized=False)[place]
        q = recurrent_matrices(self.layer, quantized=True)[place]
        same = torch.equal(q, self.unrolled.directions)
        quantized = self.lambdas.norms if same else spectral_norms(q)
        full = quantized if torch.equal(w, q) else spectral_norms(w)
        return LayerSummary(
            norms,
            _gate_summaries(self.unrolled, q, full, quantized),
            _bound_summary(self.lambdas, self.bounds, full, quantized),
        )


def analyze(
    layer: RecurrentLayer, loss: Callable[[], Tensor], *, both_sides: bool = True
) -> list[LayerAnalysis]:
    """Measure a layer on one batch: gradients, spectral norms and bounds, per layer and direction.

    Example::

        layer = LSTM(8, 16, quantizer="binary-connect", normalizer="layer").double()
        x = torch.randn(20, 4, 8).double()
        (analysis,) = analyze(layer, lambda: layer(x)[0][-1].sum())
        print(analysis.summary().bounds.lambda1)

    Args:
        layer: the recurrent layer that ``loss`` runs once. In float64 only gradients beyond 1e308 overflow.
        loss: computes ξ, a scalar.
        both_sides: whether to compute both sides of the inequality; λ1 and λ2 alone cost less.
    """
    return analyze_gradients(layer, state_gradients(layer, loss), both_sides)


def analyze_gradients(
    layer: RecurrentLayer, gradients: list[StateGradients], both_sides: bool
) -> list[LayerAnalysis]:
    """Return what :func:`analyze` does, of gradients that are known already.

    Args:
        layer: the layer that they are of.
        gradients: gradients of each of its layers and directions.
        both_sides: whether to compute both sides of the inequality.
    """
    found = []
    for of_layer in gradients:
        bounds = None
        try:
            unrolled = Unrolled(layer, of_layer)
            lambdas_of, bounds_of = _BOUNDS[known_cell(unrolled)]
            if both_sides:
                bounds = bounds_of(unrolled)
                lambdas = bounds.lambdas
            else:
                lambdas = lambdas_of(unrolled)
        except GradientAnalysisError as error:
            found.append(LayerAnalysis(layer, of_layer, None, None, None, str(error)))
        else:
            found.append(LayerAnalysis(layer, of_layer, unrolled, lambdas, bounds))
    return found


@torch.no_grad()
def recurrent_matrices(layer: RecurrentLayer, *, quantized: bool) -> list[Tensor]:
    """Return W, or Q(W), of every layer and direction without their normalisers, ``(gates, hidden, out)``.

    A stochastic quantizer of a layer in training mode samples; the random generators stay as they are.

    Args:
        layer: left as it is.
        quantized: whether to return Q(W).
    """
    bare = copy.deepcopy(layer)
    bare.normalizers = nn.ModuleDict()
    if not quantized:
        bare.quantizers = nn.ModuleDict()
    weight = next(bare.parameters())
    devices = [weight.device] if weight.is_cuda else []
    with torch.random.fork_rng(devices=devices), record_states(bare) as traces:
        x = weight.new_zeros(1, 1, layer.input_size)
        bare(x)
        return [Unrolled.matrices_of(trace.prepared, trace.h[0]) for trace in traces]


def _gate_summaries(
    unrolled: Unrolled, matrices: Tensor, full: Tensor, quantized: Tensor
) -> tuple[GateSummary, ...]:
    signs, levels, zeros = norm_of_signs(matrices), norm_of_levels(matrices), sparsity(matrices)
    gain, sigma = unrolled.gain_and_sigma()
    few = unrolled.quantized
    stretch = unrolled.stretch.amax(1).median(0).values
    normalised = unrolled.recurrent_norm is not None or unrolled.lengths is not None
    return tuple(
        GateSummary(
            gate=gate,
            full=full[k].item(),
            quantized=quantized[k].item(),
            signs=signs[k].item() if few else math.nan,
            levels=levels[k].item() if few else math.nan,
            sparsity=zeros[k].item(),
            gain=gain[k].item(),
            sigma=sigma[k].item(),
            stretch=stretch[k].item() if normalised else math.nan,
        )
        for k, gate in enumerate(unrolled.gates)
    )


def _bound_summary(lambdas: Lambdas, bounds: Bounds | None, full: Tensor, quantized: Tensor) -> BoundSummary:
    measured = tightness = measured_tightness = math.nan
    if bounds is not None:
        left = vector_norms(bounds.left)
        measured1, _, measured_right = bounds.over_batch(bounds.measured)
        measured = _median(measured1[1:])
        measured_tightness = _median((measured_right / left).log10()[1:])
        tightness = _median((bounds.over_batch(bounds.proposition)[2] / left).log10()[1:])
    lambda1 = lambdas.lambda1.amax(1)[1:]
    return BoundSummary(
        lambda1=_median(lambda1),
        lambda2=_median(lambdas.lambda2.amax(1)[1:]),
        largest_lambda1=lambda1.max().item() if lambda1.numel() else math.nan,
        measured_lambda1=measured,
        full_lambda1=_median(lambdas.unnormalized(full).amax(1)[1:]),
        quantized_lambda1=_median(lambdas.unnormalized(quantized).amax(1)[1:]),
        gamma=_median(lambdas.gamma.amax(1)[1:]),
        tightness=tightness,
        measured_tightness=measured_tightness,
        corollary=lambdas.corollary[1:].all(1).double().mean().item(),
    )


def _median(values: Tensor) -> float:
    """Return the median of the finite values; NaN where there is none."""
    finite = values[values.isfinite()]
    return finite.median().item() if finite.numel() else math.nan
