"""Recurrent layers with 1- to few-bit weights."""

from qlstm_core.bitplanes import BitPlanes
from qlstm_core.interfaces import Normalizer, Quantizer, straight_through
from qlstm_core.layers import LSTM, StateTrace, record_states

__all__ = [
    "LSTM",
    "BitPlanes",
    "Normalizer",
    "Quantizer",
    "StateTrace",
    "record_states",
    "straight_through",
]
