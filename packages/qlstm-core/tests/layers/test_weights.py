"""How a layer uses quantizers and normalisers: once per forward call, each on its own matrix or path."""

from __future__ import annotations

import pytest
import torch
from recurrent_cases import RowNorm, Sign, StepGain, WithCell
from torch import Tensor

from qlstm_core import GRU, LSTM, Normalizer, Quantizer, straight_through


def plain_lstm(layer: LSTM, x: Tensor, gains: dict[str, Tensor], wx: Tensor, wh: Tensor) -> Tensor:
    """Hou et al.'s normalised LSTM with StepGain, written out gate by gate."""
    hidden = layer.hidden_size
    h, c = torch.zeros(x.shape[1], hidden), torch.zeros(x.shape[1], hidden)
    outputs = []
    for t in range(len(x)):
        a = []
        for k in range(4):
            rows = slice(k * hidden, (k + 1) * hidden)
            from_x = x[t] @ wx[rows].T * gains["ih"] / (1 + t)
            from_h = h @ wh[rows].T * gains["hh"] / (1 + t)
            a.append(from_x + from_h + layer.bias_ih_l0[rows])
        c = a[1].sigmoid() * c + a[0].sigmoid() * a[2].tanh()
        h = a[3].sigmoid() * (c * gains["cell"] / (1 + t)).tanh()
        outputs.append(h)
    return torch.stack(outputs)


def test_equals_the_paper_written_out() -> None:
    torch.manual_seed(0)
    layer = LSTM(3, 4, quantizer=Sign(), normalizer=WithCell())
    for norm in layer.normalizers.values():
        norm.gain.data.uniform_(0.5, 2)
    gains = {key.removesuffix("_l0"): norm.gain for key, norm in layer.normalizers.items()}
    x = torch.randn(5, 2, 3)
    signs = [torch.where(w < 0, -1.0, 1.0) for w in (layer.weight_ih_l0, layer.weight_hh_l0)]
    torch.testing.assert_close(layer(x)[0], plain_lstm(layer, x, gains, *signs))


def test_straight_through_gradient_reaches_the_full_precision_weight() -> None:
    """∂loss/∂W is ∂loss/∂Q(W), taken at the quantized weight."""
    torch.manual_seed(0)
    layer = LSTM(3, 4, quantizer=Sign())
    reference = torch.nn.LSTM(3, 4)
    reference.load_state_dict(layer.state_dict())
    for name, weight in reference.named_parameters():
        if name.startswith("weight"):
            weight.data = torch.where(weight.data < 0, -1.0, 1.0)
    x = torch.randn(5, 2, 3)
    layer(x)[0].sum().backward()
    reference(x)[0].sum().backward()
    for mine, their in zip(layer.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, their.grad)


class Counting(Sign):
    calls = 0

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        Counting.calls += 1
        assert weight.dim() == 3
        return super().forward(weight, curvature)


def test_weights_are_quantized_once_per_forward_call() -> None:
    layer = LSTM(3, 4, 2, bidirectional=True, quantizer=Counting(), normalizer=StepGain())
    Counting.calls = 0
    layer(torch.randn(7, 2, 3))
    assert Counting.calls == 2 * 2 * 2


def test_different_quantizers_on_input_and_recurrent_weights() -> None:
    layer = LSTM(3, 4, proj_size=2, quantizer={"hh": Sign(), "hr": Sign()})
    weights = layer.quantized_weights()
    assert torch.equal(weights["ih"].flatten(0, 1), layer.weight_ih_l0)
    assert weights["hh"].abs().unique().tolist() == [1.0]
    assert weights["hr"].abs().unique().tolist() == [1.0]


