"""An example of a plugin for qlstm-core: a quantizer and a normaliser."""

from qlstm_plugin_example.normalizer import MaxNorm
from qlstm_plugin_example.quantizer import PowerOfTwo

__all__ = ["MaxNorm", "PowerOfTwo"]
