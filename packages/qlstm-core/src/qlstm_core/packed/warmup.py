"""Compiling ahead of time, so that the first call of a program need not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from qlstm_core.bitplanes import BitPlanes
from qlstm_core.layers.cell import LSTM_CELL
from qlstm_core.packed.chain import EmbeddingStage
from qlstm_core.packed.file_format import Content
from qlstm_core.packed.kernels.choose import choose
from qlstm_core.packed.layer import packed_layer
from qlstm_core.packed.model import PackedModel
from qlstm_core.packed.network import Bits, Config, Matrix, Network, PackedCell

_FORMS = {"1-bit": (1.0,), "ternary": (0.5, 0.5)}


def warm_up(bits: tuple[int, ...]) -> Iterator[str]:
    """Compile 1-bit and ternary weights for each of ``activation_bits``; yield what was done."""
    for count in bits:
        for name, scales in _FORMS.items():
            yield warm(_smallest(scales), count, f"{name} weights")


def warm(content: Content, activation_bits: int, name: str) -> str:
    """Compile what one network or model needs; return what was done."""
    start = time.perf_counter()
    if isinstance(content, Network):
        packed_layer(content, activation_bits)(torch.zeros(1, content.config.input_size))
    else:
        first = content.stages[0]
        x = (
            torch.zeros(1, dtype=torch.int64)
            if isinstance(first, EmbeddingStage)
            else torch.zeros(1, first.input_size)
        )
        PackedModel(content, activation_bits)(x)
    seconds = time.perf_counter() - start
    return f"{name}, {activation_bits}-bit tables, kernel {choose().name}: {seconds:.1f} s"


def _smallest(scales: tuple[float, ...]) -> Network:
    signs = torch.ones(len(scales), 4, 1, 1, dtype=torch.bool)
    planes = BitPlanes(signs, torch.tensor(scales).view(-1, 1, 1).expand(-1, 4, 1))
    matrices: dict[str, Matrix] = {"ih": Bits.of(planes), "hh": Bits.of(planes)}
    return Network(Config(LSTM_CELL, 1, 1), (PackedCell(matrices, {}, {}, np.zeros((4, 1), np.float32)),))