def test_different_normalisers_on_input_and_recurrent_paths() -> None:
    layer = LSTM(3, 4, normalizer={"ih": RowNorm(), "hh": StepGain()})
    assert [type(n) for n in layer.normalizers.values()] == [RowNorm, StepGain]
    assert layer(torch.randn(5, 2, 3))[0].shape == (5, 2, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"quantizer": {"hx": "none"}}, ValueError, r"quantizer has unknown keys \['hx'\]; allowed: ih, hh"),
        (
            {"normalizer": {"hr": "none"}},
            ValueError,
            r"normalizer has unknown keys \['hr'\]; allowed: ih, hh",
        ),
        ({"quantizer": 1}, TypeError, "quantizer must be a name or a Quantizer, got int: 1"),
        ({"normalizer": Sign()}, TypeError, "normalizer must be a name or a Normalizer, got Sign"),
        ({"quantizer": "nona"}, ValueError, "nona.*none"),
    ],
    ids=str,
)
def test_bad_quantizers_and_normalisers(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LSTM(3, 4, **arguments)


def test_a_normalised_layer_has_one_bias() -> None:
    names = [name for name, _ in LSTM(3, 4, normalizer=StepGain()).named_parameters() if "bias" in name]
    assert names == ["bias_ih_l0"]


class Step(Quantizer):
    """Learns a step size, as LSQ does."""

    bits = 2
    gradient = "custom"

    def prepare(self, weight: Tensor) -> None:
        self.step = torch.nn.Parameter(weight.abs().mean(dim=(1, 2)))

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        step = self.step.view(-1, 1, 1)
        return step * straight_through(weight / step, (weight / step).round().clamp(-1, 1))


def test_prepared_state_belongs_to_each_matrix_and_survives_reset() -> None:
    torch.manual_seed(0)
    template = Step()
    layer = LSTM(3, 4, 2, quantizer=template, normalizer=StepGain())
    steps = {name: p for name, p in layer.named_parameters() if name.startswith("quantizers")}
    assert set(steps) == {f"quantizers.{key}_l{k}.step" for key in ("ih", "hh") for k in (0, 1)}
    expected = layer.weight_hh_l1.view(4, 4, 4).abs().mean(dim=(1, 2))
    assert torch.equal(steps["quantizers.hh_l1.step"], expected)
    assert not list(template.parameters())
    layer.reset_parameters()
    after = dict(layer.named_parameters())
    assert all(after[name] is p for name, p in steps.items())
    expected = layer.weight_hh_l1.view(4, 4, 4).abs().mean(dim=(1, 2))
    assert torch.equal(after["quantizers.hh_l1.step"], expected)


class Placed(Normalizer):
    """Writes down what it knows of its place when it is prepared."""

    cell = True

    def prepare(self, weight: Tensor) -> None:
        self.known = (self.side, self.tokens, tuple(weight.shape))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return preactivation


@pytest.mark.parametrize("tokens", [False, True])
def test_a_normaliser_knows_its_side_and_the_kind_of_input_before_it_is_prepared(tokens: bool) -> None:
    template = Placed()
    layer = LSTM(3, 4, 2, bidirectional=True, normalizer=template, tokens=tokens)
    known = {key: norm.known for key, norm in layer.normalizers.items()}
    for end in ("", "_reverse"):
        for k, cols in ((0, 3), (1, 8)):
            assert known[f"ih_l{k}{end}"] == ("ih", tokens and k == 0, (4, 4, cols))
            assert known[f"hh_l{k}{end}"] == ("hh", False, (4, 4, 4))
            assert known[f"cell_l{k}{end}"] == ("cell", False, (1, 4, 0))
    assert (template.side, template.tokens) == (None, False)


def test_a_layer_for_tokens_says_so_and_takes_both_kinds_of_input() -> None:
    layer = LSTM(3, 4, tokens=True)
    assert repr(layer) == "LSTM(3, 4, tokens=True)"
    assert [layer.routes()[0].kind, layer.routes(tokens=False)[0].kind] == ["fused", "torch"]
    one_hot = torch.nn.functional.one_hot(torch.tensor([[0], [2]]), 3).float()
    torch.testing.assert_close(layer(torch.tensor([[0], [2]]))[0], layer(one_hot)[0])
    with pytest.raises(TypeError, match="tokens must be True or False, got 1"):
        GRU(3, 4, tokens=1)


def test_what_depends_on_weights_starts_anew_from_weights_that_were_set() -> None:
    layer = LSTM(3, 4, quantizer=Step(), normalizer=StepGain())
    step = layer.quantizers["hh_l0"].step
    layer.fill_("weight_hh_l0", lambda weight: weight.fill_(0.25))
    layer.prepare_from_weights()
    assert layer.quantizers["hh_l0"].step is step
    assert torch.equal(step, torch.full((4,), 0.25))


class Clip(Sign):
    def constrain_(self, weight: Tensor) -> None:
        weight.clamp_(-1, 1)


def test_constrain_applies_each_quantizers_own_constraint() -> None:
    layer = LSTM(3, 4, quantizer={"hh": Clip()})
    with torch.no_grad():
        layer.weight_ih_l0.fill_(3.0)
        layer.weight_hh_l0.fill_(-3.0)
    layer.constrain_()
    assert layer.weight_ih_l0.unique().tolist() == [3.0]
    assert layer.weight_hh_l0.unique().tolist() == [-1.0]


def test_state_quantizers_cannot_learn() -> None:
    with pytest.raises(ValueError, match="state_quantizer Step learns parameters"):
        LSTM(3, 4, state_quantizer=Step())


class Halves(Quantizer):
    """Rounds a state to multiples of a half, and checks that each sequence comes as a matrix of its own."""

    bits = 3

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        assert weight.shape[1] == 1
        return straight_through(weight, (weight * 2).round() / 2)


def test_state_quantizer_acts_where_the_state_enters_a_product() -> None:
    torch.manual_seed(0)
    layer = LSTM(3, 4, 2, state_quantizer=Halves())
    plain = LSTM(3, 4, 2)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3)
    lower, upper = LSTM(3, 4), LSTM(4, 4)
    for k, cell in enumerate((lower, upper)):
        for name, _ in cell.named_parameters():
            getattr(cell, name).data = getattr(layer, name.replace("l0", f"l{k}")).data

    def run(cell: LSTM, inputs: Tensor) -> Tensor:
        state = (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
        outputs = []
        for frame in inputs:
            y, (h, c) = cell(frame.unsqueeze(0), state)
            outputs.append(y)
            state = ((h * 2).round() / 2, c)
        return torch.cat(outputs)

    expected = run(upper, (run(lower, x) * 2).round() / 2)
    torch.testing.assert_close(layer(x)[0], expected)
    assert not torch.allclose(plain(x)[0], expected)
