"""The cell families."""

from qlstm_core.layers.lstm import LSTM
from qlstm_core.layers.sequence import StateTrace
from qlstm_core.layers.stack import RecurrentLayer, record_states

__all__ = ["LSTM", "RecurrentLayer", "StateTrace", "record_states"]
