"""Bit planes against the sums they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlstm_core import BitPlanes, straight_through

shapes = st.tuples(st.integers(1, 4), st.integers(0, 5), st.integers(0, 7))


def codes(shape: tuple[int, int, int], low: int, high: int, seed: int) -> torch.Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed))


def scale(shape: tuple[int, int, int], per_row: bool, seed: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape[0], shape[1] if per_row else 1, generator=generator).to(dtype) + 0.1


dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])


@given(shapes, st.booleans(), st.integers(0, 999), dtypes)
def test_binary(shape: tuple[int, int, int], per_row: bool, seed: int, dtype: torch.dtype) -> None:
    signs, alpha = codes(shape, 0, 1, seed).bool(), scale(shape, per_row, seed, dtype)
    planes = BitPlanes.from_binary(signs, alpha)
    assert (planes.bits, planes.shape) == (1, shape)
    assert torch.equal(planes.dense(), (2 * signs.to(dtype) - 1) * alpha.unsqueeze(-1))


@given(shapes, st.booleans(), st.integers(0, 999), dtypes)
def test_ternary(shape: tuple[int, int, int], per_row: bool, seed: int, dtype: torch.dtype) -> None:
    digits, alpha = codes(shape, -1, 1, seed), scale(shape, per_row, seed, dtype)
    planes = BitPlanes.from_ternary(digits, alpha)
    assert planes.bits == 2
    assert torch.equal(planes.dense(), digits.to(dtype) * alpha.unsqueeze(-1))


@given(shapes, st.booleans(), st.integers(0, 999), st.integers(1, 8), dtypes)
def test_uniform(
    shape: tuple[int, int, int], per_row: bool, seed: int, bits: int, dtype: torch.dtype
) -> None:
    digits = codes(shape, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, seed)
    step = scale(shape, per_row, seed, dtype)
    planes = BitPlanes.from_uniform(digits, step, bits)
    assert planes.bits == bits
    expected = digits.to(dtype) * step.unsqueeze(-1)
    # Exact where the sum has more digits than the result.
    torch.testing.assert_close(planes.dense(), expected, rtol=0, atol=1e-13 * (dtype == torch.float64))


@given(shapes, st.booleans(), st.integers(0, 999), st.sampled_from([1, 2, 3, 7, 127]))
def test_levels_are_found_again(shape: tuple[int, int, int], per_row: bool, seed: int, largest: int) -> None:
    digits, step = codes(shape, -largest, largest, seed), scale(shape, per_row, seed, torch.float32)
    weight = digits * step.unsqueeze(-1)
    planes = BitPlanes.from_levels(weight, per_row=per_row)
    torch.testing.assert_close(planes.dense(), weight, rtol=1e-6, atol=0)
    assert planes.bits <= (2 * largest).bit_length()


def test_levels_that_binary_and_mixed_matrices_use() -> None:
    assert BitPlanes.from_levels(torch.tensor([[[0.5, -0.5]]])).bits == 1
    assert BitPlanes.from_levels(torch.tensor([[[0.5, -0.5]], [[0.0, 2.0]]])).bits == 2
    assert BitPlanes.from_levels(torch.tensor([[[1.0, 2.0, -3.0]]])).bits == 3
    assert BitPlanes.from_levels(torch.tensor([[[2.0, 3.0]]])).dense().tolist() == [[[2.0, 3.0]]]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.randn(1, 20, 20), r"gate 0 has 400 levels"),
        (torch.tensor([[[1.0, -1.0, 1.0]], [[1.0, 2.0, 2.0**0.5]]]), "gate 1 has 3 levels"),
        (torch.tensor([[[1.0, float("nan")]]]), "gate 0 holds non-finite values"),
        (torch.zeros(3, 3), r"shape \(gates, rows, cols\), got \(3, 3\)"),
    ],
    ids=["many", "uneven", "nan", "shape"],
)
def test_levels_that_cannot_be_found(weight: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BitPlanes.from_levels(weight)


def test_rows_are_named() -> None:
    weight = torch.tensor([[[1.0, -1.0, 1.0], [1.0, 2.0, 2.0**0.5]]])
    with pytest.raises(ValueError, match="gate 0, row 1 has 3 levels"):
        BitPlanes.from_levels(weight, per_row=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(1, 2, 3, 4), torch.ones(1, 2, 1)), "signs must be a bool tensor"),
        ((torch.ones(1, 2, 3, 4).bool(), torch.ones(2, 1)), "scales must have shape"),
        ((torch.ones(1, 2, 3, 4).bool(), torch.ones(1, 2, 1).int()), "floating point"),
        ((torch.ones(1, 2, 3, 4).bool(), torch.ones(1, 2, 1), torch.ones(3, 1)), "offset must have shape"),
    ],
    ids=["signs", "scales", "dtype", "offset"],
)
def test_shapes_that_do_not_fit(arguments: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BitPlanes(*arguments)


def test_uniform_codes_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"codes must lie in \[-2, 1\] for 2 bits, got \[0, 2\]"):
        BitPlanes.from_uniform(torch.tensor([[[0, 2]]]), torch.ones(1, 1), 2)


def test_straight_through_is_exact_and_passes_the_gradient() -> None:
    weight = torch.tensor([0.3, 1e-9, -7e8], requires_grad=True)
    levels = torch.tensor([1.0, -1.0, 1.0])
    y = straight_through(weight, levels)
    assert torch.equal(y, levels)
    (gradient,) = torch.autograd.grad((y * torch.tensor([1.0, 2.0, 3.0])).sum(), weight)
    assert gradient.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="must agree"):
        straight_through(weight, levels.double())
