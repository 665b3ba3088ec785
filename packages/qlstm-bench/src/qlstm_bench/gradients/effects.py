"""Figures of single networks: the effect of their gains, and exact Jacobians beside the bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from qlstm_bench.gradients.measure import GainEffect
from qlstm_bench.report.svg import COLORS, DASHES, STYLE, plain

_STRETCHES = {
    "exact": "exact",
    "measured_bound": "bound with the slopes as measured",
    "bound": "bound of the proposition",
}


def draw_gain_effect(effects: Mapping[str, Sequence[GainEffect]]) -> Figure:
    """Return the gradient's growth through time, and λ1, against the multiple of the recurrent gains.

    Args:
        effects: by the network's title.
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
