"""Recurrent layers with 1- to few-bit weights."""

from qlstm_core.bitplanes import BitPlanes
from qlstm_core.curvature import track_curvature
from qlstm_core.interfaces import Normalizer, Quantizer, straight_through
from qlstm_core.layers import (
    GRU,
    LSTM,
    FactorizedLSTM,
    GroupedLSTM,
    RecurrentLayer,
    StateTrace,
    readable_loop,
    record_states,
)

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "BitPlanes",
    "FactorizedLSTM",
    "GroupedLSTM",
    "Normalizer",
    "Quantizer",
    "RecurrentLayer",
    "StateTrace",
    "readable_loop",
    "record_states",
    "straight_through",
    "track_curvature",
]
