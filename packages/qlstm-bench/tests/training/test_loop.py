"""What the loop computes, step by step, against a plain loop over the same model."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from qlstm_bench.config import RunConfig
from qlstm_bench.tasks import Task
from qlstm_bench.tasks.task import TaskSpec
from qlstm_bench.training.random_state import random_state, restore_random_state
from qlstm_bench.training.run import Outcome, train
from qlstm_core import LSTM, RecurrentLayer
from qlstm_core.plugins import hookimpl, registry

STEPS_PER_EPOCH = 3


class Net(nn.Module):
    """A recurrent layer, and one number from its state."""

    def __init__(self, quantizer: str, normalizer: str) -> None:
        super().__init__()
        self.recurrent = LSTM(1, 2, quantizer=quantizer, normalizer=normalizer)
        self.output = nn.Linear(2, 1)

    def forward(self, sequence: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        h, state = self.recurrent(sequence, state)
        return self.output(h), state


class Toy(Task):
    """Every step has a batch of its own; figures of validation are given; all calls are noted."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "data": "toy", "hidden": 2, "batch": 3, "lr": 0.5, "clip": 0.3, "optimizer": "sgd", "device": "cpu",
        "log_every": 2,
    }  # fmt: skip
    metric = "score"
    metric_title = "score"
    dataset = "toy"
    dataset_sha256 = "0" * 64
    steps_per_epoch = STEPS_PER_EPOCH
    carried: ClassVar[list[bool]] = []
    trained_in: ClassVar[list[bool]] = []
    evaluated: ClassVar[list[tuple[str, bool, bool, dict[str, Tensor]]]] = []
    figures: ClassVar[list[float]] = []

    def prepare(self, config: RunConfig) -> None:
        pass

    def model(self, quantizer: str, normalizer: str) -> Net:
        return Net(quantizer, normalizer)

    def recurrent(self, model: nn.Module) -> RecurrentLayer:
        layer = model.recurrent
        assert isinstance(layer, RecurrentLayer)
        return layer

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(step)
        return torch.randn(4, 3, 1, generator=draw), torch.randn(4, 3, 1, generator=draw) * (1 + step)

    def loss(self, model: nn.Module, batch: Any, state: Any) -> tuple[Tensor, Any]:
        self.carried.append(state is not None)
        (net,) = (module for module in model.modules() if isinstance(module, Net))  # Fabric wraps it
        self.trained_in.append(net.training)
        return plain_loss(model, batch, state)

    def evaluate(self, model: nn.Module, split: str) -> float:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        self.evaluated.append((split, model.training, torch.is_grad_enabled(), state))
        return -7.0 if split == "test" else self.figures.pop(0) if self.figures else 1.0

    def final_step_loss(self, model: nn.Module) -> Tensor:
        output, _ = model(self.batch(0)[0].to(next(model.parameters()).dtype))
        return output[-1].square().mean()

    def baseline(self) -> float:
        return 100.0

    def quantized_lr(self, layer: RecurrentLayer) -> float:
        return 3.0


def plain_loss(model: nn.Module, batch: Any, state: Any) -> tuple[Tensor, Any]:
    output, state = model(batch[0], state)
    return (output - batch[1]).square().mean(), tuple(part.detach() for part in state)


class Plugin:
    @hookimpl
    def qlstm_tasks(self) -> Iterator[TaskSpec]:
        yield TaskSpec(name="toy", summary="a toy", factory=Toy)


@pytest.fixture(autouse=True)
def _toy() -> Iterator[None]:
    registry.register(Plugin(), "toy")
    for noted in (Toy.carried, Toy.trained_in, Toy.evaluated, Toy.figures):
        noted.clear()
    yield
    registry.unregister("toy")


def run(**settings: Any) -> Outcome:
    return train({"task": "toy", **settings}, "runs", force=True)


