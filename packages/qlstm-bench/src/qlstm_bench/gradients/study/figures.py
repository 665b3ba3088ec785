"""The figures of gradient stability: through time, through training, and of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qlstm_bench.gradients.analysis import GateSummary, LayerSummary
from qlstm_bench.gradients.study.networks import GainEffect
from qlstm_bench.gradients.study.recording import Recording
from qlstm_bench.report.drawing import COLORS, DASHES, STYLE, plain, to_svg


@dataclass(frozen=True)
class Line:
    """What a figure shows of one network.

    Args:
        quantizer, normalizer: choose the panel, and the line's colour and dashes.
        layers: its layers as measured last.
        recorded: during training.
        suffix: follows the normaliser in the legend.
    """

    quantizer: str
    normalizer: str
    layers: tuple[LayerSummary, ...]
    recorded: tuple[Recording, ...] = ()
    suffix: str = ""


Draw = Callable[[Axes, Line, dict[str, Any]], None]


def draw_norms(axes: Axes, line: Line, look: dict[str, Any]) -> None:
    """Draw ``‖∂ξ_T/∂h_t‖`` against t, every layer and direction, on a log axis: the poster's figure 1."""
    for k, layer in enumerate(line.layers):
        norms = np.array(layer.norms.norms)
        shown = np.where(np.isfinite(norms) & (norms > 0), norms, np.nan)
        axes.semilogy(np.arange(1, norms.size + 1), shown, **_thinner(look, k))
    axes.set_xlabel("time step t (the loss is at the last, T)")
    axes.set_ylabel("gradient norm ‖∂ξ/∂hₜ‖ (log scale)")


def draw_lambda1(axes: Axes, line: Line, look: dict[str, Any]) -> None:
    """Draw λ1 against the optimizer step on log axis; dotted, what it would be without normaliser."""
    for k, (steps, layers) in enumerate(_by_layer(line.recorded)):
        bounds = [layer.bounds for layer in layers]
        values = [np.nan if b is None else b.lambda1 for b in bounds]
        axes.semilogy(steps, values, **_thinner(look, k))
        if line.normalizer != "none":
            bare = [np.nan if b is None else b.quantized_lambda1 for b in bounds]
            axes.semilogy(steps, bare, color=look["color"], linestyle=":", linewidth=0.8, alpha=0.7)
    axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("λ₁, median over steps (log scale)")


def draw_gain(axes: Axes, line: Line, look: dict[str, Any]) -> None:
    """Draw mean |g| over the gates against the optimizer step."""
    _draw_gates(axes, line, look, lambda gate: gate.gain)
    axes.set_ylabel("gain, mean |g|")


def draw_sigma(axes: Axes, line: Line, look: dict[str, Any]) -> None:
    """Draw the median σ, averaged over the gates, against the optimizer step."""
    _draw_gates(axes, line, look, lambda gate: gate.sigma)
    axes.set_ylabel("σ of W_h h, median (log scale)")
    axes.set_yscale("log")


def _draw_gates(axes: Axes, line: Line, look: dict[str, Any], value: Callable[[GateSummary], float]) -> None:
    for k, (steps, layers) in enumerate(_by_layer(line.recorded)):
        means = [float(np.mean([value(gate) for gate in layer.gates] or [np.nan])) for layer in layers]
        axes.plot(steps, means, **_thinner(look, k))
    axes.set_xlabel("optimizer step")


def _by_layer(recorded: Sequence[Recording]) -> list[tuple[list[int], list[LayerSummary]]]:
    if not recorded:
        return []
    steps = [recording.step for recording in recorded]
    return [(steps, list(layers)) for layers in zip(*(r.layers for r in recorded), strict=True)]


