"""Recurrent layers with 1- to few-bit weights."""

from qlstm_core.bitplanes import BitPlanes
from qlstm_core.interfaces import Normalizer, Quantizer, straight_through

__all__ = [
    "BitPlanes",
    "Normalizer",
    "Quantizer",
    "straight_through",
]
