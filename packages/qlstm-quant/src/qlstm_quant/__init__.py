"""Weight quantizers of the literature, as plugins for qlstm-core, and training with rounded weights."""

from qlstm_quant.binary import BWN, SBN, BinaryConnect
from qlstm_quant.loss_aware import LAB, LAT
from qlstm_quant.multibit import Alternating
from qlstm_quant.rounding import Grid, Rounding
from qlstm_quant.ternary import STN, TWN, AbsMean, TerConnect
from qlstm_quant.uniform import LSQ, Uniform

__all__ = [
    "BWN",
    "LAB",
    "LAT",
    "LSQ",
    "SBN",
    "STN",
    "TWN",
    "AbsMean",
    "Alternating",
    "BinaryConnect",
    "Grid",
    "Rounding",
    "TerConnect",
    "Uniform",
]
