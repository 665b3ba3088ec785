"""R, SR and BC training against exact arithmetic and loops written out."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from qlstm_quant import Grid, Rounding

MODES = ("deterministic", "stochastic", "binary-connect")
steps = st.sampled_from([1.0, 0.5, 0.1, 0.3, 2.0**-7, 1e-3])
values = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=20)


def on_grid(weight: Tensor, step: float) -> bool:
    """Whether each weight is a multiple of the step, rounded to the weight's dtype."""
    index = (weight.double() / step).round()
    return torch.equal((index.to(weight.dtype) * step), weight.detach())


@given(values, steps)
def test_nearest_is_the_formula_of_the_paper(numbers: list[float], step: float) -> None:
    """sign(w)·Δ·⌊|w|/Δ + ½⌋ in exact arithmetic; halves go away from zero."""
    rounded = Grid(step).nearest(torch.tensor(numbers, dtype=torch.float64)).tolist()
    for number, ours in zip(numbers, rounded, strict=True):
        ratio = abs(Fraction(number)) / Fraction(step)
        index = (ratio + Fraction(1, 2)).__floor__()
        if abs(ratio + Fraction(1, 2) - round(ratio + Fraction(1, 2))) < 1e-9 and step in (0.1, 0.3, 1e-3):
            continue  # on the border up to float64's rounding of the quotient
        assert ours == pytest.approx((1 if number > 0 else -1) * step * index, rel=1e-12, abs=0)


def test_nearest_on_halves() -> None:
    weight = torch.tensor([-1.5, -0.5, -0.25, 0.0, 0.25, 0.5, 1.5, 2.4999])
    assert Grid(1.0).nearest(weight).tolist() == [-2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 2.0]


def test_stochastic_has_mean_w_and_the_variance_of_two_neighbours() -> None:
    step, draws = 0.25, 40_000
    row = torch.tensor([-1.1, -0.25, -0.01, 0.0, 0.06, 0.125, 0.3, 0.99])
    samples = Grid(step).stochastic(row.expand(draws, -1), torch.Generator().manual_seed(0)).double()
    below = torch.floor(row / step) * step
    assert bool(((samples == below) | (samples == below + step)).all())
    fraction = (row.double() - below) / step
    variance = step**2 * fraction * (1 - fraction)
    deviation = 5 * (variance / draws).sqrt() + 1e-7
    assert bool(((samples.mean(0) - row).abs() <= deviation).all())
    assert bool(((samples.var(0) - variance).abs() <= 5 * step**2 / draws**0.5).all())


