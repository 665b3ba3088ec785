"""Packed inference: weights as bits, products by table look-up.

Importing this package imports neither Numba nor any kernel: its names are found when they are used.
"""

from typing import TYPE_CHECKING

from qlstm_core.exports import lazily

if TYPE_CHECKING:
    from qlstm_core.packed.file_format import PackedFileError
    from qlstm_core.packed.kernels.choose import Kernel
    from qlstm_core.packed.layer import PackedGRU, PackedLayer, PackedLSTM
    from qlstm_core.packed.model import PackedModel
    from qlstm_core.packed.module import PackedModule
    from qlstm_core.packed.packing import load_packed, pack
    from qlstm_core.packed.vocabulary import Vocabulary

__all__ = [
    "Kernel",
    "PackedFileError",
    "PackedGRU",
    "PackedLSTM",
    "PackedLayer",
    "PackedModel",
    "PackedModule",
    "Vocabulary",
    "load_packed",
    "pack",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Kernel": "qlstm_core.packed.kernels.choose",
        "PackedFileError": "qlstm_core.packed.file_format",
        "PackedModel": "qlstm_core.packed.model",
        "PackedModule": "qlstm_core.packed.module",
        "Vocabulary": "qlstm_core.packed.vocabulary",
        **dict.fromkeys(("PackedGRU", "PackedLSTM", "PackedLayer"), "qlstm_core.packed.layer"),
        **dict.fromkeys(("load_packed", "pack"), "qlstm_core.packed.packing"),
    },
)
