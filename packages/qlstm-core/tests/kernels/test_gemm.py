"""The products of the fused route against torch's, over shapes that fill tiles and panels and that do not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlstm_core.kernels.gemm import multiply, pack
from qlstm_core.layers.fused.compiled.products import write_outer, write_product

DTYPES = st.sampled_from([torch.float32, torch.float64])


def close(mine: torch.Tensor, expected: torch.Tensor) -> None:
    error = 1e-5 if mine.dtype == torch.float32 else 1e-13
    torch.testing.assert_close(mine, expected, rtol=0, atol=error * (1 + float(expected.abs().max())))


@given(
    DTYPES,
    st.integers(1, 3),
    st.integers(1, 21),
    st.integers(1, 40),
    st.integers(1, 70),
    st.booleans(),
    st.booleans(),
    st.integers(1, 3),
)
def test_multiply_equals_matmul(
    dtype: torch.dtype,
    groups: int,
    rows: int,
    depth: int,
    columns: int,
    transposed: bool,
    add: bool,
    shares: int,
) -> None:
    torch.manual_seed(rows)
    a = torch.randn(rows + 1, groups * depth, dtype=dtype)
    weight = torch.randn(groups, depth, columns, dtype=dtype)
    c = torch.randn(rows + 2, groups * columns, dtype=dtype)
    product = torch.einsum("rgd,gdc->rgc", a[1:].view(rows, groups, depth), weight).flatten(1)
    expected = c.clone()
    expected[2:] = product + c[2:] if add else product
    panels = pack(weight.transpose(1, 2) if transposed else weight, c, transposed=transposed)
    for share in range(shares):
        multiply(a.numpy(), 1, rows, panels, c.numpy(), 2, add, share, shares)
    close(c, expected)


@given(DTYPES, st.integers(1, 600), st.integers(1, 40), st.integers(1, 70), st.booleans())
def test_products_over_a_chunk(dtype: torch.dtype, rows: int, width: int, columns: int, add: bool) -> None:
    torch.manual_seed(rows)
    d, h = torch.randn(rows, width, dtype=dtype), torch.randn(rows, columns, dtype=dtype)
    out = torch.randn(width, columns, dtype=dtype)
    expected = d.t() @ h + out if add else d.t() @ h
    write_outer(out, d, h, add=add)
    close(out, expected)
    pulled = torch.empty(rows, columns, dtype=dtype)
    write_product(pulled, d, expected)
    close(pulled, d @ expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_padding_does_not_spread_what_is_not_finite(value: float) -> None:
    weight = torch.ones(3, 5)
    weight[1, 4] = value
    c = torch.zeros(2, 5)
    multiply(torch.ones(2, 3).numpy(), 0, 2, pack(weight, c), c.numpy(), 0, False, 0, 1)
    torch.testing.assert_close(c[:, :4], torch.full((2, 4), 3.0))
    assert not c[:, 4].isfinite().any()
