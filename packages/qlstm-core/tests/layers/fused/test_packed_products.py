"""Layers with packed products compute what exact ones do, to the rounding of activations and gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from fused_cases import CELLS, NORMALIZERS
from fused_cases import normalizer as make_normalizer
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_layers import Free, Grid, Plain, RowLength, Sign, Ternary
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from qlstm_core import LSTM, Normalizer, Quantizer, RecurrentLayer, readable_loop, straight_through
from qlstm_core.kernels import threads
from qlstm_core.layers.fused import plan, tape

BOUNDS = {"packed16": 1e-3, "packed12": 1.6e-2}
"""Relative error of outputs, and of all gradients together, with normalisers that amplify what is rounded."""


class Through(Quantizer):
    """Another quantizer with the gradient of the identity."""

    def __init__(self, inner: Quantizer) -> None:
        super().__init__()
        self.inner, self.bits, self.scales, self.per_row = inner, inner.bits, inner.scales, inner.per_row

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return straight_through(weight, self.inner(weight).detach())


QUANTIZERS = {"plain": Plain, "sign": Sign, "ternary": Ternary, "grid": Grid, "free": Free}


def normalizer_of(name: str, cell: str = "lstm") -> Normalizer | str:
    """Return a normaliser of pre-activations, and with ``"layer"`` of the cell state; or one of weights."""
    if name == "none":
        return "none"
    of_state = name == "layer" and cell != "gru"
    return RowLength() if name == "rows" else make_normalizer(name, cell=of_state, eps=0.01)


def results(layer: RecurrentLayer, x: Any, state: Any = None) -> tuple[Tensor, Tensor]:
    """Return outputs and final states, and all gradients, each in one vector."""
    output, final = layer(x, state)
    data = output.data if isinstance(output, PackedSequence) else output
    finals = [final] if isinstance(final, Tensor) else list(final)
    torch.manual_seed(1)
    loss = sum((t * torch.randn_like(t)).sum() for t in (data, *finals))
    leaves = [p for p in layer.parameters() if p.requires_grad]
    if isinstance(x, Tensor) and x.requires_grad:
        leaves.append(x)
    if state is not None:
        leaves += [state] if isinstance(state, Tensor) else list(state)
    gradients = torch.autograd.grad(loss, leaves)
    return torch.cat([t.detach().flatten() for t in (data, *finals)]), torch.cat(
        [g.flatten() for g in gradients]
    )


def errors(layer: RecurrentLayer, products: str, x: Any, state: Any = None) -> list[float]:
    """Return the relative errors of outputs and gradients against the readable loop."""
    packed = copy.deepcopy(layer)
    packed.products = products
    got = results(packed, x, state)
    with readable_loop():
        expected = results(layer, x, state)
    return [float((a - b).norm() / b.norm()) for a, b in zip(got, expected, strict=True)]


def drawn_state(layer: RecurrentLayer, batch: int) -> Any:
    cells = layer.num_layers * layer.num_directions
    sizes = [layer.output_size] + [layer.hidden_size] * (len(layer.cell.states) - 1)
    drawn = [torch.rand(cells, batch, n, requires_grad=True) for n in sizes]
    return tuple(drawn) if len(drawn) > 1 else drawn[0]


@settings(max_examples=40)
@given(
    st.fixed_dictionaries(
        {
            "cell": st.sampled_from(sorted(CELLS)),
            "normalizer": st.sampled_from(["none", "rows", *sorted(NORMALIZERS)]),
            "quantizer": st.sampled_from(sorted(QUANTIZERS)),
            "products": st.sampled_from(sorted(BOUNDS)),
            "kind": st.sampled_from(["vectors", "tokens", "packed"]),
            "steps": st.integers(1, 7),
            "batch": st.sampled_from([2, 3, 17, 64]),
            "width": st.integers(4, 20),
            "wide": st.booleans(),
            "layers": st.integers(1, 2),
            "bidirectional": st.booleans(),
            "given_state": st.booleans(),
            "seed": st.integers(0, 9999),
        }
    )
)
def test_packed_products_are_exact_ones_to_rounding(case: dict[str, Any]) -> None:
    torch.manual_seed(case["seed"])
    features, batch = (80 if case["wide"] else 2 * case["width"]), case["batch"]
    layer = CELLS[case["cell"]](
        features,
        4 * case["width"],
        num_layers=case["layers"],
        bidirectional=case["bidirectional"],
        quantizer=Through(QUANTIZERS[case["quantizer"]]()),
        normalizer=normalizer_of(case["normalizer"], case["cell"]),
    )
    x: Any = torch.randn(case["steps"], batch, features, requires_grad=True)
    if case["kind"] == "tokens":
        x = torch.randint(features, (case["steps"], batch))
    elif case["kind"] == "packed":
        lengths = [case["steps"], case["steps"], *torch.randint(1, case["steps"] + 1, (batch - 2,)).tolist()]
        x = pack_padded_sequence(x.detach(), lengths, enforce_sorted=False)
    state = drawn_state(layer, batch) if case["given_state"] else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "CHUNK", 400)
        assert max(errors(layer, case["products"], x, state)) <= BOUNDS[case["products"]]


@pytest.mark.parametrize("products", sorted(BOUNDS))
def test_rounding_is_as_fine_as_asked_for(products: str) -> None:
    """The relative errors that docs/training-speed.md states, of a product, hold for a whole plain layer."""
    torch.manual_seed(0)
    layer = LSTM(70, 200, quantizer=Through(Plain()), normalizer="none")
    with torch.no_grad():
        layer.weight_ih_l0 /= 4
    found = errors(layer, products, torch.randn(20, 16, 70))
    coarse = {"packed16": 1e-4, "packed12": 2e-3}[products]
    assert coarse / 50 <= min(found) <= max(found) <= coarse


@pytest.mark.parametrize("normalizer", ["layer", "batch-shared", "none"])
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_two_threads_compute_what_one_does(
    cell: str, normalizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "WORTH_A_THREAD", 0)
    torch.manual_seed(0)
    layer = CELLS[cell](
        70, 96, num_layers=2, quantizer=Through(Sign()), normalizer=normalizer_of(normalizer, cell)
    )
    layer.products = "packed16"
    x = torch.randn(6, 19, 70, requires_grad=True)
    before = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(results(layer, x))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5 * float(one.abs().max()))


def test_gradients_that_vanish_or_explode_do_so_all_the_same() -> None:
    """Through 300 steps; float32 ends at 1e-45, and beyond 3e38 there is NaN."""
    for scale, normalizer in ((0.02, "none"), (1.0, "none")):
        torch.manual_seed(0)
        layer = LSTM(5, 32, quantizer={"hh": Through(Plain())}, normalizer=normalizer)
        x = torch.randn(300, 2, 5)
        growths = []
        for products in ("exact", "packed16"):
            layer.products = products
            h, c = (torch.zeros(1, 2, 32, requires_grad=True) for _ in range(2))
            y, _ = layer(scale * x, (h, c))
            growths.append(torch.autograd.grad(y[-1].sum() * scale * 1e-30, [h, c])[1])
        exact, packed = growths
        assert torch.equal(exact.isfinite(), packed.isfinite())
        assert (exact.abs().log10() - packed.abs().log10()).abs().nan_to_num(posinf=0).max() < 0.3


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_spreads_as_with_exact_products(value: float) -> None:
    torch.manual_seed(0)
    layer = LSTM(5, 24, quantizer=Through(Ternary()), normalizer=make_normalizer("layer"))
    x, h = torch.randn(4, 3, 5), torch.zeros(1, 3, 24)
    h[0, 1, 2] = value
    found = []
    for products in ("exact", "packed16"):
        layer.products = products
        state = (h.clone().requires_grad_(), torch.zeros_like(h).requires_grad_())
        found.append(results(layer, x, state))
    for exact, packed in zip(*found, strict=True):
        assert not exact.isfinite().all()
        assert torch.equal(exact.isfinite(), packed.isfinite())


def test_where_products_are_packed_and_where_not() -> None:
    def said(layer: RecurrentLayer, **options: Any) -> str:
        layer.products = "packed16"
        (route,) = layer.routes(**options)
        return str(route)

    sign = Through(Sign())
    assert said(LSTM(70, 8, quantizer=sign)) == (
        "fused: torch has no operator for packed bits; "
        "packed16 products with the input's weight and the recurrent weight"
    )
    assert said(LSTM(70, 8, quantizer=sign), tokens=True) == (
        "fused: tokens pick columns of the weight; packed16 products with the recurrent weight"
    )
    assert said(LSTM(70, 8, quantizer={"hh": sign}, normalizer=make_normalizer("layer"))) == (
        "fused: FeatureNorm acts on activations; packed16 products with the recurrent weight; "
        "exact ones with the input's weight, of more or other levels"
    )
    assert said(LSTM(70, 8)) == (
        "torch: nothing acts between the products and the gates; exact products: no weight has few levels"
    )
    assert said(LSTM(70, 8, quantizer=sign, dtype=torch.float64)) == (
        "torch: nothing acts between the products and the gates; exact products: others need float32 on a CPU"
    )
    with readable_loop():
        assert said(LSTM(70, 8, quantizer=sign)) == (
            "loop: readable_loop() is active; exact products: the loop has no others"
        )


def test_products_are_named_and_stay_with_copies() -> None:
    layer = LSTM(3, 4, quantizer=Through(Sign()))
    assert layer.products == "exact"
    with pytest.raises(ValueError, match=r"products must be one of .* got 'packed' \(did you mean 'packed"):
        layer.products = "packed"
    layer.products = "packed12"
    assert copy.deepcopy(layer).products == "packed12"
    assert repr(layer).endswith("products='packed12')")
    assert "products" not in layer.state_dict()
    assert tape.WORTH_KEEPING < 70, "features of an input whose product is kept, above"
