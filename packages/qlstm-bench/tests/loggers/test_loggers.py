"""Figures go to TensorBoard and MLflow, whole after an interruption; a broken logger harms no run."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qlstm_bench import loggers
from qlstm_bench.cli import main
from qlstm_bench.config import ConfigError
from qlstm_bench.loggers import mlflow
from qlstm_bench.training.run import Outcome, train
from qlstm_core.plugins import hookimpl, registry


class Interrupter:
    """A plugin that stops a training at a step, after everyone else has logged it."""

    def __init__(self) -> None:
        self.at: int | None = None

    @hookimpl(trylast=True)
    def qlstm_run_logged(self, step: int) -> None:
        if step == self.at:
            raise KeyboardInterrupt


@pytest.fixture
def interrupter() -> Iterator[Interrupter]:
    plugin = Interrupter()
    registry.register(plugin, "interrupter")
    yield plugin
    registry.unregister("interrupter")


@pytest.fixture
def plugins_anew() -> Iterator[None]:
    """Forget, after a test, that loggers failed in it."""
    yield
    for plugin in registry._plugins.values():
        if plugin.name in ("qlstm-bench:mlflow", "qlstm-bench:tensorboard"):
            plugin.silenced.clear()
            plugin.status, plugin.warned = "active", False
            plugin.reasons.clear()


def interrupted_and_finished(
    settings: dict[str, Any], out: Path, interrupter: Interrupter, *, checkpoint: float
) -> Outcome:
    """Train, with an interruption in the middle."""
    interrupter.at = 7
    with pytest.raises(KeyboardInterrupt):
        train({**settings, "checkpoint_seconds": checkpoint}, out)
    interrupter.at = None
    return train(settings, out)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


@pytest.mark.parametrize("checkpoint", [0, 60])
def test_tensorboard_holds_every_line_once(
    tiny: dict[str, Any], tmp_path: Path, interrupter: Interrupter, checkpoint: float
) -> None:
    pytest.importorskip("tensorboard")
    settings = {**tiny, "log": ["tensorboard"]}
    outcome = interrupted_and_finished(settings, tmp_path / "runs", interrupter, checkpoint=checkpoint)
    seen = scalars(outcome.run.directory / "tensorboard")
    rows = outcome.run.metrics()
    for name in ("train_bpc", "valid_bpc", "gradient_norm"):
        expected = [(row["step"], row[name]) for row in rows if name in row]
        assert [step for step, _ in seen[name]] == [step for step, _ in expected]
        assert [value for _, value in seen[name]] == pytest.approx([value for _, value in expected], rel=1e-6)
    assert seen["result/test_bpc"] == [(12, pytest.approx(outcome.result.figure("test"), rel=1e-6))]


@pytest.mark.parametrize("checkpoint", [0, 60])
@pytest.mark.filterwarnings("default")
def test_mlflow_holds_settings_figures_and_fate(
    tiny: dict[str, Any], tmp_path: Path, interrupter: Interrupter, checkpoint: float
) -> None:
    client_of = pytest.importorskip("mlflow").MlflowClient
    pytest.importorskip("sqlalchemy")
    settings = {**tiny, "log": ["mlflow"], "quantizer": "bwn"}
    outcome = interrupted_and_finished(settings, tmp_path / "runs", interrupter, checkpoint=checkpoint)
    client = client_of(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("qlstm-char-lm")
    found = client.search_runs([experiment.experiment_id])
    # Without a checkpoint the training started again: so did its record.
    assert sorted(run.info.status for run in found) == (
        ["FINISHED"] if checkpoint == 0 else ["FINISHED", "KILLED"]
    )
    (run,) = [run for run in found if run.info.status == "FINISHED"]
    assert run.data.tags["qlstm.run"] == outcome.run.name
    assert run.data.tags["qlstm.status"] == outcome.result.fate
    assert run.data.params["quantizer"] == "bwn"
    assert run.data.params["hidden"] == "8"
    assert run.data.metrics["test_bpc"] == outcome.result.figure("test")
    for name in ("train_bpc", "valid_bpc"):
        history = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        assert sorted(history) == [(row["step"], row[name]) for row in outcome.run.metrics() if name in row]
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (len(found),)
    connection.close()


@pytest.mark.filterwarnings("default")
def test_both_can_be_chosen_on_the_command_line(tiny: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    words = ["--hidden", "4", "--steps", "2", "--batch", "4", "--unroll", "5", "--device", "cpu"]
    assert main(["run", "char-lm", "--data", tiny["data"], *words, "--log", "tensorboard,mlflow"]) == 0
    assert list(tmp_path.glob("runs/*/tensorboard/events*"))
    assert (tmp_path / "runs" / "mlflow.db").exists()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
@pytest.mark.filterwarnings("always")
def test_a_broken_logger_is_a_warning_and_the_run_goes_on(
    tiny: dict[str, Any], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, plugins_anew: None
) -> None:
    pytest.importorskip(name)
    record = {record.name: record for record in registry.plugins()}[f"qlstm-bench:{name}"]
    assert record.status == "active"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tiny['data']}/in-a-file/mlflow.db")
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", lambda *_, **__: 1 / 0)
    with pytest.warns(UserWarning, match=f"qlstm-bench:{name}.*qlstm_run_started raised"):
        outcome = train({**tiny, "log": [name]}, tmp_path / "runs")
    assert outcome.result.status == "completed"
    assert [row["step"] for row in outcome.run.metrics()] == list(range(1, 13))


def test_a_logger_that_is_not_installed_is_named_before_training(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loggers.NEEDS, "mlflow", ("no_such_package",))
    with pytest.raises(
        ConfigError, match=r"log: mlflow needs no_such_package: run `pip install 'qlstm-bench\[mlflow\]'`"
    ):
        train({**tiny, "log": ["mlflow"]}, tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.filterwarnings("always")
def test_an_unreachable_tracker_is_asked_thrice_and_is_no_training_time(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins_anew: None
) -> None:
    """The server takes no connection; what waiting for it costs is on nobody's clock."""
    pytest.importorskip("mlflow")
    for name in mlflow._PATIENCE:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    clock = [0.0]
    monkeypatch.setattr("qlstm_bench.training.loop.time.monotonic", lambda: clock[0])
    tried: list[float] = []

    class Client:
        def __init__(self, uri: str) -> None:
            assert uri == "http://127.0.0.1:9"

        def get_experiment_by_name(self, name: str) -> None:
            tried.append(int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]))
            tried.append(int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]))
            clock[0] += 250
            raise ConnectionError("refused")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("mlflow.MlflowClient", Client)
    with pytest.warns(UserWarning, match="qlstm-bench:mlflow.*refused"):
        result = train({**tiny, "log": ["mlflow"]}, tmp_path / "runs").result
    assert tried == [2, 5]
    assert result.status == "completed"
    assert result.wall_s == 0


@pytest.mark.parametrize("character", "?%")
def test_a_folder_that_mlflow_cannot_name_is_refused_before_training(
    tiny: dict[str, Any], tmp_path: Path, character: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    out = tmp_path / f"a{character}20b"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=rf"log: mlflow .*'\{character}' of .*choose another --out, or set"):
        train({**tiny, "log": ["mlflow"]}, out)
    assert os.listdir(tmp_path / out) == []


def test_a_database_that_cannot_be_opened_is_tried_once(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(Exception, match="unable to open database file"):
        mlflow._connect_once(f"sqlite:///{tmp_path}/folder.db")
    mlflow._connect_once(f"sqlite:///{tmp_path}/new/mlflow.db")
    mlflow._connect_once("http://127.0.0.1:9")


def test_an_unknown_logger_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log.*'tensorbord'"):
        train({**tiny, "log": ["tensorbord"]}, tmp_path / "runs")


def test_what_is_logged_where_does_not_make_another_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    first = train(tiny, tmp_path / "runs")
    assert train({**tiny, "log": ["tensorboard"]}, tmp_path / "runs").reused
    assert not (first.run.directory / "tensorboard").exists()
