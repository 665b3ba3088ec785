"""Recurrent layers with 1- to few-bit weights."""

from typing import TYPE_CHECKING

from qlstm_core import init
from qlstm_core.bitplanes import BitPlanes
from qlstm_core.conversion import convert
from qlstm_core.curvature import track_curvature
from qlstm_core.exports import lazily
from qlstm_core.interfaces import Normalizer, Quantizer, straight_through
from qlstm_core.layers import (
    GRU,
    LSTM,
    Cell,
    Embedding,
    FactorizedLSTM,
    GroupedLSTM,
    InitialState,
    Linear,
    QuantizedLayer,
    RecurrentLayer,
    StateTrace,
    cells_of,
    layer_by_name,
    model_bytes,
    readable_loop,
    record_states,
)

if TYPE_CHECKING:
    from qlstm_core.packed import PackedGRU, PackedLSTM, PackedModel, Vocabulary, load_packed, pack

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "BitPlanes",
    "Cell",
    "Embedding",
    "FactorizedLSTM",
    "GroupedLSTM",
    "InitialState",
    "Linear",
    "Normalizer",
    "PackedGRU",
    "PackedLSTM",
    "PackedModel",
    "QuantizedLayer",
    "Quantizer",
    "RecurrentLayer",
    "StateTrace",
    "Vocabulary",
    "cells_of",
    "convert",
    "init",
    "layer_by_name",
    "load_packed",
    "model_bytes",
    "pack",
    "readable_loop",
    "record_states",
    "straight_through",
    "track_curvature",
]

# Numba, which packed inference needs, costs as much time to import as all the rest.
__getattr__, __dir__ = lazily(
    __name__,
    dict.fromkeys(
        ("PackedGRU", "PackedLSTM", "PackedModel", "Vocabulary", "load_packed", "pack"), "qlstm_core.packed"
    ),
)
