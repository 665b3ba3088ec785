"""Every kernel against sums of NumPy's 64-bit integers, and products against float64."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlstm_core import BitPlanes
from qlstm_core.packed.kernels import layout as packed_format
from qlstm_core.packed.kernels.choose import Kernel, choose, has_avx2, has_vbmi
from qlstm_core.packed.kernels.layout import (
    ENTRY_LIMIT,
    MAX_COLUMNS,
    SPANS,
    PackedMatrix,
    aligned,
    groups_of,
    pack,
)
from qlstm_core.packed.kernels.matmul import matmul, one_hot, tables_shape

NAMES = [
    pytest.param("avx512", marks=pytest.mark.skipif(not has_vbmi(), reason="needs a CPU with AVX-512 VBMI")),
    pytest.param("avx2", marks=pytest.mark.skipif(not has_avx2(), reason="needs a CPU with AVX2")),
    "portable",
]
HERE = [*(["avx512"] if has_vbmi() else []), *(["avx2"] if has_avx2() else []), "portable"]
BITS = sorted(ENTRY_LIMIT)
SCALES = {0: [(1,), (1, 3), (2, 1, 1)], 1: [(1, 1), (3, 3, 5, 5)], 2: [(1, 2), (1, 2, 4, 8)]}


@pytest.fixture(params=NAMES)
def kernel(request) -> Kernel:
    return choose(request.param)


def planes_of(signs, scales) -> BitPlanes:
    return BitPlanes(
        torch.from_numpy(signs), torch.tensor(scales).float().reshape(-1, 1, 1).expand(-1, len(signs[0]), 1)
    )


def integers(kernel: Kernel, matrix: PackedMatrix, q, activation_bits: int):
    """The kernel's sums, (count, sums per row, rows), for integer activations (count, cols)."""
    gates, rows, cols = matrix.shape
    count = len(q)
    padded = np.zeros((count, matrix.span * matrix.groups), np.int32)
    padded[:, :cols] = q
    codes = aligned((count, matrix.span + 1, matrix.groups), np.int16)
    codes[:, :-1] = padded.reshape(count, matrix.span, -1)
    codes[:, -1] = np.maximum(-padded.reshape(count, matrix.span, -1), 0).sum(1)
    norms = np.abs(padded).sum(1, dtype=np.int32)
    tables = aligned(tables_shape(count, matrix.groups, activation_bits, matrix.span), np.uint8)
    sums = aligned((count, matrix.length), np.int32)
    sums[:] = -7
    kernel.fill_tables(activation_bits)(codes, tables)
    kernel.product(activation_bits, matrix.pairing)(matrix.blocks, tables, norms, sums)
    per_run = 16 * matrix.sums
    runs = sums[:, : matrix.length // per_run * per_run].reshape(count, -1, matrix.sums, 16)
    return runs.swapaxes(1, 2).reshape(count, matrix.sums, -1)[:, :, : gates * rows]


def expected(signs, q, pairing: int):
    each = np.einsum("kgrc,nc->nkgr", np.where(signs, 1, -1), q.astype(np.int64))
    each = each.reshape(len(q), len(signs), -1)
    return each[:, ::2] + pairing * each[:, 1::2] if pairing else each


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_integers_are_exact(data):
    activation_bits = data.draw(st.sampled_from(BITS))
    scales = data.draw(st.sampled_from([s for group in SCALES.values() for s in group]))
    shape = (
        len(scales),
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(1, 80)),
        data.draw(st.integers(1, 90)),
    )
    count = data.draw(st.integers(1, 9))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    signs = generator.random(shape) < 0.5
    share = ENTRY_LIMIT[activation_bits] // max(SPANS)
    size = (count, shape[-1])
    q = {
        "random": lambda: generator.integers(-share, share + 1, size),
        "extreme": lambda: generator.choice([-share, share], size),
        "sparse": lambda: generator.choice([-share, 0, 0, 0, 1], size),
    }[data.draw(st.sampled_from(["random", "extreme", "sparse"]))]()

    for name in HERE:
        kernel = choose(name)
        matrix = pack(planes_of(signs, scales), kernel.span)
        want = expected(signs, q, matrix.pairing)
        assert np.array_equal(integers(kernel, matrix, q, activation_bits), want), name


