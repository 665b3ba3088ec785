"""Weights and quantizers that the tests of this package share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from qlstm_core import Quantizer
from qlstm_quant import (
    BWN,
    LAB,
    LAT,
    LSQ,
    SBN,
    STN,
    TWN,
    AbsMean,
    Alternating,
    BinaryConnect,
    TerConnect,
    Uniform,
)

FACTORIES: dict[str, Callable[[], Quantizer]] = {
    "binary-connect": BinaryConnect,
    "binary-connect:stochastic": lambda: BinaryConnect(stochastic=True),
    "ter-connect": TerConnect,
    "ter-connect:per_row": lambda: TerConnect(per_row=True),
    "ter-connect:stochastic": lambda: TerConnect(stochastic=True),
    "bwn": BWN,
    "bwn:per_row": lambda: BWN(per_row=True),
    "twn": TWN,
    "twn:per_row": lambda: TWN(per_row=True),
    "lab": LAB,
    "lab:per_row": lambda: LAB(per_row=True),
    "lat": LAT,
    "lat:per_row": lambda: LAT(per_row=True),
    "sbn": SBN,
    "stn": STN,
    "absmean": AbsMean,
    "absmean:per_row": lambda: AbsMean(per_row=True),
    **{f"alternating:{k}": lambda k=k: Alternating(bits=k) for k in (1, 2, 3, 4)},  # type: ignore[misc]
    **{f"alternating:{k},per_row": lambda k=k: Alternating(bits=k, per_row=True) for k in (1, 3)},  # type: ignore[misc]
    **{f"uniform:{k}": lambda k=k: Uniform(bits=k) for k in (2, 3, 8)},  # type: ignore[misc]
    "uniform:4,per_row": lambda: Uniform(bits=4, per_row=True),
    **{f"lsq:{k}": lambda k=k: LSQ(bits=k) for k in (2, 3, 8)},  # type: ignore[misc]
    "lsq:4,per_row": lambda: LSQ(bits=4, per_row=True),
}
"""Every quantizer of the package, with the options that change what it computes."""


def prepared(name: str, weight: Tensor) -> Quantizer:
    quantizer = FACTORIES[name]()
    quantizer.prepare(weight)
    return quantizer


def moments(weight: Tensor) -> Tensor:
    """Second moments as Adam might keep them: of very different sizes."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(weight.shape, generator=generator, dtype=torch.float64).pow(8).to(weight.dtype)


@st.composite
def weights(draw: st.DrawFn, *, largest: int = 9, dtype: torch.dtype = torch.float32) -> Tensor:
    """``(gates, rows, cols)`` weights of ordinary and odd distributions."""
    shape = tuple(draw(st.integers(1, limit)) for limit in (4, largest, largest))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    shaping = draw(st.sampled_from(["normal", "heavy", "few values", "one-sided", "mostly zero"]))
    if shaping == "heavy":
        weight = weight**5
    elif shaping == "few values":
        weight = weight.round() / 2
    elif shaping == "one-sided":
        weight = weight.abs()
    elif shaping == "mostly zero":
        weight = weight * (weight.abs() > 1.2)
    return (weight * draw(st.sampled_from([1.0, 0.03, 40.0]))).to(dtype)


def as_numpy(weight: Tensor) -> np.ndarray:  # type: ignore[type-arg]
    return weight.detach().double().numpy()
