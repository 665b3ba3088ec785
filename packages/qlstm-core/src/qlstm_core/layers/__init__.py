"""The cell families."""

from qlstm_core.layers.by_name import cells_of, layer_by_name
from qlstm_core.layers.cell import Cell
from qlstm_core.layers.factorized import FactorizedLSTM
from qlstm_core.layers.grouped import GroupedLSTM
from qlstm_core.layers.gru import GRU
from qlstm_core.layers.initial_state import InitialState
from qlstm_core.layers.lstm import LSTM
from qlstm_core.layers.matrix import Embedding, Linear
from qlstm_core.layers.prepared import StateTrace
from qlstm_core.layers.quantized import QuantizedLayer, model_bytes
from qlstm_core.layers.route import Route, readable_loop
from qlstm_core.layers.stack import RecurrentLayer, record_states

__all__ = [
    "GRU",
    "LSTM",
    "Cell",
    "Embedding",
    "FactorizedLSTM",
    "GroupedLSTM",
    "InitialState",
    "Linear",
    "QuantizedLayer",
    "RecurrentLayer",
    "Route",
    "StateTrace",
    "cells_of",
    "layer_by_name",
    "model_bytes",
    "readable_loop",
    "record_states",
]
