"""The figures of a report: training curves, gradient norms through time, accuracy against size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qlstm_bench.report.drawing import COLORS, DASHES, STYLE, drawable, plain, save_png, to_svg
from qlstm_bench.report.records import Record
from qlstm_bench.report.summary import Line, lines

# Below this a gradient carries nothing: float32 has lost it beside the gradient at the loss.
_SMALLEST_NORM = 1e-12

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")

Draw = Callable[[Axes, Sequence[Record], Sequence[str]], None]


def draw_curves(axes: Axes, records: Sequence[Record], normalizers: Sequence[str]) -> None:
    """Draw the figure of merit in validation against optimizer steps; a cross marks where a run diverged.

    Args:
        axes: the axes to draw on.
        records: the runs of one section.
        normalizers: all normalisers that the report shows, in the order of their colours.
    """
    for record in records:
        steps, values = (
            [drawable(value) for value in column] for column in record.curve(f"valid_{record.result.metric}")
        )
        line = axes.plot(steps, values, **_look(record, normalizers))[0]
        if record.result.diverged_at is not None:
            last = values[-1] if values else drawable(record.result.figure("baseline"))
            axes.plot([record.result.diverged_at], [last], "x", color=line.get_color(), markersize=8)
    first = records[0].result
    baseline = drawable(first.figure("baseline"))
    axes.axhline(baseline, color="0.6", linewidth=0.8, zorder=0)
    axes.annotate(
        "without looking at the input", (0.99, baseline), xycoords=("axes fraction", "data"),
        xytext=(0, 2), textcoords="offset points", ha="right", fontsize=7, color="0.4",
    )  # fmt: skip
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(f"{plain(first.metric_title)}, validation")


def draw_gradient_norms(axes: Axes, records: Sequence[Record], normalizers: Sequence[str]) -> None:
    """Draw ``‖∂ξ_T/∂h_t‖`` of the first layer, relative to its value at T, on a log axis.

    Args:
        axes: the axes to draw on.
        records: the runs of one section.
        normalizers: all normalisers that the report shows, in the order of their colours.
    """
    for record in records:
        if not record.result.gradient_norms or not record.result.gradient_norms[0].norms:
            continue
        norms = np.array(record.result.gradient_norms[0].norms)
        with np.errstate(over="ignore"):
            relative = norms / norms[-1] if norms[-1] > 0 else norms
        shown = [drawable(value) if value >= _SMALLEST_NORM else math.nan for value in relative.tolist()]
        axes.semilogy(np.arange(1, norms.size + 1), shown, **_look(record, normalizers))
    axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlabel("time step t (the loss is at the last, T)")
    axes.set_ylabel("‖∂ξ/∂hₜ‖ relative to the last step")


def draw_sizes(records: Sequence[Record], shapes: str = "quantizer", colors: str = "normalizer") -> str:
    """Return the figure of merit in test against the size of the recurrent layer, as SVG.

    Grey outlines are what the paper published for layers of the same size.

    Args:
        records: the runs of one section.
        shapes: setting of a run whose values have a shape each.
        colors: setting whose values have a colour each; one legend tells both where it is that of the shapes.
    """
    found = lines(records)
    markers, palette = _styles(found, shapes, _MARKERS), _styles(found, colors, COLORS)
    first = records[0].result
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.subplots()
        for line in found:
            marker, color = markers[getattr(line.config, shapes)], palette[getattr(line.config, colors)]
            mean, spread = drawable(line.mean("test")), drawable(line.spread("test"))
            if not math.isnan(mean):
                size = line.records[0].result.storage_bytes / 1024
                bar = None if math.isnan(spread) else spread
                axes.errorbar([size], [mean], bar, color=color, marker=marker, capsize=2, alpha=0.85)
            for paper in line.published:
                if paper.size_kb is not None and paper.hidden == line.config.hidden:
                    axes.plot([paper.size_kb], [paper.figure], marker, color="0.5", fillstyle="none")
        baseline = drawable(first.figure("baseline"))
        axes.axhline(baseline, color="0.6", linewidth=0.8, zorder=0)
        axes.set_xscale("log")
        axes.set_xlabel("size of the recurrent layer as deployed, KB")
        axes.set_ylabel(f"{plain(first.metric_title)}, test")
        alone = shapes == colors
        handles = [
            Line2D(
                [],
                [],
                color=palette[name] if alone else "0.3",
                marker=marker,
                linestyle="",
                label=plain(name),
            )
            for name, marker in markers.items()
        ]
        style = {"frameon": False, "fontsize": 8, "title_fontsize": 8}
        figure.legend(handles=handles, title=_word(shapes), loc="outside right upper", **style)
        if not alone:
            handles = [
                Line2D([], [], color=color, marker="o", linestyle="", label=plain(name))
                for name, color in palette.items()
            ]
            columns = min(5, len(handles))
            figure.legend(
                handles=handles, title=_word(colors), loc="outside lower center", ncols=columns, **style
            )
        return to_svg(figure)


def _styles(found: Sequence[Line], setting: str, choices: Sequence[str]) -> dict[str, str]:
    """Return a shape or colour for each value that a setting has."""
    values = sorted({getattr(line.config, setting) for line in found}, key=_none_first)
    return {value: choices[number % len(choices)] for number, value in enumerate(values)}


def _word(setting: str) -> str:
    return "normaliser" if setting == "normalizer" else setting


def _look(record: Record, normalizers: Sequence[str]) -> dict[str, Any]:
    index = normalizers.index(record.result.normalizer)
    return {
        "label": plain(record.result.normalizer),
        "color": COLORS[index % len(COLORS)],
        "linestyle": DASHES[index % len(DASHES)],
        "linewidth": 1.6,
    }


def by_quantizer(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records by quantizer, in their order."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.result.quantizer, []).append(record)
    return groups


def draw_panels(records: Sequence[Record], draw: Draw) -> dict[str, str]:
    """Return one figure per quantizer as SVG, all with the same axes.

    Args:
        records: the runs of one section.
        draw: :func:`draw_curves` or :func:`draw_gradient_norms`.
    """
    with mpl.rc_context(STYLE):
        figures = {
            quantizer: Figure(figsize=(4.4, 3.3), layout="constrained") for quantizer in by_quantizer(records)
        }
        axes = _draw_all(records, draw, [figure.subplots() for figure in figures.values()])
        for panel, quantizer in zip(axes, figures, strict=True):
            panel.set_title(_title(quantizer), loc="left", fontsize=10)
        for figure in figures.values():
            _legend(figure)
        return {quantizer: to_svg(figure) for quantizer, figure in figures.items()}


def draw_overview(records: Sequence[Record], path: Path) -> None:
    """Write one PNG with the training curves above the gradient norms, a column per quantizer.

    Args:
        records: the runs of one section.
        path: path of the file.
    """
    quantizers = list(by_quantizer(records))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(quantizers), 5.8), layout="constrained")
        grid = figure.subplots(2, len(quantizers), squeeze=False, sharey="row")
        for row, draw in zip(grid, (draw_curves, draw_gradient_norms), strict=True):
            _draw_all(records, draw, list(row))
            for panel in row[1:]:
                panel.set_ylabel("")
        for panel, quantizer in zip(grid[0], quantizers, strict=True):
            panel.set_title(_title(quantizer), loc="left", fontsize=10)
        _legend(figure)
        save_png(figure, path, dpi=100)


def _draw_all(records: Sequence[Record], draw: Draw, panels: list[Axes]) -> list[Axes]:
    """Draw each quantizer's records on its own axes and give all the same limits."""
    normalizers = sorted({record.result.normalizer for record in records}, key=_none_first)
    for panel, group in zip(panels, by_quantizer(records).values(), strict=True):
        draw(panel, group, normalizers)
    limits = [panel.get_ylim() for panel in panels]
    for panel in panels:
        panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    return panels


def _title(quantizer: str) -> str:
    return "full-precision weights" if quantizer == "none" else f"weights: {plain(quantizer)}"


def _legend(figure: Figure) -> None:
    """Put one legend of all normalisers below the panels, where no line runs."""
    shown: dict[str, Any] = {}
    for panel in figure.axes:
        handles, labels = panel.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    names = sorted(shown, key=_none_first)
    figure.legend(
        [shown[name] for name in names], names, title="normaliser", loc="outside lower center",
        ncols=min(4, len(names)), frameon=False, fontsize=8, title_fontsize=8,
    )  # fmt: skip


def _none_first(name: str) -> tuple[bool, str]:
    return name != "none", name
