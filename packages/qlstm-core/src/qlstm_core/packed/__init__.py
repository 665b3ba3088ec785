"""Packed inference: weights as bits, products by table look-up.

Importing this package imports neither Numba nor any kernel: its names are found when they are used.
"""

from typing import TYPE_CHECKING

from qlstm_core.exports import lazily

if TYPE_CHECKING:
    from qlstm_core.packed.file_format import PackedFileError
    from qlstm_core.packed.kernels.choose import Kernel
    from qlstm_core.packed.layer import PackedGRU, PackedLayer, PackedLSTM, load_packed, pack

__all__ = ["Kernel", "PackedFileError", "PackedGRU", "PackedLSTM", "PackedLayer", "load_packed", "pack"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Kernel": "qlstm_core.packed.kernels.choose",
        "PackedFileError": "qlstm_core.packed.file_format",
        **dict.fromkeys(
            ("PackedGRU", "PackedLSTM", "PackedLayer", "load_packed", "pack"), "qlstm_core.packed.layer"
        ),
    },
)
