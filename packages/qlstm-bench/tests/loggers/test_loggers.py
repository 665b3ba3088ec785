"""Figures go to TensorBoard, MLflow, Weights & Biases and plugins, past interruptions; none harms a run."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from qlstm_bench.cli import main
from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.loggers import Logger, LoggerSpec, loggers_of, mlflow
from qlstm_bench.training.folder import Run
from qlstm_bench.training.result import Result
from qlstm_bench.training.run import Outcome, resolve, train
from qlstm_core.plugins import PluginError, PluginWarning, hookimpl, registry


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


class Listing(Logger):
    """A stranger's logger, which keeps what it is told, and fails where a test wants it to."""

    told: ClassVar[list[tuple[Any, ...]]] = []
    fails: ClassVar[BaseException | None] = None
    fails_in: ClassVar[str] = ""

    def __init__(self, prefix: str = "", sizes: tuple[int, ...] = ()) -> None:
        self.prefix, self.sizes = prefix, sizes

    def _note(self, *what: Any) -> None:
        if self.fails is not None and what[0] == self.fails_in:
            raise self.fails
        self.told.append((self.prefix, *what))

    def check(self, out: Path) -> None:
        self._note("check", out)

    def start(self, run: Run) -> None:
        self._note("start", run.name, run.last_logged_step())

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._note("log", step, dict(metrics))

    def end(self, result: Result | None) -> None:
        self._note("end", None if result is None else result.status)


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Listing]]:
    """A plugin's logger by the name "listing", told nothing yet."""
    specs = [LoggerSpec(name="listing", summary="keeps what it is told", factory=Listing, aliases=("list",))]
    plugin = ModuleType("strange_loggers")
    plugin.qlstm_loggers = hookimpl(lambda: specs)  # type: ignore[attr-defined]
    registry.register(plugin, "strange-loggers")
    for name, value in (("told", []), ("fails", None), ("fails_in", "")):
        monkeypatch.setattr(Listing, name, value)
    yield Listing
    registry.unregister("strange-loggers")


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


def records(path: Path) -> list[Any]:
    """Return what a file of Weights & Biases holds: seven bytes, then a LevelDB log in blocks of 32 KiB."""
    wandb_internal_pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    content, found, position, begun = path.read_bytes(), [], 7, b""
    assert content[:4] == b":W&B"
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:  # too little for a head: the next is in the next block
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        begun += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(wandb_internal_pb2.Record())
            found[-1].ParseFromString(begun)
            begun = b""
    return found


def items(entries: Any) -> dict[str, Any]:
    return {"/".join(entry.nested_key) or entry.key: json.loads(entry.value_json) for entry in entries}


