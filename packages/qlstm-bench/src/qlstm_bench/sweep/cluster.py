"""Running the runs of a sweep on Dask: finished ones are skipped, those of a killed worker tried again."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.errors import BenchError
from qlstm_bench.training.run import Outcome
from qlstm_core.plugins import PluginError

try:
    import dask
    from distributed import Client, Future, LocalCluster, as_completed
    from distributed.scheduler import KilledWorker
    from distributed.utils import silence_logging_cmgr
except Exception as error:  # Dask reads its configuration while it is imported
    raise ConfigError(
        f"Dask cannot be imported: {' '.join(str(error).split())}; its configuration is in $DASK_CONFIG, "
        "~/.config/dask and /etc/dask"
    ) from error

import os

from qlstm_bench.sweep import worker
from qlstm_bench.sweep.processes import Workers

_SETTINGS = {
    # A worker holds no run in waiting: its death counts only against the run it was training.
    "distributed.scheduler.worker-saturation": 1.0,
    # Memory is the machine's affair: a worker is neither paused nor killed for it.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}
_CONNECT_S = 10
_POLL_S = 0.1
_WATCH_S = 2.0
_LOST_S = 300.0
"""How long a sweep goes on without any worker, or without its scheduler."""


class SweepError(BenchError):
    """A sweep that cannot run, or some of whose runs failed."""


class ClusterLostError(SweepError):
    """Workers or scheduler are gone in the middle of a sweep, which can go on later."""

    exit_code = 1

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; what has finished stays, and the same command goes on")


@dataclass(frozen=True)
class Ending:
    """How one run of a sweep ended.

    Args:
        number: number of the run in the sweep.
        outcome: what became of it; ``None`` where it failed.
        error: why it failed, in one line.
    """

    number: int
    outcome: Outcome | None
    error: str = ""

    @property
    def line(self) -> str:
        """What became of it, in one line."""
        return self.outcome.describe() if self.outcome else f"failed: {self.error}"


Follow = Callable[[dict[str, Any]], None]
"""Told how far a run is: its number, the worker, steps done and to do, and figures."""


@contextmanager
def local_workers(count: int | None = None) -> Iterator[Client]:
    """Start worker processes of one thread each on this machine, keep up their number, and end them.

    Args:
        count: number of workers; default: one for each core that this process may use.
    """
    with dask.config.set(_SETTINGS), ExitStack() as stack:
        try:
            cluster = LocalCluster(
                n_workers=0,
                processes=True,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
            workers = Workers(cluster.scheduler_address, count or cores())
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise SweepError(f"no worker processes can be started: {_one_line(error)}") from error
        # Left in the other order: the workers are let go, the scheduler closes and they end with it.
        stack.enter_context(closing(workers))
        stack.enter_context(cluster)
        client = stack.enter_context(Client(cluster))
        stack.callback(workers.let_go)
        workers.wait_for(lambda: len(client.ncores()))
        yield client


@contextmanager
def workers_of(scheduler: str) -> Iterator[Client]:
    """Connect to a running scheduler.

    Raises:
        SweepError: none answers at this address, or it has no worker.
    """
    # Dask logs tracebacks of a scheduler that is gone; ClusterLostError says it in one line.
    with silence_logging_cmgr(logging.CRITICAL):
        try:
            client = Client(scheduler, timeout=_CONNECT_S)
        except Exception as error:  # an address can be wrong in ways that Dask does not foresee
            raise SweepError(
                f"--scheduler {scheduler}: no Dask scheduler answers there ({_one_line(error)}); "
                "start one with `dask scheduler`"
            ) from error
        try:
            if not client.scheduler_info()["workers"]:
                raise SweepError(
                    f"--scheduler {scheduler}: it has no worker; "
                    f"start some with `dask worker {scheduler} --nthreads 1`"
                )
            yield client
        finally:
            with suppress(*_GONE):  # a scheduler that is gone hears no farewell
                client.close()


def run_all(
    configs: Sequence[RunConfig],
    out: Path,
    client: Client,
    *,
    force: bool = False,
    follow: Follow | None = None,
) -> Iterator[Ending]:
    """Train every run and yield each once, as it ends.

    A run whose worker process dies is tried again on another one, from its checkpoint; after more than the
    scheduler's ``allowed-failures`` (three) deaths under it, it counts as failed. When the caller stops
    early, or is interrupted, the runs under way stop after their current step and can go on later.

    Args:
        configs: settings of the runs.
        out: folder of the runs; for workers on other machines, one that they share.
        client: client of the workers' scheduler.
        force: train again what has finished.
        follow: told how far each run is, in another thread.
    """
    sweep = f"qlstm-sweep-{uuid.uuid4().hex[:8]}"
    futures: dict[Future[Any], int] = {}
    lost = ended = False
    try:
        if follow is not None:
            client.subscribe_topic(sweep, lambda event: follow(event[1]))
        for number, config in enumerate(configs):
            key = f"{sweep}-{number}"
            words = (config.model_dump(), out, force, sweep, number)
            futures[client.submit(worker.train_one, *words, key=key, priority=-number, pure=False)] = number
        for future in _completed(list(futures), client):
            error = future.exception()
            if error is None:
                yield Ending(futures[future], future.result())
            else:
                yield Ending(futures[future], None, _describe(error))
        ended = True
    except _GONE as error:
        lost = True
        raise ClusterLostError(
            f"the scheduler is gone, or knows the runs no more ({_one_line(error)})"
        ) from error
    except ClusterLostError:
        lost = True
        raise
    finally:
        if not lost:
            if follow is not None:
                client.unsubscribe_topic(sweep)
            if not ended:
                client.cancel(list(futures))
                client.run(worker.stop, sweep, on_error="ignore")


_GONE = (OSError, CancelledError)
"""What talking to a scheduler raises when it has gone, or when another one has come in its place."""


def _completed(futures: list[Future[Any]], client: Client) -> Iterator[Future[Any]]:
    """Yield each future once it is done; see to it meanwhile that somebody works.

    Raises:
        ClusterLostError: there has been none, or no scheduler, for long.
    """
    waiting = as_completed(futures)
    watch = _Watch(client)
    while waiting.count():
        if waiting.has_ready():
            yield next(waiting)
        else:
            watch.look()
            time.sleep(_POLL_S)


class _Watch:
    """Sees when a sweep has lost its workers or its scheduler: Dask itself would wait for ever."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._looked = self._alive = time.monotonic()

    def look(self) -> None:
        """Ask from time to time whether there is a worker.

        Raises:
            ClusterLostError: for ``_LOST_S`` there has been no worker.
        """
        now = time.monotonic()
        if now - self._looked < _WATCH_S:
            return
        self._looked = now
        if self._any_worker():
            self._alive = now
        elif now - self._alive > _LOST_S:
            raise ClusterLostError(f"there has been no worker for {_LOST_S:.0f} s")

    def _any_worker(self) -> bool:
        scheduler = self._client.scheduler
        with suppress(OSError):  # a scheduler that is late or away for a moment
            if scheduler is not None and self._client.status == "running":
                return bool(self._client.sync(scheduler.ncores, callback_timeout=_CONNECT_S))
        return False


def _describe(error: BaseException) -> str:
    if isinstance(error, KilledWorker):
        return f"its worker process died {error.allowed_failures + 1} times; is there enough memory?"
    # Errors that a user can put right speak for themselves.
    kind = "" if isinstance(error, BenchError | PluginError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
