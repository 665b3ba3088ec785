"""Normalisers of the literature for quantized recurrent layers."""

from qlstm_norm.batch import BatchSeparate, BatchShared
from qlstm_norm.layer import LayerNorm
from qlstm_norm.rms import RMSNorm
from qlstm_norm.weight import WeightNorm

__all__ = ["BatchSeparate", "BatchShared", "LayerNorm", "RMSNorm", "WeightNorm"]
