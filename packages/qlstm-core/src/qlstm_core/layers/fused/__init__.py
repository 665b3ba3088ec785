"""The fused path: a whole sequence as one autograd function, with gradients written by hand."""

from qlstm_core.layers.fused.plan import FUSED_CELLS
from qlstm_core.layers.fused.run import run_fused

__all__ = ["FUSED_CELLS", "run_fused"]