@pytest.mark.parametrize("checkpoint", [0, 60])
def test_wandb_holds_settings_figures_and_fate_offline(
    tiny: dict[str, Any],
    tmp_path: Path,
    interrupter: Interrupter,
    checkpoint: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Read from its files. Without a checkpoint the training started again: so did its record."""
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    connect, reached = socket.socket.connect, []

    def note(self: socket.socket, address: Any) -> None:
        reached.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", note)
    settings = {**tiny, "log": ["wandb"], "quantizer": "bwn"}
    outcome = interrupted_and_finished(settings, tmp_path / "runs", interrupter, checkpoint=checkpoint)
    wandb.teardown()  # its process has then written all
    hosts = {address[0] for address in reached if isinstance(address, tuple)}
    assert hosts <= {"127.0.0.1", "::1"}, "its own process, and no network"
    files = outcome.run.directory.glob("wandb/offline-run-*/*.wandb")  # whose names tell seconds
    first, second = sorted(files, key=lambda path: max(one.history.step.num for one in records(path)))
    assert (first.stem == second.stem) == (checkpoint == 0), "goes on under its id, or begins another"
    rows = {row["step"]: row for row in outcome.run.metrics()}
    for path, begun in ((first, 1), (second, 7 if checkpoint == 0 else 1)):
        held = records(path)
        (run,) = [record.run for record in held if record.HasField("run")]
        assert (run.project, run.display_name) == ("qlstm-char-lm", outcome.run.name)
        config = items(run.config.update)
        assert (config["quantizer"], config["hidden"]) == ("bwn", 8)
        history = [items(record.history.item) for record in held if record.HasField("history")]
        assert [row["_step"] for row in history] == list(range(begun, 8 if path == first else 13))
        for row in history:
            expected = rows[row["_step"]]
            for name in expected.keys() - {"step", "seconds"}:
                assert row[name] == expected[name], "also the steps that were done again"
    summary: dict[str, Any] = {}
    for record in records(second):
        summary |= items(record.summary.update)
    assert summary["test_bpc"] == outcome.result.figure("test")
    assert summary["status"] == outcome.result.fate
    assert [record.exit.exit_code for record in records(second) if record.HasField("exit")] == [0]


@pytest.mark.filterwarnings("default")
def test_several_can_be_chosen_on_the_command_line(tiny: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    words = ["--hidden", "4", "--steps", "2", "--batch", "4", "--unroll", "5", "--device", "cpu"]
    assert main(["run", "char-lm", "--data", tiny["data"], *words, "--log", "tensorboard,mlflow"]) == 0
    assert list(tmp_path.glob("runs/*/tensorboard/events*"))
    assert (tmp_path / "runs" / "mlflow.db").exists()


def test_loggers_of_the_package_are_registered_like_anyone_elses() -> None:
    assert {"tensorboard", "mlflow", "wandb"} <= set(loggers_of(registry).names())
    (record,) = [record for record in registry.plugins() if record.name == "qlstm-bench:bench"]
    assert record.provides["logger"] == ("mlflow", "tensorboard", "wandb")
    for name in ("tensorboard", "mlflow", "wandb"):
        assert isinstance(loggers_of(registry).create(f"qlstm-bench/{name}"), Logger)


@pytest.mark.parametrize("checkpoint", [0, 60])
def test_a_strangers_logger_is_told_what_happens(
    tiny: dict[str, Any],
    tmp_path: Path,
    interrupter: Interrupter,
    listing: type[Listing],
    checkpoint: float,
) -> None:
    settings = {**tiny, "log": "list:prefix=a,sizes=(3,4)", "log_every": 2, "eval_every": 5}
    interrupter.at = 8
    with pytest.raises(KeyboardInterrupt):
        train({**settings, "checkpoint_seconds": checkpoint}, tmp_path / "runs")
    interrupter.at = None
    outcome = train(settings, tmp_path / "runs")
    assert outcome.run.config.log == ["listing:prefix=a,sizes=(3,4)"]
    rows = [{k: v for k, v in row.items() if k != "step"} for row in outcome.run.metrics()]
    steps = [2, 4, 5, 6, 8, 10, 12]
    lines = [("a", "log", *line) for line in zip(steps, rows, strict=True)]
    name = outcome.run.name
    told = [(*one[:3], {}) if one[1] == "log" else one for one in listing.told]
    expected = [(*one[:3], {}) for one in lines]
    assert told == [
        ("a", "check", tmp_path / "runs"), ("a", "start", name, 0), *expected[:5], ("a", "end", None),
        ("a", "check", tmp_path / "runs"), ("a", "start", name, 6 if checkpoint == 0 else 0),
        *expected[4 if checkpoint == 0 else 0 :], ("a", "end", "completed"),
    ]  # fmt: skip
    assert [one for one in listing.told if one[1] == "log"][-2:] == lines[-2:], "the figures of its lines"


def test_loggers_are_told_of_a_failure(
    tiny: dict[str, Any], tmp_path: Path, listing: type[Listing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qlstm_bench.training.loop.measure_stability", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train({**tiny, "log": ["listing"]}, tmp_path / "runs")
    assert [one[1:] for one in listing.told if one[1] == "end"] == [("end", "failed")]


@pytest.mark.parametrize(
    ("where", "error", "reason"),
    [
        ("check", OSError("no\nroom"), "OSError: no room"),
        ("start", SystemExit(3), "SystemExit: 3"),
        ("log", ConfigError("not now"), "ConfigError: not now"),
        ("end", ValueError("\x1b[31mred"), r"ValueError: \x1b[31mred"),
    ],
)
@pytest.mark.filterwarnings("always")
def test_a_logger_that_fails_is_warned_of_once_and_the_run_goes_on(
    tiny: dict[str, Any],
    tmp_path: Path,
    listing: type[Listing],
    where: str,
    error: BaseException,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others go on being told; the next run tries it again."""
    monkeypatch.setattr(Listing, "fails", error)
    monkeypatch.setattr(Listing, "fails_in", where)
    kept: list[int] = []
    monkeypatch.setattr("qlstm_bench.loggers.tensorboard.TensorBoard.needs", ())
    monkeypatch.setattr("qlstm_bench.loggers.tensorboard.TensorBoard.start", lambda self, run: None)
    monkeypatch.setattr(
        "qlstm_bench.loggers.tensorboard.TensorBoard.log", lambda self, step, metrics: kept.append(step)
    )
    monkeypatch.setattr("qlstm_bench.loggers.tensorboard.TensorBoard.end", lambda self, result: None)
    for seed in range(2):
        kept.clear()
        with pytest.warns() as caught:
            outcome = train({**tiny, "log": ["listing", "tensorboard"], "seed": seed}, tmp_path / "runs")
        messages = [str(one.message) for one in caught if issubclass(one.category, PluginWarning)]
        assert messages == [f"log: listing failed, and the run goes on without it: {reason}"]
        assert outcome.result.status == "completed"
        assert [row["step"] for row in outcome.run.metrics()] == kept == list(range(1, 13))


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
@pytest.mark.filterwarnings("always")
def test_a_store_that_cannot_be_written_is_a_warning(
    tiny: dict[str, Any], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tiny['data']}/in-a-file/mlflow.db")
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", lambda *_, **__: 1 / 0)
    with pytest.warns(PluginWarning, match=f"log: {name} failed, and the run goes on without it: "):
        outcome = train({**tiny, "log": [name]}, tmp_path / "runs")
    assert outcome.result.status == "completed"


def test_an_interruption_is_no_failure_of_a_logger(
    tiny: dict[str, Any], tmp_path: Path, listing: type[Listing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listing, "fails", KeyboardInterrupt())
    monkeypatch.setattr(Listing, "fails_in", "log")
    with pytest.raises(KeyboardInterrupt):
        train({**tiny, "log": ["listing"]}, tmp_path / "runs")
    assert listing.told[-1] == ("", "end", None)


def test_what_a_logger_refuses_ends_the_run_before_it_begins(
    tiny: dict[str, Any], tmp_path: Path, listing: type[Listing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listing, "fails", ConfigError("log: listing wants an account"))
    monkeypatch.setattr(Listing, "fails_in", "check")
    with pytest.raises(ConfigError, match="listing wants an account"):
        train({**tiny, "log": ["listing"]}, tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("install", ["qlstm-bench[mlflow]", ""])
def test_a_logger_that_is_not_installed_is_named_before_training(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: str
) -> None:
    monkeypatch.setattr(mlflow.MLflow, "needs", ("sys", "no_such_package"))
    monkeypatch.setattr(mlflow.MLflow, "install", install)
    with pytest.raises(ConfigError) as caught:
        train({**tiny, "log": ["mlflow"]}, tmp_path / "runs")
    command = f"pip install '{install or 'no_such_package'}'"
    assert str(caught.value) == f"log: mlflow needs no_such_package: run `{command}`, or leave it out"
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.filterwarnings("always")
def test_an_unreachable_tracker_is_asked_thrice_and_is_no_training_time(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    with pytest.warns(PluginWarning, match="mlflow failed.*refused"):
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


def test_an_unknown_logger_is_refused(tiny: dict[str, Any], listing: type[Listing]) -> None:
    known = r"installed: listing, mlflow, tensorboard, wandb"
    for log, message in (
        (["tensorbord"], rf"unknown logger 'tensorbord' .did you mean 'tensorboard'\?.; {known}"),
        ("mlflow,wand", rf"unknown logger 'wand' .did you mean 'wandb'\?.; {known}"),
        ("listing:prefixx=a", r"logger 'listing' has no option 'prefixx' .did you mean 'prefix'"),
        (["listing:sizes=3"], r"logger 'listing': option 'sizes' must be values in parentheses"),
    ):
        with pytest.raises(PluginError, match=message):
            resolve({**tiny, "log": log})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b", ["a", "b"]),
        ("a:k=1,j=2,b", ["a:k=1,j=2", "b"]),
        ("a:k=(1,2),b,c:l=(3,4)", ["a:k=(1,2)", "b", "c:l=(3,4)"]),
        ("b,a:k=1, j=2,c:l=3", ["b", "a:k=1, j=2", "c:l=3"]),
        ("", []),
    ],
)
def test_several_are_told_from_options_by_the_equals_sign(text: str, names: list[str]) -> None:
    settings = {"data": "x", "hidden": 2, "batch": 2, "lr": 0.1, "clip": 1.0, "steps": 1}
    assert RunConfig.build({**settings, "log": text}).log == names


def test_a_logger_named_twice_is_told_once(tiny: dict[str, Any], listing: type[Listing]) -> None:
    config, _ = resolve({**tiny, "log": ["listing", "strange-loggers/listing", "list"]})
    assert config.log == ["listing"]


def test_what_is_logged_where_does_not_make_another_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    first = train(tiny, tmp_path / "runs")
    assert train({**tiny, "log": ["tensorboard"]}, tmp_path / "runs").reused
    assert not (first.run.directory / "tensorboard").exists()
