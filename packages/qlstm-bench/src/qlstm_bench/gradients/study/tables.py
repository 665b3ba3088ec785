"""What was measured, as tables: on the terminal, and as CSV files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd
import torch
from torch import Tensor

from qlstm_bench.gradients.jacobian import bounded_stretch, state_stretch
from qlstm_bench.gradients.study.networks import GainEffect, Measurement
from qlstm_bench.tables import aligned
from qlstm_bench.training.result import format_growth


def _names(measurement: Measurement) -> dict[str, str]:
    return {
        "dataset": measurement.dataset,
        "cell": measurement.cell,
        "quantizer": measurement.quantizer,
        "normalizer": measurement.normalizer,
        "run": measurement.name,
    }


def norms_frame(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Return ``‖∂ξ_T/∂h_t‖`` and ``‖∂ξ_T/∂c_t‖``, a row for each network, layer, direction and time step."""
    return pd.DataFrame(
        [
            {**_names(m), "layer": s.norms.layer, "direction": s.norms.direction, "t": t + 1,
             "h_norm": h, "c_norm": s.norms.cell_norms[t] if s.norms.cell_norms else math.nan}
            for m in measurements for s in m.summaries for t, h in enumerate(s.norms.norms)
        ]
    )  # fmt: skip


def gates_frame(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Return spectral norms, their lower bounds, sparsity, gains and σ, a row for each gate."""
    return pd.DataFrame(
        [
            {**_names(m), "layer": s.norms.layer, "direction": s.norms.direction, **asdict(gate)}
            for m in measurements for s in m.summaries for gate in s.gates
        ]
    )  # fmt: skip


def stability_frame(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Return λ1 and its like, growth and decades of the gradient, a row for each layer and direction."""
    return pd.DataFrame(
        [
            {**_names(m), "layer": s.norms.layer, "direction": s.norms.direction, "growth": s.norms.growth,
             "decades": _decades(s.norms.norms), **({} if s.bounds is None else asdict(s.bounds))}
            for m in measurements for s in m.summaries
        ]
    )  # fmt: skip


def _decades(norms: Sequence[float]) -> float:
    largest, smallest = max(norms), min(norms)
    return math.log10(largest / smallest) if smallest > 0 and largest < math.inf else math.inf


def bounds_frame(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Return both sides of the inequality at every step, a row each; k counts in the order of computation."""
    frames = []
    for m in measurements:
        for layer in m.layers:
            if layer.bounds is None:
                continue
            bounds = layer.bounds
            lambda1, lambda2, right = bounds.over_batch(bounds.proposition)
            measured1, measured2, measured_right = bounds.over_batch(bounds.measured)
            columns: dict[str, Tensor] = {
                "left": torch.linalg.vector_norm(bounds.left, dim=1),
                "direct": torch.linalg.vector_norm(bounds.direct, dim=1),
                "right": right,
                "measured_right": measured_right,
                "lambda1": lambda1,
                "lambda2": lambda2,
                "measured_lambda1": measured1,
                "measured_lambda2": measured2,
                "gamma": bounds.lambdas.gamma.amax(1),
            }
            if bounds.squared is not None:
                columns |= {
                    "squared_left": bounds.left.square().sum(1),
                    "squared_right": bounds.squared.right.sum(1),
                    "squared_lambda1": bounds.squared.lambda1.amax(1),
                    "squared_lambda2": bounds.squared.lambda2.amax(1),
                }
            frame = pd.DataFrame({name: values.numpy(force=True) for name, values in columns.items()})
            trace = layer.gradients.trace
            for place, (name, value) in enumerate(
                {**_names(m), "layer": trace.layer, "direction": trace.direction}.items()
            ):
                frame.insert(place, name, value)
            frame.insert(place + 1, "k", range(1, len(frame) + 1))
            frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def recorded_frame(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Return what was recorded during training, a row for each recording, layer, direction and gate."""
    rows = []
    for m in measurements:
        for recording in m.recorded:
            for layer in recording.layers:
                place = {"layer": layer.norms.layer, "direction": layer.norms.direction}
                common = {**_names(m), "step": recording.step, **place, "growth": layer.norms.growth}
                bounds = {} if layer.bounds is None else asdict(layer.bounds)
                rows += [{**common, **bounds, **asdict(gate)} for gate in layer.gates] or [common]
    return pd.DataFrame(rows)


def jacobian_frame(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Return log10 ``‖∂h_T/∂h_t‖`` beside what the bounds allow, a row for each step, t from 0.

    Of several sequences the largest is taken.

    Raises:
        GradientAnalysisError: a network that is not small.
    """
    frames = []
    for m in measurements:
        for layer in m.layers:
            if layer.unrolled is None or layer.bounds is None:
                continue
            stretch = state_stretch(layer.unrolled)
            frame = pd.DataFrame(
                {
                    "t": range(len(stretch.log_norms)),
                    "exact": stretch.log_norms.amax(1).numpy(force=True),
                    "measured_bound": bounded_stretch(layer.bounds, layer.bounds.measured)
                    .amax(1)
                    .numpy(force=True),
                    "bound": bounded_stretch(layer.bounds, layer.bounds.proposition)
                    .amax(1)
                    .numpy(force=True),
                    "lyapunov_exponent": stretch.exponent.max().item(),
                }
            )
            trace = layer.gradients.trace
            places = {**_names(m), "layer": trace.layer, "direction": trace.direction}
            for place, (name, value) in enumerate(places.items()):
                frame.insert(place, name, value)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def stability_table(measurements: Sequence[Measurement]) -> str:
    """Return growth, λ1 and tightness of each layer and direction as text."""
    headings = (
        "network",
        "layer",
        "growth",
        "λ1(W)",
        "λ1(Q)",
        "λ1",
        "λ1 meas.",
        "γ",
        "tightness",
        "tightness meas.",
    )
    rows = []
    for m in measurements:
        for s in m.summaries:
            b = s.bounds
            figures: tuple[str, ...] = ("–",) * 7
            if b is not None:
                figures = tuple(
                    _short(value)
                    for value in (b.full_lambda1, b.quantized_lambda1, b.lambda1, b.measured_lambda1,
                                  b.gamma, b.tightness, b.measured_tightness)
                )  # fmt: skip
            rows.append(
                (m.title, _place(s.norms.layer, s.norms.direction), format_growth(s.norms.growth), *figures)
            )
    return aligned(headings, rows, left=("network", "layer"))


def gates_table(measurements: Sequence[Measurement]) -> str:
    """Return spectral norms, gains and σ of each gate as text."""
    headings = (
        "network",
        "layer",
        "gate",
        "‖W‖",
        "‖Q(W)‖",
        "B1√d",
        "(1−s)B1√d",
        "s",
        "|g|",
        "σ",
        "max |g|/σ",
    )
    rows = []
    for m in measurements:
        for s in m.summaries:
            for gate in s.gates:
                values = (gate.full, gate.quantized, gate.signs, gate.levels, gate.sparsity,
                          gate.gain, gate.sigma, gate.stretch)  # fmt: skip
                place = _place(s.norms.layer, s.norms.direction)
                rows.append((m.title, place, gate.gate, *map(_short, values)))
    return aligned(headings, rows, left=("network", "layer", "gate"), group=True)


def gains_table(effects: dict[str, list[GainEffect]]) -> str:
    """Return the effect of the gains as text.

    Args:
        effects: effects of the gains, by the network's title.
    """
    rows = [
        (title, _short(e.factor), _short(e.decades), format_growth(e.growth), _short(e.lambda1))
        for title, found in effects.items()
        for e in found
    ]
    return aligned(("network", "g ×", "decades", "growth", "λ1"), rows, left=("network",), group=True)


def _place(layer: int, direction: int) -> str:
    return f"{layer}{' reverse' if direction else ''}"


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