@pytest.mark.parametrize("activation_bits", BITS)
@pytest.mark.parametrize("pairing", SCALES)
def test_nothing_overflows_in_the_worst_case(kernel, activation_bits, pairing):
    scales = SCALES[pairing][0]
    limit = ENTRY_LIMIT[activation_bits]
    cols = 4099
    groups = groups_of(cols, kernel.span)  # of which group g holds columns g, groups + g, 2·groups + g, …
    q = np.zeros((3, cols), np.int64)
    q[0, :groups] = limit  # one column has all of the entry
    q[1, groups : 2 * groups] = -limit
    q[2] = np.where(np.arange(cols) % 2, 1, -1) * (limit // kernel.span)
    signs = np.zeros((len(scales), 1, 5, cols), bool)
    signs[:, :, 1] = True
    signs[:, :, 2] = q[2] > 0
    signs[:, :, 3] = q[2] <= 0
    signs[1:, :, 4] = True
    matrix = pack(planes_of(signs, scales), kernel.span)
    assert matrix.groups == groups
    found = integers(kernel, matrix, q, activation_bits)
    assert np.array_equal(found, expected(signs, q, matrix.pairing))
    assert abs(found[0]).max() == limit * groups * (1 + matrix.pairing)


@pytest.mark.parametrize("scales", [(1, 1), (1, 2)])
@pytest.mark.parametrize("cols", [43_680, 43_696, 65_536, MAX_COLUMNS])
def test_sums_of_agreeing_signs_stay_within_32_bits_however_many_columns(kernel, cols, scales):
    share = ENTRY_LIMIT[16] // kernel.span
    groups = groups_of(cols, kernel.span)
    q = np.full((2, cols), share)
    q[0, :groups] += ENTRY_LIMIT[16] % kernel.span  # no entry can be larger than those of this column
    q[1, ::3] *= -1
    signs = np.zeros((2, 1, 4, cols), bool)
    signs[:, :, 1] = True
    signs[:, :, 2] = q[1] > 0
    signs[1:, :, 3] = True
    matrix = pack(planes_of(signs, scales), kernel.span)
    wanted = expected(signs, q, matrix.pairing)
    assert abs(wanted).max() <= 2**31 - 1
    assert np.array_equal(integers(kernel, matrix, q, 16), wanted)
    # Planes are paired as long as no sum of theirs can be too large.
    assert (matrix.pairing > 0) == ((1 + scales[1]) * groups * ENTRY_LIMIT[16] < 2**31)


@pytest.mark.parametrize("scales", [(1, 1), (1, 2), (1, 2, 4, 8)])
def test_products_are_the_same_with_planes_in_pairs_and_apart(kernel, scales, monkeypatch):
    generator = np.random.default_rng(5)
    planes = planes_of(generator.random((len(scales), 2, 20, 37)) < 0.5, scales)
    x = generator.standard_normal((3, 37)).astype(np.float32)
    together = pack(planes, kernel.span)
    one = matmul(x, together, kernel=kernel)
    monkeypatch.setattr(packed_format, "LARGEST_SUM", groups_of(37, kernel.span) * ENTRY_LIMIT[16])
    assert (together.pairing, together.sums) == (0, len(scales))
    assert np.allclose(matmul(x, together, kernel=kernel), one, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("activation_bits", BITS)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (1, 1, 1, 4099), (1, 1, 300, 1), (4, 16, 16, 16), (1, 1, 64, 1029)]
)
def test_awkward_shapes(kernel, activation_bits, shape):
    generator = np.random.default_rng(0)
    signs = generator.random((1, *shape[1:])) < 0.5
    limit = ENTRY_LIMIT[activation_bits] // kernel.span
    q = generator.integers(-limit, limit + 1, (2, shape[-1]))
    found = integers(kernel, pack(planes_of(signs, (1,)), kernel.span), q, activation_bits)
    assert np.array_equal(found, expected(signs, q, 0))


def quantized_weights():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 33, 257, generator=generator)
    scale = torch.tensor([[0.5], [1.0], [0.02], [3.0]])
    step = torch.rand(4, 33, generator=generator) + 0.1
    binary = BitPlanes.from_binary(weight > 0, scale)
    ternary = BitPlanes.from_ternary(torch.sign(weight) * (weight.abs() > 0.7), scale)
    per_row = BitPlanes.from_binary(weight > 0, step)
    free = BitPlanes(
        torch.stack([weight > 0, weight > 1, weight > -0.3]), torch.rand(3, 4, 1, generator=generator)
    )
    uniform = {
        f"uniform {bits}": BitPlanes.from_uniform(
            (weight * 2).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).round(), step, bits
        )
        for bits in (2, 3, 4, 8)
    }
    return {"binary": binary, "ternary": ternary, "per row": per_row, "free": free, **uniform}


