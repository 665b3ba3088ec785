"""A sweep on worker processes: each run ends once, whatever happens to the workers."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from distributed import Client
from distributed.scheduler import KilledWorker

from qlstm_bench.config import RunConfig
from qlstm_bench.errors import BenchError, RunError
from qlstm_bench.sweep.cluster import (
    ClusterLostError,
    Ending,
    SweepError,
    _describe,
    _Watch,
    local_workers,
    run_all,
    workers_of,
)
from qlstm_bench.sweep.processes import Workers
from qlstm_bench.training.folder import Run
from qlstm_bench.training.run import resolve, train

STEPS = 100


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with local_workers(2) as connected:
        yield connected


@pytest.fixture
def configs(tiny: dict[str, Any]) -> list[RunConfig]:
    settings = {**tiny, "steps": STEPS, "eval_every": 20, "checkpoint_seconds": 0}
    return [
        resolve({**settings, "quantizer": quantizer, "normalizer": normalizer})[0]
        for quantizer, normalizer in itertools.product(("none", "bwn"), ("none", "layer"))
    ]


def figures(ending: Ending) -> dict[str, float]:
    assert ending.outcome is not None, ending.error
    return ending.outcome.result.metrics


def test_killed_workers_cost_nothing_but_time(
    client: Client, configs: list[RunConfig], tmp_path: Path
) -> None:
    """All workers are killed early in two of four runs; each ends once, with the figures of an unhurt one."""
    messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
    victims = {0, 3}
    workers: dict[int, set[str]] = {number: set() for number in range(4)}

    def kill() -> None:
        while (message := messages.get()) is not None:
            number, address = message["run"], message["worker"]
            workers[number].add(address)
            if number in victims and message["step"] >= 1:
                victims.discard(number)
                for pid in client.run(os.getpid, on_error="ignore").values():
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        endings = list(run_all(configs, tmp_path / "swept", client, follow=messages.put))
    finally:
        messages.put(None)
        killer.join()
    assert not victims
    assert sum(len(seen) > 1 for seen in workers.values()) >= 2, "killed before they ended, and tried again"
    assert sorted(ending.number for ending in endings) == [0, 1, 2, 3]
    for ending in endings:
        alone = train(configs[ending.number].model_dump(), tmp_path / "alone")
        assert figures(ending) == alone.result.metrics
        assert ending.outcome is not None
        assert ending.outcome.result.status == "completed"
        # Neither a step that was done twice nor one that was lost.
        assert [row["step"] for row in ending.outcome.run.metrics()] == list(range(1, STEPS + 1))
    assert len(list((tmp_path / "swept").iterdir())) == 4

    again = list(run_all(configs, tmp_path / "swept", client))
    assert all(ending.outcome is not None and ending.outcome.reused for ending in again)


def test_a_sweep_that_is_stopped_can_go_on(client: Client, configs: list[RunConfig], tmp_path: Path) -> None:
    long = [config.model_copy(update={"steps": 100_000}) for config in configs[:2]]
    running = threading.Event()

    def interrupt(message: dict[str, Any]) -> None:
        if message["step"] > 0:
            running.set()

    short = configs[2]
    out = tmp_path / "runs"
    sweep = run_all([short, *long], out, client, follow=interrupt)
    assert next(sweep).number == 0
    assert running.wait(60)
    sweep.close()  # type: ignore[attr-defined]
    under_way: list[Run] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # until the workers have let go of them
        with suppress(RunError):  # one may just be making its folder
            runs = [Run.read(directory) for directory in out.iterdir()]
            under_way = [run for run in runs if run.config.steps == 100_000]
            for run in under_way:
                with run.writing():
                    pass
            break
        time.sleep(0.1)
    assert under_way
    assert [run.result() for run in under_way] == [None] * len(under_way)  # neither failed nor ended
    (ending,) = run_all([short], out, client)
    assert ending.outcome is not None
    assert ending.outcome.reused


def test_a_run_that_fails_leaves_the_others_alone(
    client: Client, configs: list[RunConfig], tmp_path: Path
) -> None:
    missing = configs[0].model_copy(update={"data": str(tmp_path / "no-such.txt")})
    endings = {ending.number: ending for ending in run_all([missing, configs[1]], tmp_path / "runs", client)}
    assert endings[0].outcome is None
    assert "no-such.txt" in endings[0].line
    assert "\n" not in endings[0].line
    assert endings[1].outcome is not None


def test_workers_use_one_thread_and_outlive_interrupts(client: Client) -> None:
    handlers = client.run(lambda: signal.getsignal(signal.SIGINT))
    assert list(handlers.values()) == [signal.SIG_IGN, signal.SIG_IGN]
    assert list(client.nthreads().values()) == [1, 1]


def test_workers_killed_while_they_start_are_replaced(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qlstm_bench.sweep.processes._PATIENCE_S", 0)
    others = {child.pid for child in multiprocessing.active_children()}
    known = set(client.ncores())
    deadline = time.monotonic() + 60

    def born() -> list[multiprocessing.process.BaseProcess]:
        while not (found := [one for one in multiprocessing.active_children() if one.pid not in others]):
            assert time.monotonic() < deadline, "no worker takes its place"
            time.sleep(0.01)
        return found

    with closing(Workers(client.scheduler.address, 1)):
        for _ in range(3):
            (child,) = born()
            others.add(child.pid)
            child.kill()
        while set(client.ncores()) == known:
            assert time.monotonic() < deadline, "none of them works"
            time.sleep(0.1)
        born()
    assert {child.pid for child in multiprocessing.active_children()} <= others - {child.pid}


def test_workers_that_cannot_start_end_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qlstm_bench.sweep.processes.serve", os.getenv)  # ends at once
    looks = iter(range(600))
    with (
        closing(Workers("tcp://127.0.0.1:9", 1)) as workers,
        pytest.raises(BenchError, match=r"^no worker processes can be started: \d+ died before"),
    ):
        workers.wait_for(lambda: 0 * next(looks))


def test_a_run_that_kills_its_workers_is_given_up_with_a_reason() -> None:
    error = KilledWorker(task="run", last_worker=None, allowed_failures=3)  # type: ignore[arg-type]
    assert _describe(error) == "its worker process died 4 times; is there enough memory?"


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qlstm_bench.sweep.cluster._CONNECT_S", 0.2)
    with (
        pytest.raises(SweepError, match=r"--scheduler tcp://127.0.0.1:9: no Dask scheduler answers there"),
        workers_of("tcp://127.0.0.1:9"),
    ):
        pass


class Silent:
    """A client whose scheduler has no workers, or does not answer."""

    status = "running"
    cluster = None
    scheduler = SimpleNamespace(ncores=None)

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def sync(self, *_: object, **__: object) -> dict[str, int]:
        if self.error is not None:
            raise self.error
        return {}


@pytest.mark.parametrize("error", [None, TimeoutError(), ConnectionRefusedError()])
def test_a_sweep_without_workers_ends(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(0, 75)
    monkeypatch.setattr("qlstm_bench.sweep.cluster.Client", Silent)
    monkeypatch.setattr("qlstm_bench.sweep.cluster.time", SimpleNamespace(monotonic=lambda: next(now)))
    watch = _Watch(Silent(error))  # type: ignore[arg-type]
    for _ in range(4):  # for five minutes it may come back
        watch.look()
    with pytest.raises(ClusterLostError, match="no worker for 300 s; what has finished stays, and the same"):
        watch.look()


class Gone(Silent):
    """A client whose scheduler went away."""

    def submit(self, *_: object, **__: object) -> None:
        raise ConnectionResetError("closed")


def test_a_scheduler_that_is_gone_ends_the_sweep_with_a_line(
    configs: list[RunConfig], tmp_path: Path
) -> None:
    with pytest.raises(
        ClusterLostError, match=r"scheduler is gone.*closed.*; what has finished stays"
    ) as caught:
        list(run_all(configs, tmp_path, Gone()))  # type: ignore[arg-type]
    assert caught.value.exit_code == 1


def test_a_scheduler_killed_in_mid_sweep_ends_it_with_one_line(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qlstm_bench.sweep.processes._PATIENCE_S", 0)
    del tiny["steps"]
    settings = {**tiny, "task": "char-lm", "checkpoint_seconds": 0}
    grid = {"settings": settings, "grid": {"steps": [4, 1_000_000]}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    deadline = time.monotonic() + 90

    def until(pattern: str, count: int) -> list[Path]:
        while len(found := list(tmp_path.glob(pattern))) < count:
            assert time.monotonic() < deadline, f"no {pattern}"
            time.sleep(0.05)
        return found

    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    dask += ["--no-dashboard", "--scheduler-file", "address.json"]
    with subprocess.Popen(dask, stderr=subprocess.DEVNULL) as scheduler:
        try:
            (where,) = until("address.json", 1)
            while not (text := where.read_text()).endswith("}"):
                time.sleep(0.05)
            address = json.loads(text)["address"]
            with closing(Workers(address, 1)):
                with Client(address) as client:
                    client.wait_for_workers(1, timeout=60)
                words = ["sweep", "grid.yaml", "--scheduler", address, "--out", "runs"]
                command = [sys.executable, "-m", "qlstm_bench", *words]
                with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as sweep:
                    try:
                        (finished,) = until("runs/*/result.json", 1)
                        (finished.parent / "checkpoint" / "state.pt").unlink(missing_ok=True)
                        until("runs/*/checkpoint/state.pt", 1)
                        assert sweep.stderr is not None
                        done = sweep.stderr.readline()  # the sweep has been told of the run that ended
                        scheduler.kill()
                        _, error = sweep.communicate(timeout=60)
                    finally:
                        sweep.kill()
        finally:
            scheduler.kill()
    assert sweep.returncode == 1
    assert done.startswith("[1/2] none, none, steps 4: ")
    assert error.startswith("qlstm-bench: error: the scheduler is gone")
    assert error.endswith("; what has finished stays, and the same command goes on\n")
    assert error.count("\n") == 1
    assert Run.read(finished.parent).result() is not None


def test_another_cluster_can_train(client: Client, configs: list[RunConfig], tmp_path: Path) -> None:
    with workers_of(client.scheduler.address) as other:
        (ending,) = run_all(configs[:1], tmp_path / "runs", other)
    assert ending.outcome is not None


def test_ctrl_c_ends_everything_and_says_how_to_go_on(tiny: dict[str, Any], tmp_path: Path) -> None:
    """The interrupt goes to the whole group of processes, as from a terminal."""
    settings = {**tiny, "task": "char-lm", "steps": 1_000_000, "checkpoint_seconds": 0}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"settings": settings}))
    # What was started in the background ignores interrupts, and so do its children.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from qlstm_bench.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["sweep", "grid.yaml", "--workers", "1", "--out", "runs"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/checkpoint/state.pt")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    goes_on = "the same command goes on from the last checkpoint, if there is one yet"
    assert said == f"qlstm-bench: interrupted; {goes_on}\n"
    (directory,) = (tmp_path / "runs").iterdir()
    run = Run.read(directory)
    assert run.result() is None
    assert run.load_checkpoint() is not None
    with run.writing():  # no worker is left that holds it
        pass
