"""What holds for all quantizers alike, whatever their method."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from weight_cases import FACTORIES, moments, prepared, weights

from qlstm_quant import LSQ, SBN, STN, TWN, AbsMean, Alternating, BinaryConnect, TerConnect, Uniform
from qlstm_quant.hooks import qlstm_quantizers

NAMES = sorted(FACTORIES)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def extremes(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    huge = min(1e30, torch.finfo(dtype).max / 8)
    tiny = max(1e-30, torch.finfo(dtype).tiny)
    cases = {
        "huge": normal * huge,
        "huge and equal": torch.full((2, 3, 4), -huge, dtype=torch.float64),
        "largest number": torch.full((2, 3, 4), min(torch.finfo(dtype).max, 1e300), dtype=torch.float64),
        "tiny": normal * tiny,
        "denormal": normal * torch.finfo(dtype).tiny * 0.01,
        "one huge": torch.where(torch.arange(7) == 3, huge, tiny * normal),
        "all equal": torch.full((2, 3, 4), 0.3, dtype=torch.float64),
        "all zero": torch.zeros(2, 3, 4, dtype=torch.float64),
        "minus zero": -torch.zeros(2, 3, 4, dtype=torch.float64),
        "one gate zero": normal * (torch.arange(3) != 1).reshape(3, 1, 1),
        "one weight": torch.full((1, 1, 1), -0.2, dtype=torch.float64),
        "no rows": torch.zeros(4, 0, 3, dtype=torch.float64),
        "no columns": torch.zeros(4, 3, 0, dtype=torch.float64),
    }
    cases = {name: weight.to(dtype) for name, weight in cases.items()}
    cases["not contiguous"] = normal.to(dtype).transpose(1, 2)
    cases["every other"] = normal.to(dtype)[:, ::2, ::3]
    return cases


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_extreme_weights_give_finite_values_gradients_and_equal_planes(name: str, dtype: torch.dtype) -> None:
    for case, weight in extremes(dtype).items():
        quantizer = prepared(name, weight)
        curvature = moments(weight)
        leaf = weight.clone().requires_grad_()
        torch.manual_seed(0)
        quantized = quantizer(leaf, curvature)
        assert quantized.dtype == dtype, case
        assert quantized.shape == weight.shape, case
        assert torch.isfinite(quantized).all(), case
        (gradient,) = torch.autograd.grad(quantized.sum(), leaf)
        assert torch.isfinite(gradient).all(), case
        if quantizer.bits == 1:
            assert (quantized != 0).all(), case
        torch.manual_seed(0)
        planes = quantizer.bitplanes(weight, curvature)
        assert torch.equal(planes.dense(), quantized), case
        assert planes.bits == quantizer.bits, case


@settings(max_examples=15)
@given(weights(), st.sampled_from(DTYPES), st.booleans())
@pytest.mark.parametrize("name", NAMES)
def test_planes_levels_and_gradient(name: str, weight: Tensor, dtype: torch.dtype, training: bool) -> None:
    weight = weight.to(dtype)
    quantizer = prepared(name, weight).train(training)
    leaf = weight.clone().requires_grad_()
    torch.manual_seed(3)
    quantized = quantizer(leaf, moments(weight))
    torch.manual_seed(3)
    planes = quantizer.bitplanes(weight, moments(weight))
    assert torch.equal(planes.dense(), quantized)

    groups = quantized.flatten(0, 1) if quantizer.per_row else quantized
    allowed = {
        "uniform": 2**quantizer.bits - 1,
        "lsq": 2**quantizer.bits - 1,
        "alternating": 2**quantizer.bits,
    }
    most = allowed.get(name.split(":")[0], {1: 2, 2: 3}[min(quantizer.bits, 2)])
    assert max(len(torch.unique(group)) for group in groups) <= most

    if quantizer.gradient == "straight-through":
        upstream = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
        (gradient,) = torch.autograd.grad(quantized, leaf, upstream)
        assert torch.equal(gradient, upstream)


@settings(max_examples=10)
@given(weights())
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("lsq")])
def test_a_gate_is_quantized_as_if_it_were_alone(name: str, weight: Tensor) -> None:
    if name in ("sbn", "stn"):
        return  # W0 depends on the rows of all gates together
    quantizer = FACTORIES[name]().eval()
    curvature = moments(weight)
    whole = quantizer(weight, curvature)
    for gate in range(len(weight)):
        alone = quantizer(weight[gate : gate + 1], curvature[gate : gate + 1])
        assert torch.equal(whole[gate], alone[0])
    if quantizer.per_row:
        for row in range(weight.shape[1]):
            alone = quantizer(weight[:, row : row + 1], curvature[:, row : row + 1])
            assert torch.equal(whole[:, row], alone[:, 0])


@pytest.mark.parametrize("name", ["sbn", "stn", "lsq:3", "lsq:4,per_row"])
def test_values_of_one_gate_do_not_touch_another(name: str) -> None:
    weight = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    quantizer = prepared(name, weight).eval()
    before = quantizer(weight)
    changed = weight.clone()
    changed[1] *= -7
    after = quantizer(changed)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("name", NAMES)
def test_eval_is_deterministic_and_training_samples_only_where_asked(name: str) -> None:
    weight = torch.randn(2, 8, 9, generator=torch.Generator().manual_seed(0)) / 10
    quantizer = prepared(name, weight)
    samples = "stochastic" in name or name in ("sbn", "stn")
    torch.manual_seed(0)
    assert torch.equal(quantizer.train()(weight), quantizer(weight)) is not samples
    assert torch.equal(quantizer.eval()(weight), quantizer(weight))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_nan_is_not_hidden(name: str, training: bool) -> None:
    weight = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    quantizer = prepared(name, weight).train(training)
    weight[1, 2, 3] = torch.nan
    assert quantizer(weight, torch.ones_like(weight))[1, 2, 3].isnan()


@pytest.mark.parametrize("name", NAMES)
def test_weight_of_another_rank_is_refused(name: str) -> None:
    quantizer = prepared(name, torch.randn(1, 3, 4))
    with pytest.raises(ValueError, match=r"weight must be .* shape \(gates, rows, cols\), got .* \(3, 4\)"):
        quantizer(torch.randn(3, 4))


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles_compute_the_same(name: str) -> None:
    weight = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    quantizer = prepared(name, weight).eval()
    expected = quantizer(weight)
    assert torch.equal(copy.deepcopy(quantizer)(weight), expected)
    assert torch.equal(pickle.loads(pickle.dumps(quantizer))(weight), expected)
    restored = prepared(name, torch.zeros_like(weight)).eval()
    restored.load_state_dict(quantizer.state_dict())
    assert torch.equal(restored(weight), expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 4 gates of 16 × 10: 640 weights; 4 bytes per scale, of which there are 4, or 64 with one per row.
        ("binary-connect", 80),
        ("ter-connect", 160),
        ("sbn", 80),
        ("stn", 160),
        ("bwn", 80 + 16),
        ("bwn:per_row", 80 + 256),
        ("twn", 160 + 16),
        ("lab", 80 + 16),
        ("lat", 160 + 16),
        ("absmean", 160 + 16),
        ("uniform:3", 240 + 16),
        ("lsq:8", 640 + 16),
        ("alternating:3", 240 + 48),
        ("alternating:3,per_row", 240 + 768),
    ],
)
def test_storage(name: str, expected: int) -> None:
    assert FACTORIES[name]().storage_bytes(4, 16, 10) == expected


@pytest.mark.parametrize(
    "name", [name for name in NAMES if not name.startswith(("binary-connect", "ter-conn"))]
)
def test_only_binary_connect_and_ter_connect_clip(name: str) -> None:
    weight = torch.tensor([[[-3.0, -0.5, 0.5, 3.0]]])
    prepared(name, weight).constrain_(weight)
    assert weight.tolist() == [[[-3.0, -0.5, 0.5, 3.0]]]


@pytest.mark.parametrize("quantizer", [BinaryConnect(), TerConnect()])
def test_clip(quantizer: BinaryConnect | TerConnect) -> None:
    weight = torch.nn.Parameter(torch.tensor([[[-3.0, -0.5, 0.5, 3.0]]]))
    quantizer.constrain_(weight)
    assert weight.tolist() == [[[-1.0, -0.5, 0.5, 1.0]]]


@pytest.mark.parametrize("quantizer", [BinaryConnect(clip=False), TerConnect(clip=False)])
def test_clip_can_be_left_out(quantizer: BinaryConnect | TerConnect) -> None:
    weight = torch.nn.Parameter(torch.tensor([[[-3.0, -0.5, 0.5, 3.0]]]))
    quantizer.constrain_(weight)
    assert weight.tolist() == [[[-3.0, -0.5, 0.5, 3.0]]]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Alternating(bits=5), ValueError, r"alternating: bits must be 1 to 4, got 5"),
        (lambda: Alternating(bits=True), TypeError, r"alternating: bits must be an int, got True"),
        (
            lambda: Alternating(iterations=-1),
            ValueError,
            r"alternating: iterations must be 0 or more, got -1",
        ),
        (lambda: Alternating(iterations=1.5), TypeError, r"alternating: iterations must be an int, got 1.5"),
        (lambda: Uniform(bits=1), ValueError, r"uniform: bits must be 2 to 8, got 1"),
        (lambda: LSQ(bits=9), ValueError, r"lsq: bits must be 2 to 8, got 9"),
        (lambda: TWN(per_row=1), TypeError, r"twn: per_row must be true or false, got 1"),
        (lambda: AbsMean(per_row="no"), TypeError, r"absmean: per_row must be true or false, got 'no'"),
        (
            lambda: BinaryConnect("yes"),
            TypeError,
            r"binary-connect: stochastic must be true or false, got 'yes'",
        ),
    ],
)
def test_options_that_do_not_fit(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]


def test_every_method_is_registered_under_its_name() -> None:
    specs = {spec.name: spec for spec in qlstm_quantizers()}
    assert set(specs) == {name.split(":")[0] for name in FACTORIES}
    for name, spec in specs.items():
        assert spec.load() is type(FACTORIES[name]()) if name in FACTORIES else True
        assert spec.references, name


def test_the_printed_form_names_the_options() -> None:
    assert str(Alternating(bits=3, per_row=True)) == "Alternating(bits=3, iterations=2, per_row=True)"
    assert str(TerConnect(stochastic=True)) == "TerConnect(stochastic=True, per_row=False, clip=True)"
    assert str(SBN()), str(STN())