@pytest.mark.parametrize(
    ("clipping", "average_of"), [("global", "all"), ("apart", "all"), ("recurrent", "recurrent")]
)
def test_every_step_is_that_of_a_plain_loop(clipping: str, average_of: str) -> None:
    """Seed, batches, carried states, clipping, optimizer, average and logged figures."""
    torch.randn(5)  # whatever was drawn before
    outcome = run(steps=8, seed=3, average=0.75, average_of=average_of, clipping=clipping)
    torch.manual_seed(3)
    net, toy = Net("none", "none"), Toy()
    average: dict[str, Tensor] = {}
    losses, norms, clipped, state = [], [], [], None
    for step in range(8):
        loss, state = plain_loss(net, toy.batch(step), None if step % STEPS_PER_EPOCH == 0 else state)
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        losses.append(loss.item())
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        inner, outer = gradients[:-2], gradients[-2:]
        groups = {"global": [gradients], "apart": [inner, outer], "recurrent": [inner]}[clipping]
        clipped.append(False)
        for group in groups:
            scale = 0.3 / torch.cat([gradient.flatten() for gradient in group]).norm()
            clipped[-1] |= scale.item() < 1
            for gradient in group:
                gradient *= min(1.0, scale.item())
        with torch.no_grad():
            for (name, parameter), gradient in zip(net.named_parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
                kept = 0.75 if average_of == "all" or name.startswith("recurrent.") else 0.0
                average[name] = kept * average.get(name, parameter) + (1 - kept) * parameter
    rows = [row for row in outcome.run.metrics() if "train_loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert [row["epoch"] for row in rows] == pytest.approx([2 / 3, 4 / 3, 2, 8 / 3])
    for row, (first, second) in zip(rows, ((0, 1), (2, 3), (4, 5), (6, 7)), strict=True):
        assert row["train_loss"] == pytest.approx((losses[first] + losses[second]) / 2, rel=1e-4)
        assert row["gradient_norm"] == pytest.approx(max(norms[first], norms[second]), rel=1e-4)
        assert row["clipped"] == (clipped[first] + clipped[second]) / 2
    assert outcome.result.metrics["largest_gradient_norm"] == pytest.approx(max(norms), rel=1e-4)
    assert outcome.result.metrics["clipped_share"] == sum(clipped) / 8
    assert len(set(clipped)) == 2, "some are clipped, and some are not"
    for name, value in load_file(outcome.run.directory / "model.safetensors").items():
        torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "half"), [("deterministic", 0.005), ("stochastic", 0.03), ("binary-connect", 0.03)]
)
def test_every_step_of_a_rounded_run_is_that_of_a_plain_loop(mode: str, half: float) -> None:
    """Weights ±Δ/2: the nearer one, one drawn with the weight as its mean, or the sign of a real weight."""
    outcome = run(steps=9, seed=3, lr=1.0, rounding=mode, rounding_delta=2 * half, log_every=1)
    torch.manual_seed(3)
    net, toy, generator = Net("none", "none"), Toy(), torch.Generator()
    generator.manual_seed(int(torch.randint(2**62, ())))
    weights = {name: parameter for name, parameter in net.named_parameters() if ".weight_" in name}
    assert len(weights) == 2
    with torch.no_grad():
        for weight in weights.values():
            weight *= half / weight.abs().max()
    real = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def put_on_levels() -> None:
        for name, weight in weights.items():
            up = weight >= 0
            if mode == "stochastic":
                share = ((weight + half) / (2 * half)).clamp(0, 1)
                up = torch.rand(weight.shape, generator=generator) < share
            if mode == "binary-connect":
                real[name] = weight.clamp(-half, half).clone()
            weight.copy_(torch.where(up, half, -half))

    put_on_levels()
    start, state, changed = {name: weight.clone() for name, weight in weights.items()}, None, []
    for step in range(9):
        loss, state = plain_loss(net, toy.batch(step), None if step % STEPS_PER_EPOCH == 0 else state)
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        scale = min(1.0, 0.3 / torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        with torch.no_grad():
            for (name, parameter), gradient in zip(net.named_parameters(), gradients, strict=True):
                if mode == "binary-connect" and name in weights:
                    parameter.copy_(real[name])
                parameter -= scale * gradient
        put_on_levels()
        moved = sum(int((weight != start[name]).sum()) for name, weight in weights.items())
        changed.append(moved / sum(weight.numel() for weight in weights.values()))
    assert [row["changed"] for row in outcome.run.metrics()] == changed
    assert 0 < max(changed) < 1, "some move, and some do not"
    for name, value in load_file(outcome.run.directory / "model.safetensors").items():
        torch.testing.assert_close(value, net.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_the_carried_state_begins_anew_with_each_epoch() -> None:
    run(steps=8)
    assert Toy.carried == [False, True, True, False, True, True, False, True]


@pytest.mark.parametrize("quantizer", ["bwn", "none"])
def test_rates_of_quantized_weights_may_decay_alone(quantizer: str) -> None:
    """The toy's are three times the others', which stay, as all do where nothing is quantized."""
    outcome = run(epochs=3, epoch_decay=0.5, decay_of="quantized", log_every=1, quantizer=quantizer)
    rows = outcome.run.metrics()
    assert [row["lr"] for row in rows] == [0.5] * 9
    decayed = [] if quantizer == "none" else [1.5 * 0.5 ** (step // 3) for step in range(1, 10)]
    assert [row["lr_quantized"] for row in rows if "lr_quantized" in row] == decayed


def test_rates_of_a_run_decay_after_the_epochs_that_were_asked_for() -> None:
    """After step s, ⌊s/3⌋ epochs are done, of which the first two change nothing."""
    outcome = run(epochs=4, epoch_decay=0.5, epoch_decay_after=2, log_every=1)
    assert outcome.result.steps == 4 * STEPS_PER_EPOCH
    rates = [row["lr"] for row in outcome.run.metrics()]
    assert rates == [0.5 * 0.5 ** max(0, step // 3 - 2) for step in range(1, 13)]


def test_parts_are_evaluated_when_due_in_evaluation_mode_and_each_for_its_figure() -> None:
    Toy.figures[:] = [2.0, 1.5, 1.75]
    outcome = run(steps=8, eval_every=3)
    validated = [(row["step"], row["valid_score"]) for row in outcome.run.metrics() if "valid_score" in row]
    assert validated == [(3, 2.0), (6, 1.5), (8, 1.75)]
    assert [split for split, *_ in Toy.evaluated] == ["valid", "valid", "valid", "test"]
    assert all(Toy.trained_in)
    assert not any(training or gradients for _, training, gradients, _ in Toy.evaluated)
    figures = {
        name: outcome.result.metrics[name] for name in ("valid_score", "best_valid_score", "best_step")
    }
    assert figures == {"valid_score": 1.75, "best_valid_score": 1.5, "best_step": 6}
    assert outcome.result.metrics["test_score"] == -7.0
    assert outcome.result.metrics["baseline_score"] == 100.0


def test_the_weights_of_the_best_validation_are_tested_and_kept() -> None:
    Toy.figures[:] = [3.0, 2.0, 2.5, 2.0, 1.0]
    outcome = run(steps=9, eval_every=1, patience=2, lr=0.1)
    assert outcome.result.stopped_at == outcome.result.steps == 4
    best, last, tested = (Toy.evaluated[number][3] for number in (1, 3, 4))
    assert Toy.evaluated[4][0] == "test"
    kept = load_file(outcome.run.directory / "model.safetensors")
    for name, value in kept.items():
        assert torch.equal(value, best[name])
        assert torch.equal(value, tested[name])
    assert any(not torch.equal(best[name], last[name]) for name in best)
    assert outcome.result.metrics["valid_score"] == 2.0


@pytest.mark.parametrize("tested", ["best", "last"])
def test_the_weights_that_are_tested_are_those_asked_for(tested: str) -> None:
    """Of four validations the second is the best; the run goes on to its end."""
    Toy.figures[:] = [3.0, 2.0, 2.5, 2.25]
    outcome = run(steps=4, eval_every=1, tested=tested, lr=0.1)
    assert (outcome.result.stopped_at, outcome.result.steps) == (None, 4)
    states = [state for *_, state in Toy.evaluated]
    assert [split for split, *_ in Toy.evaluated] == ["valid"] * 4 + ["test"]
    expected, other = (states[1], states[3]) if tested == "best" else (states[3], states[1])
    for name, value in load_file(outcome.run.directory / "model.safetensors").items():
        assert torch.equal(value, expected[name])
        assert torch.equal(value, states[4][name])
    assert any(not torch.equal(expected[name], other[name]) for name in expected)
    figures = [outcome.result.metrics[name] for name in ("valid_score", "best_valid_score", "best_step")]
    assert figures == [2.0 if tested == "best" else 2.25, 2.0, 2]


@pytest.mark.parametrize(("given", "factor"), [({}, 3.0), ({"quantized_lr": 5.0}, 5.0)])
def test_quantized_weights_have_the_rate_that_the_task_or_the_user_gives(
    given: dict[str, float], factor: float
) -> None:
    checkpoint = run(steps=2, quantizer="bwn", **given).run.load_checkpoint()
    assert checkpoint is not None
    assert [group["lr"] for group in checkpoint["optimizer"]["param_groups"]] == [0.5, factor * 0.5]
    assert [len(group["params"]) for group in checkpoint["optimizer"]["param_groups"]] == [4, 2]


def test_unit_levels_of_a_word_model_learn_at_twice_the_root_of_its_units(text_file: Path) -> None:
    settings = {
        "task": "word-lm", "data": str(text_file), "hidden": 9, "batch": 4, "unroll": 5, "steps": 1,
        "quantizer": "ter-connect", "eval_symbols": 20, "lr": 0.25, "device": "cpu",
    }  # fmt: skip
    checkpoint = train(settings, "runs").run.load_checkpoint()
    assert checkpoint is not None
    assert [group["lr"] for group in checkpoint["optimizer"]["param_groups"]] == [0.25, 0.25 * 2 * 3]


def test_the_ratio_is_to_a_plain_layer_in_float32() -> None:
    """Without normaliser the two biases of a gate count as one; with rms gains take the place of one."""
    result = run(steps=1, quantizer="bwn", normalizer="rms").result
    gates, hidden, inputs = 4, 2, 1
    assert result.float32_bytes == 4 * gates * hidden * (inputs + hidden + 1)
    assert result.storage_bytes == LSTM(1, 2, quantizer="bwn", normalizer="rms").storage_bytes()
    assert result.storage_bytes != LSTM(1, 2, quantizer="bwn").storage_bytes()


def test_the_size_of_a_whole_model_is_counted_by_hand(text_file: Path) -> None:
    """Words: embedding and output layer of 4 bits and a scale for each row; biases and normaliser at 32."""
    settings = {
        "task": "word-lm", "data": str(text_file), "hidden": 16, "batch": 4, "unroll": 5, "steps": 1,
        "quantizer": "bwn", "normalizer": "rms", "eval_symbols": 20, "device": "cpu",
        "embedding_quantizer": "uniform:bits=4,per_row=true", "head_quantizer": "uniform:bits=4,per_row=true",
    }  # fmt: skip
    outcome = train(settings, "runs")
    state = load_file(outcome.run.directory / "model.safetensors")
    words = len(state["embedding.weight"])
    part = words * 16 // 2 + 4 * words
    assert outcome.result.model_bytes == outcome.result.storage_bytes + 2 * part + 4 * words
    assert outcome.result.model_float32_bytes == outcome.result.float32_bytes + 4 * (2 * words * 16 + words)
    plain = train({**settings, "embedding_quantizer": "none", "head_quantizer": "none"}, "runs").result
    assert plain.model_bytes == plain.storage_bytes + 4 * (2 * words * 16 + words)
    assert plain.model_float32_bytes == outcome.result.model_float32_bytes


def test_a_step_that_is_not_finite_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Toy.batch

    def batch(self: Toy, step: int) -> tuple[Tensor, Tensor]:
        x, y = plain(self, step)
        return x, y * (math.inf if step == 2 else 1.0)

    before = load_file(run(steps=2).run.directory / "model.safetensors")
    monkeypatch.setattr(Toy, "batch", batch)
    outcome = run(steps=5)
    assert (outcome.result.status, outcome.result.diverged_at) == ("diverged", 3)
    for name, value in load_file(outcome.run.directory / "model.safetensors").items():
        assert torch.equal(value, before[name])


OTHERS: dict[str, Any] = {
    "task": "word-lm", "quantizer": "bwn", "normalizer": "layer", "cell": "g-lstm", "optimizer": "adam",
    "clipping": "apart", "device": "auto", "precision": "64-true", "log": ["mlflow"], "data": "other",
    "lr": 0.25, "quantized_lr": 2.0, "stall_divisor": 2.0, "epoch_decay": 0.5, "average": 0.5, "clip": 0.25,
    "dropout": 0.5, "checkpoint_seconds": 1.0, "state_quantizer": "bwn", "decay_of": "quantized",
    "embedding_quantizer": "bwn", "head_quantizer": "bwn",
    "tested": "best", "average_of": "recurrent", "start": "glorot", "data_start": True, "gain_lr": 2.0,
    "initial_state": "learned", "initial_state_noise": 0.5, "input_quantizer": "none",
    "rounding": "stochastic", "rounding_delta": 0.5, "products": "packed16",
}  # fmt: skip
"""Another value of each setting; of those that are whole numbers, 7."""


@pytest.mark.parametrize("name", sorted(RunConfig.model_fields))
def test_runs_that_differ_in_a_setting_have_folders_of_their_own(name: str) -> None:
    """All settings but the data's name, whose digest stands for it, and what is written and when."""
    plain = RunConfig.build({**Toy.defaults, "task": "toy", "steps": 5, "unroll": 3})
    other = plain.model_copy(update={name: OTHERS.get(name, 7)})
    assert other != plain
    same = {"data", "log", "log_every", "checkpoint_seconds"}
    assert (other.identity("1") == plain.identity("1")) == (name in same)
    assert plain.identity("1") != plain.identity("2")


def test_every_generator_goes_back_to_where_it_was() -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), np.random.random(), float(torch.rand(())), np.random.standard_normal()]

    np.random.standard_normal()  # the second of a pair waits
    state = copy.deepcopy(random_state())
    drawn = draw()
    draw()
    restore_random_state(state)
    assert draw() == drawn