@given(values, steps, st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_grid_points_stay(numbers: list[float], step: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    points = Grid(step).nearest(torch.tensor(numbers, dtype=dtype))
    assert torch.equal(Grid(step).nearest(points), points)
    assert torch.equal(Grid(step).stochastic(points), points)


@pytest.mark.parametrize("method", ["nearest", "stochastic"])
def test_limit_and_binary_grid(method: str) -> None:
    weight = torch.tensor([-9.0, -1.0, -0.0, 0.0, 0.04, 1.0, 9.0])
    clipped = getattr(Grid(0.1, limit=0.3), method)(weight)
    assert clipped[[0, 1, 2, 3, 5, 6]].tolist() == pytest.approx([-0.3, -0.3, 0.0, 0.0, 0.3, 0.3])
    binary = getattr(Grid.binary(0.5), method)(weight)
    assert binary[[0, 1, 5, 6]].tolist() == [-0.5, -0.5, 0.5, 0.5]
    assert set(binary.tolist()) == {-0.5, 0.5}


def test_binary_grid_rounds_to_the_sign_and_samples_as_binary_connect_does() -> None:
    assert Grid.binary().nearest(torch.tensor([-0.2, -0.0, 0.0, 0.2])).tolist() == [-1.0, 1.0, 1.0, 1.0]
    draws = 40_000
    samples = Grid.binary().stochastic(torch.full((draws,), 0.3), torch.Generator().manual_seed(0))
    # +1 with probability (0.3 + 1)/2: mean 0.3, standard deviation √(1 − 0.09).
    assert samples.mean().item() == pytest.approx(0.3, abs=5 * (0.91 / draws) ** 0.5)


def test_nan_is_not_hidden() -> None:
    weight = torch.tensor([torch.nan, 1.0])
    assert Grid(0.5).nearest(weight).isnan().tolist() == [True, False]
    assert Grid(0.5, limit=2.0).stochastic(weight).isnan().tolist() == [True, False]


def regression() -> tuple[nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(6, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 6, generator=generator))
        model.bias.copy_(torch.randn(2, generator=generator))
    x = torch.randn(50, 6, generator=generator)
    return model, x, x @ torch.randn(6, 2, generator=generator)


def train_step(model: nn.Linear, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    ((model(x) - y) ** 2).mean().backward()
    optimizer.step()


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
@pytest.mark.parametrize("mode", MODES)
def test_weights_are_on_the_grid_after_every_step(
    mode: str, optimizer_class: type[torch.optim.Optimizer]
) -> None:
    model, x, y = regression()
    optimizer = optimizer_class(model.parameters(), lr=0.05)  # type: ignore[call-arg]
    rounding = Rounding([model.weight], optimizer, 0.1, mode=mode)  # type: ignore[arg-type]
    assert rounding.weights == 12
    assert on_grid(model.weight, 0.1)
    start, bias = model.weight.detach().clone(), model.bias.detach().clone()
    for _ in range(20):
        before = model.weight.detach().clone()
        train_step(model, optimizer, x, y)
        assert on_grid(model.weight, 0.1)
        assert rounding.changed_last_step == int((model.weight != before).sum())
        assert rounding.changed_since_start == int((model.weight != start).sum())
    assert rounding.changed_since_start > 0
    assert not torch.equal(model.bias, bias)
    assert not on_grid(model.bias, 0.1)


def test_deterministic_rounding_undoes_steps_below_half_the_grid_and_binary_connect_adds_them_up() -> None:
    """Li et al.'s reason why BC trains where R stalls: ten steps of 0.12 Δ each."""
    reached = {}
    for mode in ("deterministic", "binary-connect"):
        weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=0.12)
        rounding = Rounding([weight], optimizer, 1.0, mode=mode)  # type: ignore[arg-type]
        changes, path = [], []
        for _ in range(10):
            weight.grad = torch.tensor([1.0, 0.0], dtype=torch.float64)
            optimizer.step()
            changes.append(rounding.changed_last_step)
            path.append(weight.tolist())
        reached[mode] = (changes, path[-1])
    assert reached["deterministic"] == ([0] * 10, [1.0, 2.0])
    # v = 1 − 0.12 t falls below ½ at the fifth step, to 0.4; it ends at −0.2, whose nearest point is 0.
    assert reached["binary-connect"] == ([0, 0, 0, 0, 1, 0, 0, 0, 0, 0], [0.0, 2.0])


def test_stochastic_rounding_moves_by_small_steps_on_average() -> None:
    weight = nn.Parameter(torch.full((40_000,), 3.0))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    rounding = Rounding([weight], optimizer, 1.0, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    # Mean 3 − 5 · 0.1, variance 5 · 0.1 · 0.9.
    assert weight.mean().item() == pytest.approx(2.5, abs=5 * (0.45 / 40_000) ** 0.5)
    assert weight.var().item() == pytest.approx(0.45, rel=0.05)
    assert rounding.changed_last_step / rounding.weights == pytest.approx(0.1, abs=0.01)


def test_binary_connect_with_adam_is_the_papers_loop() -> None:
    """w = Q(v); v ← Adam(v, ∇f(w)), written out with two separate tensors, v clipped to the limit."""
    model, x, y = regression()
    grid = Grid(0.25, limit=1.0)
    real = nn.Parameter(model.weight.detach().clone())
    bias = nn.Parameter(model.bias.detach().clone())
    reference = torch.optim.Adam([real, bias], lr=0.03)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    Rounding([model.weight], optimizer, grid, mode="binary-connect")
    for _ in range(30):
        train_step(model, optimizer, x, y)
        rounded = (torch.sign(real) * 0.25 * torch.floor(real.abs() / 0.25 + 0.5)).clamp(-1, 1).detach()
        rounded.requires_grad_()
        loss = ((x @ rounded.T + bias - y) ** 2).mean()
        reference.zero_grad()
        loss.backward()
        real.grad = rounded.grad
        reference.step()
        with torch.no_grad():
            real.clamp_(-1, 1)
    expected = (torch.sign(real) * 0.25 * torch.floor(real.abs() / 0.25 + 0.5)).clamp(-1, 1)
    assert torch.equal(model.weight, expected)
    torch.testing.assert_close(model.bias, bias)


@pytest.mark.parametrize("own_generator", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(mode: str, own_generator: bool) -> None:
    def build() -> tuple[nn.Linear, torch.optim.Optimizer, Rounding, Tensor, Tensor]:
        model, x, y = regression()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        generator = torch.Generator().manual_seed(7) if own_generator else None
        return (
            model,
            optimizer,
            Rounding([model.weight], optimizer, 0.1, mode=mode, generator=generator),
            x,
            y,
        )  # type: ignore[arg-type]

    torch.manual_seed(11)
    model, optimizer, rounding, x, y = build()
    for _ in range(8):
        train_step(model, optimizer, x, y)
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rounding": rounding.state_dict(),
    }
    saved = {name: {**state} for name, state in saved.items()}
    saved["model"] = {name: tensor.clone() for name, tensor in saved["model"].items()}
    random_state = torch.get_rng_state()
    optimizer_state = optimizer.state_dict()["state"]
    saved["optimizer"] = {
        **saved["optimizer"],
        "state": {k: {n: t.clone() for n, t in v.items()} for k, v in optimizer_state.items()},
    }
    for _ in range(8):
        train_step(model, optimizer, x, y)

    torch.manual_seed(99)
    resumed, optimizer_2, rounding_2, x, y = build()
    resumed.load_state_dict(saved["model"])
    optimizer_2.load_state_dict(saved["optimizer"])
    rounding_2.load_state_dict(saved["rounding"])
    torch.set_rng_state(random_state)
    for _ in range(8):
        train_step(resumed, optimizer_2, x, y)
    assert torch.equal(resumed.weight, model.weight)
    assert torch.equal(resumed.bias, model.bias)
    assert rounding_2.changed_since_start == rounding.changed_since_start
    assert rounding_2.changed_last_step == rounding.changed_last_step


def test_state_can_be_saved_and_safely_loaded(tmp_path: object) -> None:
    model, x, y = regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rounding = Rounding(
        [model.weight], optimizer, 0.1, mode="binary-connect", generator=torch.Generator().manual_seed(0)
    )
    train_step(model, optimizer, x, y)
    path = f"{tmp_path}/rounding.pt"
    torch.save(rounding.state_dict(), path)
    state = torch.load(path, weights_only=True)
    assert torch.equal(state["real"][0], rounding.state_dict()["real"][0])
    rounding.load_state_dict(state)


def test_removed_it_leaves_the_optimizer_alone() -> None:
    model, x, y = regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rounding = Rounding(model.parameters(), optimizer, 0.5)
    rounding.remove()
    train_step(model, optimizer, x, y)
    assert not on_grid(model.weight, 0.5)


def test_arguments_that_do_not_fit() -> None:
    model, _, _ = regression()
    optimizer = torch.optim.SGD([model.weight], lr=0.1)
    with pytest.raises(
        ValueError, match=r"mode must be one of 'deterministic', 'stochastic', 'binary-connect'"
    ):
        Rounding([model.weight], optimizer, 0.1, mode="SR")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"params must hold at least one parameter"):
        Rounding([], optimizer, 0.1)
    with pytest.raises(ValueError, match=r"params\[1\], of shape \(2,\), is not one of the optimizer's"):
        Rounding(model.parameters(), optimizer, 0.1)
    with pytest.raises(ValueError, match=r"step must be positive and finite, got 0"):
        Rounding([model.weight], optimizer, 0)
    with pytest.raises(ValueError, match=r"limit must leave at least one grid point of step 1.0, got -1"):
        Grid(1.0, limit=-1)
    state = Rounding([model.weight], optimizer, 0.1).state_dict()
    other = Rounding([model.weight], optimizer, 0.1, mode="binary-connect")
    with pytest.raises(
        ValueError, match=r"state\['real'\] holds tensors of shapes \[\], expected \[\(2, 6\)\]"
    ):
        other.load_state_dict(state)
    seeded = Rounding([model.weight], optimizer, 0.1, generator=torch.Generator())
    with pytest.raises(ValueError, match="generator of its own"):
        seeded.load_state_dict(state)
