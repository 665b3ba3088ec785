"""An example of a plugin for qlstm-core: a quantizer, a normaliser and a cell."""

from qlstm_plugin_example.cell import MinGRU
from qlstm_plugin_example.normalizer import MaxNorm
from qlstm_plugin_example.quantizer import PowerOfTwo

__all__ = ["MaxNorm", "MinGRU", "PowerOfTwo"]
