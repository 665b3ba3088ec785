"""Training: to the end, through interruptions bit for bit, and into divergence."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.errors import RunError
from qlstm_bench.training.folder import Run
from qlstm_bench.training.optimizer import clip_gradients_
from qlstm_bench.training.result import Result
from qlstm_bench.training.run import Outcome, resolve, train
from qlstm_core.plugins import PluginError, hookimpl, registry


class Recorder:
    """A plugin that notes what the hooks tell it, and can interrupt the training."""

    def __init__(self) -> None:
        self.started: list[Run] = []
        self.rows: list[tuple[int, Mapping[str, float]]] = []
        self.ended: list[Result] = []
        self.interrupt_at: int | None = None

    @hookimpl
    def qlstm_run_started(self, run: Run) -> None:
        self.started.append(run)

    @hookimpl
    def qlstm_run_logged(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        self.rows.append((step, metrics))
        if step == self.interrupt_at:
            raise KeyboardInterrupt

    @hookimpl
    def qlstm_run_ended(self, run: Run, result: Result) -> None:
        self.ended.append(result)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    plugin = Recorder()
    registry.register(plugin, "recorder")
    yield plugin
    registry.unregister("recorder")


def untimed(result: Result) -> Result:
    return result.model_copy(update={"wall_s": 0.0})


def assert_same(first: Outcome, second: Outcome) -> None:
    """Assert that two runs have the same parameters, figures and result, bit for bit."""
    one, other = (load_file(outcome.run.directory / "model.safetensors") for outcome in (first, second))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    rows = ([row | {"seconds": 0.0} for row in outcome.run.metrics()] for outcome in (first, second))
    assert next(rows) == next(rows)
    assert untimed(first.result) == untimed(second.result)


STATEFUL = [
    # All that has a state of its own: samples, dropout, running statistics, second moments, clipped weights.
    {
        "quantizer": "binary-connect:stochastic=true",
        "normalizer": "batch-shared",
        "layers": 2,
        "dropout": 0.3,
    },
    {"quantizer": "lat", "normalizer": "weight", "log_every": 3, "eval_every": 5},
    {"precision": "bf16-mixed", "normalizer": "layer", "steps": None, "epochs": 1, "batch": 8, "unroll": 60},
    # What a run starts from: its first batch, noise in every initial state, of epochs of 10 steps.
    {
        "quantizer": "twn",
        "normalizer": "weight",
        "start": "orthogonal",
        "data_start": True,
        "gain_lr": 3.0,
        "initial_state": "learned",
        "initial_state_noise": 0.1,
        "batch": 8,
        "unroll": 60,
    },
    # What the schedule, the average of the weights and the best of them have seen: it stops before the end.
    {
        "lr": 3.0,
        "steps": 30,
        "eval_every": 1,
        "stall_divisor": 1.5,
        "average": 0.6,
        "patience": 4,
    },
    # The best of the averages is behind it before the end; the rate of quantized weights has decayed.
    {
        "quantizer": "ter-connect",
        "lr": 3.0,
        "batch": 16,
        "unroll": 100,
        "steps": 20,
        "eval_every": 1,
        "epoch_decay": 0.5,
        "epoch_decay_after": 0,
        "decay_of": "quantized",
        "average": 0.3,
        "average_of": "recurrent",
        "tested": "best",
    },
]


@pytest.mark.parametrize("stateful", STATEFUL)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tiny: dict[str, Any], tmp_path: Path, recorder: Recorder, stateful: dict[str, Any]
) -> None:
    settings = {**tiny, **stateful}
    whole = train(settings, tmp_path / "whole")
    logged = [int(row["step"]) for row in whole.run.metrics()]
    for interruption in (logged[0], logged[len(logged) // 2], logged[-1]):
        # In a row's hook: the row is written and the checkpoint of its step is not.
        recorder.interrupt_at = interruption
        with pytest.raises(KeyboardInterrupt):
            train({**settings, "checkpoint_seconds": 0}, tmp_path / "parts")
    recorder.interrupt_at = None
    parts = train({**settings, "checkpoint_seconds": 0}, tmp_path / "parts")
    assert not parts.reused
    assert_same(whole, parts)


def test_without_a_checkpoint_a_run_starts_again(
    tiny: dict[str, Any], tmp_path: Path, recorder: Recorder
) -> None:
    recorder.interrupt_at = 5
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "parts")  # a checkpoint a minute: none yet
    recorder.interrupt_at = None
    assert_same(train(tiny, tmp_path / "whole"), train(tiny, tmp_path / "parts"))


def test_a_finished_run_is_not_repeated_unless_forced(
    tiny: dict[str, Any], tmp_path: Path, recorder: Recorder
) -> None:
    first = train(tiny, tmp_path)
    again = train({**tiny, "checkpoint_seconds": 1, "log_every": 1}, tmp_path)
    assert again.reused
    assert again.result == first.result
    assert len(recorder.started) == 1
    forced = train(tiny, tmp_path, force=True)
    assert not forced.reused
    assert len(recorder.started) == 2
    assert untimed(forced.result) == untimed(first.result)
    other = train({**tiny, "seed": 1}, tmp_path)
    assert other.run.directory != first.run.directory
    assert other.result.figure("valid") != first.result.figure("valid")


def test_a_run_learns_and_records_what_it_did(
    tiny: dict[str, Any], tmp_path: Path, recorder: Recorder
) -> None:
    """A few hundred characters of a small vocabulary are learnt beyond their frequencies."""
    settings = {**tiny, "steps": 90, "hidden": 24, "batch": 8, "log_every": 30, "eval_every": 45}
    outcome = train({**settings, "quantizer": "bwn", "normalizer": "layer"}, tmp_path)
    result, metrics = outcome.result, outcome.result.metrics
    assert result.status == "completed"
    assert result.learnt
    assert metrics["valid_bpc"] < 0.9 * metrics["baseline_bpc"]
    assert metrics["test_bpc"] < 0.9 * metrics["baseline_bpc"]
    assert metrics["best_valid_bpc"] <= metrics["valid_bpc"]
    assert result.storage_bytes < result.float32_bytes
    assert result.versions["torch"] == torch.__version__
    assert result.seed == 0
    assert len(result.dataset.sha256) == 64
    norms = result.gradient_norms[0].norms
    assert len(norms) == 10
    assert metrics["gradient_growth"] == norms[0] / norms[-1]

    rows = outcome.run.metrics()
    assert [row["step"] for row in rows] == [30, 45, 60, 90]
    assert [(step, dict(row)) for step, row in recorder.rows] == [
        (row["step"], {name: value for name, value in row.items() if name != "step"}) for row in rows
    ]
    assert rows[0]["train_bpc"] > rows[-1]["train_bpc"]
    assert rows[-1]["valid_bpc"] == metrics["valid_bpc"]
    assert [run.name for run in recorder.started] == [outcome.run.name]
    assert recorder.ended == [result]
    assert outcome.run.result() == result
    assert json.loads((outcome.run.directory / "result.json").read_text())["metrics"] == metrics
    assert RunConfig.from_yaml(outcome.run.directory / "config.yaml") == outcome.run.config


def test_binary_weights_stay_in_their_interval(tiny: dict[str, Any], tmp_path: Path) -> None:
    """BinaryConnect clips the full-precision weights to [−1, 1] after every step."""
    outcome = train({**tiny, "quantizer": "binary-connect", "normalizer": "layer", "lr": 0.5}, tmp_path)
    weights = load_file(outcome.run.directory / "model.safetensors")
    largest = max(tensor.abs().max().item() for name, tensor in weights.items() if ".weight_" in name)
    assert largest == 1.0
    assert weights["output.weight"].abs().max() > 1


def test_loss_aware_weights_follow_the_optimizer(tiny: dict[str, Any], tmp_path: Path) -> None:
    """LAB's curvature is Adam's second moment, which is not the ones that it starts from."""
    outcome = train({**tiny, "quantizer": "lab", "normalizer": "layer", "checkpoint_seconds": 0}, tmp_path)
    checkpoint = outcome.run.load_checkpoint()
    assert checkpoint is not None
    moments = [state["exp_avg_sq"] for state in checkpoint["optimizer"]["state"].values()]
    curvatures = [tensor for name, tensor in checkpoint["model"].items() if "curvature_" in name]
    assert len(curvatures) == 2
    for curvature in curvatures:
        assert any(torch.equal(curvature, moment) for moment in moments if moment.shape == curvature.shape)


def test_divergence_is_a_result(tiny: dict[str, Any], tmp_path: Path, recorder: Recorder) -> None:
    """A learning rate near the largest float32 gives a first step from which the loss overflows."""
    outcome = train({**tiny, "lr": 3e37, "hidden": 16}, tmp_path)
    assert outcome.result.status == "diverged"
    assert outcome.result.diverged_at == outcome.result.steps == 2
    assert math.isnan(outcome.result.figure("test"))
    assert outcome.result.metrics["largest_gradient_norm"] == math.inf
    assert not outcome.result.learnt
    assert [row["step"] for row in outcome.run.metrics()] == [1, 2]
    assert recorder.ended == [outcome.result]
    assert (outcome.run.directory / "model.safetensors").exists()
    assert train({**tiny, "lr": 3e37, "hidden": 16}, tmp_path).reused


def test_a_failure_is_recorded_and_the_run_can_be_repeated(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    monkeypatch.setattr("qlstm_bench.training.loop.measure_stability", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny, tmp_path)
    (directory,) = tmp_path.glob("char-lm-*")
    result = Run.read(directory).result()
    assert result is not None
    assert (result.status, result.error) == ("failed", "ZeroDivisionError: division by zero")
    recorder.interrupt_at = 4
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path, force=True)
    assert Run.read(directory).result() is None  # neither failed nor ended: it can go on
    recorder.interrupt_at = None
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert train(tiny, tmp_path).result.status == "completed"


def test_clipping_keeps_the_direction_and_survives_float32() -> None:
    """Gradients of 1e30 have squares beyond float32: torch's own clipping would turn them to zero."""
    torch.manual_seed(0)
    net = nn.Linear(5, 3)
    for scale in (1e30, 1.0):
        gradients = [torch.randn_like(parameter) * scale for parameter in net.parameters()]
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        flat = torch.cat([gradient.flatten() for gradient in gradients]).double()
        expected = flat.square().sum().sqrt().item()
        assert clip_gradients_(net, 0.5).value == pytest.approx(expected, rel=1e-6)
        clipped = torch.cat(
            [parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None]
        )
        torch.testing.assert_close(clipped.double(), flat / expected * 0.5, rtol=1e-5, atol=0)
    assert clip_gradients_(net, 0.6).value == pytest.approx(0.5, rel=1e-5)
    torch.testing.assert_close(
        torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]), clipped
    )
    net.bias.grad = torch.tensor([math.inf, 0.0, 0.0])
    assert not math.isfinite(clip_gradients_(net, 0.5).value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"task": "char-ml"}, PluginError, "did you mean 'char-lm'"),
        ({"quantizer": "bwm"}, PluginError, "did you mean 'bwn'"),
        ({"normalizer": "layer:nonsense=7"}, PluginError, "no option .nonsense."),
        ({"hiden": 3}, ConfigError, "no setting 'hiden' .*did you mean 'hidden'"),
        ({"hidden": 0}, ConfigError, "hidden: .* 1, got 0"),
        ({"epochs": 1}, ConfigError, "either epochs or steps"),
        ({"lr": math.nan}, ConfigError, "lr: "),
        ({"device": "gpu"}, ConfigError, "expected auto, cpu, cuda or cuda:NUMBER, got 'gpu'"),
        (
            {"device": "cuda:99"},
            ConfigError,
            "device 'cuda:99' is not on this machine; expected auto or one of: cpu",
        ),
    ],
)
def test_bad_settings_fail_before_training(
    tiny: dict[str, Any], tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        train({**tiny, **change}, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written_fails_first(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"--out '.*file' is not a folder that can be written to"):
        train({**tiny, "data": "no-such-data"}, tmp_path / "file")


def test_names_have_one_spelling(tiny: dict[str, Any]) -> None:
    """Options in another order, or at their defaults, are the same run."""
    config, _ = resolve({**tiny, "quantizer": "bwn:per_row=false", "normalizer": "layer"})
    same, _ = resolve({**tiny, "quantizer": "qlstm-quant/bwn", "normalizer": "qlstm-norm/layer"})
    assert config == same
    assert config.quantizer == "bwn"
    assert config.identity("x") == same.identity("x") != same.identity("y")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"task": "char-lm", "embedding_quantizer": "bwn"},
            "embedding_quantizer=bwn: the model of task char-lm has no embedding .*; it has head",
        ),
        ({"task": "word-lm", "head_quantizer": "bwm"}, "unknown quantizer 'bwm' .*did you mean 'bwn'"),
    ],
)
def test_quantizers_of_parts_that_a_model_has_not_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises((ConfigError, PluginError), match=problem):
        resolve({"steps": 1, **settings})
