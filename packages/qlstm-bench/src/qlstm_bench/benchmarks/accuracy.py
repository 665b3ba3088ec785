"""How well a network does after a short training with fixed seeds."""

from __future__ import annotations

from .choice import trained_cells
from .trained import Figures, Trained, setup_cache, train_cells


class Characters(Trained):
    """The source of Python's own standard library, character by character."""

    task = "char-lm"
    setup_cache = staticmethod(setup_cache)

    def track_validation(self, figures: Figures, *parameters: str) -> float:
        """Return bits per character in validation."""
        return self.figure("shortfall")

    track_validation.unit = "bits per character"  # type: ignore[attr-defined]


class Digits(Trained):
    """Handwritten digits, pixel by pixel."""

    task = "digits"
    version = "2"
    setup_cache = staticmethod(setup_cache)

    def track_validation(self, figures: Figures, *parameters: str) -> float:
        """Return the per cent of digits misread in validation."""
        return self.figure("shortfall")

    track_validation.unit = "% wrong"  # type: ignore[attr-defined]


class Cells(Characters):
    """The same text, for each cell, of 1 bit below layer normalisation."""

    params = (trained_cells(),)
    param_names = ("cell",)
    setup_cache = staticmethod(train_cells)
