"""The fused route: a whole sequence as one autograd function, with gradients written by hand."""

from qlstm_core.layers.fused.lower import run_fused
from qlstm_core.layers.fused.plan import FUSED_CELLS

__all__ = ["FUSED_CELLS", "run_fused"]
