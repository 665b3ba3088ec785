"""Sizes of deployed layers against the size columns of Hou et al. 2019, in KB of 1024 bytes."""

from __future__ import annotations

import math

import pytest

from qlstm_core import GRU, LSTM

SEPARATE = "batch-separate:max_steps={}"


def kilobytes(layer: LSTM) -> int:
    """Round half up, as the published table does (148.5 is given as 149)."""
    return math.floor(layer.storage_bytes() / 1024 + 0.5)


PENN_TREEBANK = {  # 50 symbols, 512 units, 100 steps
    "none": (4504, 149, 289),
    "weight": (4520, 165, 305),
    "layer": (4536, 181, 321),
    "batch-shared": (4568, 213, 353),
    SEPARATE.format(100): (7736, 3381, 3521),
}
WAR_AND_PEACE = {  # 87 symbols, 512 units, 100 steps
    "none": (4800, 158, 308),
    "weight": (4816, 174, 324),
    "layer": (4832, 190, 340),
    "batch-shared": (4864, 222, 372),
    SEPARATE.format(100): (8032, 3390, 3540),
}
TEXT8 = {  # 27 symbols, 2000 units, 180 steps
    "none": (63375, 2011, 3990),
    "weight": (63438, 2073, 4053),
    "layer": (63500, 2136, 4115),
    "batch-shared": (63625, 2261, 4240),
    SEPARATE.format(180): (86000, 24636, 26615),
}
WORDS_300 = {  # inputs of 300, 300 units, 35 steps
    "none": (2817, 93, 180),
    "weight": (None, 102, 190),
    "layer": (None, 111, 199),
    "batch-shared": (None, 130, 218),
    SEPARATE.format(35): (None, 768, 855),  # 767.58, printed as 767
}
WORDS_650 = {  # inputs of 650, 650 units, 35 steps
    "none": (13213, 423, 835),
    "weight": (None, 443, 856),
    "layer": (None, 463, 876),
    "batch-shared": (None, 504, 917),
    SEPARATE.format(35): (None, 1885, 2298),
}
TABLES = [
    (50, 512, PENN_TREEBANK),
    (87, 512, WAR_AND_PEACE),
    (27, 2000, TEXT8),
    (300, 300, WORDS_300),
    (650, 650, WORDS_650),
]


@pytest.mark.parametrize(
    ("symbols", "hidden", "normalizer", "quantizer", "size"),
    [
        (symbols, hidden, normalizer, quantizer, size)
        for symbols, hidden, table in TABLES
        for normalizer, sizes in table.items()
        for quantizer, size in zip(("none", "binary-connect", "ter-connect"), sizes, strict=True)
        if size is not None
    ],
)
def test_published_sizes(symbols: int, hidden: int, normalizer: str, quantizer: str, size: int) -> None:
    layer = LSTM(symbols, hidden, quantizer=quantizer, normalizer=normalizer, device="meta")
    assert kilobytes(layer) == size


@pytest.mark.parametrize(
    ("inputs", "hidden", "steps", "sizes"),
    [
        (50, 512, 100, {"sbn": 3785}),
        (87, 512, 100, {"sbn": 3794, "stn": 3944}),
        (27, 2000, 180, {"sbn": 27464}),
        (300, 300, 35, {"sbn": 852, "stn": 940}),
        (650, 650, 35, {"sbn": 2068, "stn": 2481}),
    ],
)
def test_published_sizes_with_normalised_cell(
    inputs: int, hidden: int, steps: int, sizes: dict[str, int]
) -> None:
    for quantizer, size in sizes.items():
        normalizer = f"batch-separate:max_steps={steps},cell=true"
        layer = LSTM(inputs, hidden, quantizer=quantizer, normalizer=normalizer, device="meta")
        assert kilobytes(layer) == size


def test_layers_and_directions_add_up() -> None:
    one = LSTM(8, 16, quantizer="bwn", normalizer="layer").storage_bytes()
    second = LSTM(32, 16, quantizer="bwn", normalizer="layer").storage_bytes()
    both = LSTM(8, 16, 2, bidirectional=True, quantizer="bwn", normalizer="layer").storage_bytes()
    assert both == 2 * one + 2 * second


def test_scales_are_counted() -> None:
    plain = LSTM(8, 16, quantizer="binary-connect").storage_bytes()
    assert LSTM(8, 16, quantizer="bwn").storage_bytes() - plain == 4 * 2 * 4
    assert LSTM(8, 16, quantizer="bwn:per_row=true").storage_bytes() - plain == 4 * 2 * 4 * 16


def test_without_bias() -> None:
    with_bias, without = (LSTM(8, 16, bias=bias).storage_bytes() for bias in (True, False))
    assert with_bias - without == 4 * 4 * 16


@pytest.mark.parametrize(
    ("normalizer", "values"),
    # Four biases per unit: b_hn stands behind the reset gate. With a normaliser three, and six gains.
    [("none", 4 * 16), ("rms", 3 * 16 + 6 * 16)],
)
def test_a_gru_keeps_the_bias_behind_its_reset_gate(normalizer: str, values: int) -> None:
    layer = GRU(8, 16, quantizer="binary-connect", normalizer=normalizer)
    assert layer.storage_bytes() == 3 * 16 * (8 + 16) // 8 + 4 * values


def test_projection_stays_full_precision_unless_named() -> None:
    plain = LSTM(8, 16, proj_size=4, quantizer="binary-connect")
    named = LSTM(
        8,
        16,
        proj_size=4,
        quantizer={"ih": "binary-connect", "hh": "binary-connect", "hr": "binary-connect"},
    )
    assert plain.storage_bytes() - named.storage_bytes() == 4 * 16 * 4 - 4 * 16 // 8