@pytest.mark.parametrize("activation_bits", BITS)
@pytest.mark.parametrize("name", quantized_weights())
def test_products_are_within_the_rounding_of_activations(kernel, activation_bits, name):
    planes = quantized_weights()[name]
    weight = planes.dense().double().numpy()
    x = np.random.default_rng(1).standard_normal((3, 257)).astype(np.float32)
    found = matmul(x, pack(planes, kernel.span), activation_bits=activation_bits, kernel=kernel)
    exact = np.einsum("grc,nc->ngr", weight, x.astype(np.float64))

    span, groups = kernel.span, groups_of(257, kernel.span)
    padded = np.zeros((3, span * groups))
    padded[:, :257] = np.abs(x)
    scale = padded.reshape(3, span, groups).sum(1).max(1) / (ENTRY_LIMIT[activation_bits] - span // 2)
    worst = scale[:, None, None] / 2 * np.abs(weight).sum(-1)  # every activation off by half a step
    assert (
        np.abs(found - exact) <= worst * (1 + 1e-4) + 1e-6 * np.abs(weight).sum(-1) * np.abs(x).max()
    ).all()
    relative = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert relative <= {8: 1.5e-2, 12: 1e-3, 16: 7e-5}[activation_bits]


@pytest.mark.skipif(not has_avx2(), reason="needs a CPU with AVX2")
@pytest.mark.parametrize("activation_bits", BITS)
def test_kernels_agree_to_the_last_bit(activation_bits):
    x = np.random.default_rng(2).standard_normal((7, 257)).astype(np.float32)
    for name, planes in quantized_weights().items():
        fast, plain = (
            matmul(x, pack(planes), activation_bits=activation_bits, kernel=choose(k))
            for k in ("avx2", "portable")
        )
        assert np.array_equal(fast, plain), name


@pytest.mark.parametrize("cols", [1, 4, 50, 512])
@pytest.mark.parametrize("scales", [(1,), (1, 1), (1, 2), (1, 3, 4)])
@pytest.mark.parametrize("span", SPANS)
def test_one_hot_columns_are_read_directly(scales, cols, span):
    signs = np.random.default_rng(3).random((len(scales), 2, 19, cols)) < 0.5
    matrix = pack(planes_of(signs, scales), span)
    sums = np.full((1, matrix.length), -7, np.int32)
    for column in {*range(min(cols, 50)), cols // 2, cols - 1}:
        one_hot(matrix.blocks, column, matrix.pairing, sums[0])
        per_run = 16 * matrix.sums
        runs = sums[:, : matrix.length // per_run * per_run].reshape(-1, matrix.sums, 16)
        found = runs.swapaxes(0, 1).reshape(1, matrix.sums, -1)[:, :, :38]
        assert np.array_equal(found, expected(signs, np.eye(1, cols, column), matrix.pairing))


def test_activations_that_are_not_finite_spoil_their_own_vector_only(kernel):
    matrix = pack(quantized_weights()["binary"], kernel.span)
    x = np.ones((3, 257), np.float32)
    x[1, 200] = np.nan
    found = matmul(x, matrix, kernel=kernel)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()
    x[1, 200] = np.inf
    assert np.isnan(matmul(x, matrix, kernel=kernel)[1]).all()


def test_zero_activations_give_zero(kernel):
    matrix = pack(quantized_weights()["ternary"], kernel.span)
    assert not matmul(np.zeros((2, 257), np.float32), matrix, kernel=kernel).any()


def test_threads_do_not_disturb_each_other(kernel):
    matrix = pack(quantized_weights()["ternary"], kernel.span)
    inputs = np.random.default_rng(4).standard_normal((4, 5, 257)).astype(np.float32)
    wanted = [matmul(x, matrix, kernel=kernel) for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(50):
            if not np.array_equal(matmul(inputs[i], matrix, kernel=kernel), wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_arguments_that_do_not_fit_are_named():
    kernel = choose("portable")
    matrix = pack(quantized_weights()["binary"], kernel.span)
    x = np.zeros((2, 257), np.float32)
    with pytest.raises(ValueError, match="vectors must have shape"):
        matmul(np.zeros((2, 256), np.float32), matrix, kernel=kernel)
    with pytest.raises(ValueError, match="activation_bits"):
        matmul(x, matrix, activation_bits=10, kernel=kernel)
    with pytest.raises(ValueError, match="kernel 'portable' needs a span of 4, the matrix has 6"):
        matmul(x, pack(quantized_weights()["binary"], 6), kernel=kernel)
