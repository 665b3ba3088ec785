"""Weight quantizers of the literature, as plugins for qlstm-core."""

from qlstm_quant.binary import BWN, BinaryConnect
from qlstm_quant.ternary import TWN, TerConnect

__all__ = [
    "BWN",
    "TWN",
    "BinaryConnect",
    "TerConnect",
]
