"""How every figure of a report looks, and its form inside a page and as a file."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from qlstm_bench.tables import shorten
from qlstm_core.files import replace_file

_LARGEST = 1e250  # beyond it, matplotlib's own arithmetic overflows

# Okabe and Ito's palette, which the colour-blind can tell apart; dashes tell lines apart without colour.
COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "qlstm",
}
"""For ``matplotlib.rc_context``, around drawing and :func:`to_svg`."""


def to_svg(figure: Figure) -> str:
    """Return a figure as an ``<svg>`` element; the same figure gives the same text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save_png(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a figure as PNG; the same figure gives the same bytes."""
    settings: dict[str, Any] = {
        "format": "png",
        "dpi": dpi,
        "metadata": {"Software": None},
        "pil_kwargs": {"optimize": True},
    }
    with mpl.rc_context(STYLE):
        replace_file(path, lambda file: figure.savefig(file, **settings))


def plain(text: str) -> str:
    """Return a name for a figure: no part of it is taken for a formula, or for a label to be hidden."""
    text = shorten(text, 60).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def drawable(value: float) -> float:
    """Return a value that an axis can show; NaN, which is left out, for one that is beyond all use."""
    return value if abs(value) < _LARGEST else math.nan
