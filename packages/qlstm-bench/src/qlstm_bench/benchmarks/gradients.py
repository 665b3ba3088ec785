"""How stable the gradient of a network is through time, after a short training."""

from __future__ import annotations

from .choice import trained_cells
from .trained import Figures, Trained, setup_cache, train_cells


class _Stability(Trained):
    """The figures of :mod:`qlstm_bench.gradients.study.metrics`, and a small one so that none is 0."""

    def track_decades(self, figures: Figures, *parameters: str) -> float:
        """Return log10 of the largest over the smallest norm of the gradient through time."""
        return self.figure("gradient_decades") + FLOOR

    track_decades.unit = "decades"  # type: ignore[attr-defined]

    def track_clipped(self, figures: Figures, *parameters: str) -> float:
        """Return the per cent of optimizer steps whose gradient was clipped."""
        return 100 * self.figure("clipped_share") + FLOOR

    track_clipped.unit = "% of steps"  # type: ignore[attr-defined]

    def track_lambda1(self, figures: Figures, *parameters: str) -> float:
        """Return the excess of λ1 over 1: how far the bound is from saying that gradients cannot grow."""
        return self.figure("lambda1_excess") + FLOOR

    track_lambda1.unit = "above 1"  # type: ignore[attr-defined]


FLOOR = 0.01
"""Added to figures that may be 0, of which asv knows no ratio."""


class Characters(_Stability):
    """The source of Python's own standard library, character by character."""

    task = "char-lm"
    setup_cache = staticmethod(setup_cache)


class Digits(_Stability):
    """Handwritten digits, pixel by pixel."""

    task = "digits"
    version = "2"
    setup_cache = staticmethod(setup_cache)


class Cells(Characters):
    """The same text, for each cell, of 1 bit below layer normalisation; λ1 is known of some."""

    params = (trained_cells(),)
    param_names = ("cell",)
    setup_cache = staticmethod(train_cells)