def _thinner(look: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the look of a network's further layers: thinner, and named once."""
    return (
        look if index == 0 else look | {"label": "_nolegend_", "linewidth": look["linewidth"] / (1 + index)}
    )


def panels(lines: Sequence[Line], draw: Draw, height: float = 3.1) -> Figure:
    """Return a figure with a panel for each quantizer and a line for each normaliser, on the same axes.

    Args:
        lines: one or more networks.
        draw: :func:`draw_norms` or another of this module.
        height: height of the panels, in inches.
    """
    quantizers = list(dict.fromkeys(line.quantizer for line in lines))
    labels = sorted(
        {plain(line.normalizer + line.suffix) for line in lines}, key=lambda n: (not n.startswith("none"), n)
    )
    columns = min(4, len(quantizers))
    rows = -(-len(quantizers) // columns)
    figure = Figure(figsize=(3.1 * columns + 0.6, height * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    axes = list(grid.flat)
    handles: dict[str, Any] = {}
    for panel, quantizer in zip(axes, quantizers, strict=False):
        for line in (line for line in lines if line.quantizer == quantizer):
            label = plain(line.normalizer + line.suffix)
            index = labels.index(label)
            look = {"label": label, "color": COLORS[index % len(COLORS)],
                    "linestyle": DASHES[index % len(DASHES)], "linewidth": 1.6}  # fmt: skip
            draw(panel, line, look)
        panel.set_title(_title(quantizer), loc="left", fontsize=10)
        handles |= {label: h for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    for panel in axes[len(quantizers) :]:
        panel.set_axis_off()
    for row in grid:
        for panel in row[1:]:
            panel.set_ylabel("")
    if handles:
        names = [name for name in labels if name in handles]
        figure.legend(
            [handles[name] for name in names], names, title="normaliser", loc="outside lower center",
            ncols=min(5, len(names)), frameon=False, fontsize=8, title_fontsize=8,
        )  # fmt: skip
    return figure


def spectral_bars(lines: Sequence[Line]) -> Figure:
    """Return spectral norms of each gate's recurrent matrix as bars: full precision, quantized, lower bounds.

    A panel for each quantizer, of its network without normaliser where there is one, else of its first; first
    layer.

    Args:
        lines: at least one with known bounds.
    """
    chosen: dict[str, Line] = {}
    for line in sorted(lines, key=lambda line: line.normalizer != "none"):
        if line.layers and line.layers[0].gates:
            chosen.setdefault(line.quantizer, line)
    ordered = [chosen[q] for q in dict.fromkeys(line.quantizer for line in lines) if q in chosen]
    columns = max(1, min(4, len(ordered)))
    rows = max(1, -(-len(ordered) // columns))
    figure = Figure(figsize=(3.1 * columns + 0.6, 2.8 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for panel, line in zip(axes, ordered, strict=False):
        gates = line.layers[0].gates
        at = np.arange(len(gates))
        width = 0.38
        panel.bar(
            at - width / 2, [g.full for g in gates], width, color=COLORS[2], label="‖W‖, full precision"
        )
        quantized = [g.quantized for g in gates]
        panel.bar(at + width / 2, quantized, width, color=COLORS[5], label="‖Q(W)‖, quantized",
                  hatch="//", edgecolor="white", linewidth=0)  # fmt: skip
        for place, gate in zip(at, gates, strict=True):
            left, right = place, place + width
            first = place == 0
            if gate.sparsity == 0:
                panel.hlines(gate.signs, left, right, color="black", linewidth=1.6,
                             label="B₁√d (no zeros)" if first else None)  # fmt: skip
            else:
                panel.hlines(gate.levels, left, right, color="black", linestyle=(0, (2, 1)), linewidth=1.6,
                             label="(1 − s)B₁√d" if first else None)  # fmt: skip
        panel.set_xticks(at, [gate.gate for gate in gates])
        panel.set_yscale("log")
        panel.set_title(_title(line.quantizer), loc="left", fontsize=10)
        panel.set_xlabel("gate")
    for panel in axes[len(ordered) :]:
        panel.set_axis_off()
    if ordered:  # bars on a log axis have no zero to stand on
        axes[0].set_ylim(bottom=0.5 * min(g.full for line in ordered for g in line.layers[0].gates))
    axes[0].set_ylabel("spectral norm of W_h (log scale)")
    handles: dict[str, Any] = {}
    for panel in axes:
        handles |= {label: h for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    return figure


def _title(quantizer: str) -> str:
    return "full-precision weights" if quantizer == "none" else f"weights: {plain(quantizer)}"


def draw_figures(lines: Sequence[Line]) -> dict[str, Figure]:
    """Return every figure that the lines have data for, by name.

    Args:
        lines: lines of one dataset, in the order of the panels.
    """
    with mpl.rc_context(STYLE):
        figures = {"norms": panels(lines, draw_norms)}
        if any(layer.gates for line in lines for layer in line.layers):
            figures["spectral"] = spectral_bars(lines)
        if any(line.recorded for line in lines):
            figures["lambda1"] = panels(lines, draw_lambda1)
            normalised = [line for line in lines if line.normalizer != "none"]
            if normalised:
                figures["gains"] = panels(normalised, draw_gain)
                figures["sigma"] = panels(normalised, draw_sigma)
    return figures


def figures_as_svg(lines: Sequence[Line]) -> dict[str, str]:
    """Return :func:`draw_figures` as ``<svg>`` elements, by name."""
    figures = draw_figures(lines)
    with mpl.rc_context(STYLE):
        return {name: to_svg(figure) for name, figure in figures.items()}


CAPTIONS = {
    "lambda1": "λ₁ of the bound on one step back through time, ‖∂ξ/∂hₜ₋₁‖ ≤ λ₁‖∂ξ/∂hₜ‖ + λ₂‖∂ξ/∂cₜ₊₁‖. Below "
    "the grey line a gradient cannot grow through h alone. Dotted: λ₁ without the normaliser.",
    "gains": "Gains g of the recurrent normaliser: small ones shrink the gradient, large ones stretch it.",
    "sigma": "σ by which the normaliser divides W_h h. It grows with the weights, and so undoes their size.",
    "spectral": "Spectral norms of each gate's recurrent matrix, first layer, and how small quantization "
    "lets them be: √d for signs, (1 − s)√d with a share s of zeros, times the smallest level B₁.",
}
"""What the figures that a report shows of recorded runs say."""


def recorded_figures(runs: Iterable[tuple[str, str, Sequence[Recording]]]) -> list[tuple[str, str]]:
    """Return caption and ``<svg>`` of every figure that recorded runs have data for; none without.

    Args:
        runs: quantizer, normaliser and recordings of each run; of several with the same names the first.
    """
    lines: dict[tuple[str, str], Line] = {}
    for quantizer, normalizer, recorded in runs:
        if recorded:
            last = recorded[-1].layers
            lines.setdefault((quantizer, normalizer), Line(quantizer, normalizer, last, tuple(recorded)))
    if not lines:
        return []
    drawn = figures_as_svg(list(lines.values()))
    return [(caption, drawn[name]) for name, caption in CAPTIONS.items() if name in drawn]


_STRETCHES = {
    "exact": "exact",
    "measured_bound": "bound with the slopes as measured",
    "bound": "bound of the proposition",
}


def draw_gain_effect(effects: Mapping[str, Sequence[GainEffect]]) -> Figure:
    """Return the gradient's growth through time, and λ1, against the multiple of the recurrent gains.

    Args:
        effects: effects of the gains, by the network's title.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.6), layout="constrained")
        growth, lambda1 = figure.subplots(1, 2)
        for index, (title, found) in enumerate(effects.items()):
            look: dict[str, Any] = {
                "label": plain(title), "color": COLORS[index % len(COLORS)], "marker": "o", "markersize": 3,
                "linestyle": DASHES[index % len(DASHES)],
            }  # fmt: skip
            factors = [effect.factor for effect in found]
            grown = np.array([effect.growth for effect in found])
            growth.loglog(factors, np.where(np.isfinite(grown) & (grown > 0), grown, np.nan), **look)
            lambda1.loglog(factors, [effect.lambda1 for effect in found], **look)
        for panel, label in ((growth, "‖∂ξ/∂h₁‖ / ‖∂ξ/∂h_T‖ (log scale)"), (lambda1, "λ₁ (log scale)")):
            panel.axhline(1, color="0.6", linewidth=0.8, zorder=0)
            panel.set_xlabel("recurrent gains as trained × (log scale)")
            panel.set_ylabel(label)
        handles, labels = growth.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def draw_stretch(rows: Iterable[tuple[str, dict[str, np.ndarray[Any, Any]]]]) -> Figure:
    """Return log10 of the largest singular value of ``∂h_T/∂h_t``, beside what the bounds allow for it.

    Args:
        rows: of each network its title and the columns ``t``, ``exact``, ``measured_bound`` and ``bound``.
    """
    rows = list(rows)
    with mpl.rc_context(STYLE):
        columns = min(4, len(rows))
        lines = -(-len(rows) // columns)
        figure = Figure(figsize=(3.1 * columns + 0.6, 3.0 * lines + 0.5), layout="constrained")
        axes = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
        for panel, (title, values) in zip(axes, rows, strict=False):
            for index, (name, label) in enumerate(_STRETCHES.items()):
                panel.plot(
                    values["t"], values[name], color=COLORS[index], linestyle=DASHES[index], label=label
                )
            panel.set_title(plain(title), loc="left", fontsize=9)
            panel.set_xlabel("time step t")
        for panel in axes[len(rows) :]:
            panel.set_axis_off()
        axes[0].set_ylabel("log₁₀ ‖∂h_T/∂hₜ‖₂")
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
        )
    return figure
