"""Running the runs of a sweep on Dask: finished ones are skipped, those of a killed worker tried again."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, as_completed
from distributed.scheduler import KilledWorker

from qlstm_bench.config import RunConfig
from qlstm_bench.errors import BenchError
from qlstm_bench.machine import cores
from qlstm_bench.sweep import worker
from qlstm_bench.train import Outcome
from qlstm_core.plugins import PluginError

_SETTINGS = {
    # A worker holds no run in waiting: a worker's death is laid at the door of the one run that it trained.
    "distributed.scheduler.worker-saturation": 1.0,
    # Memory is the machine's affair: a worker is neither paused nor killed for it.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}
_CONNECT_S = 10


class SweepError(BenchError):
    """A sweep that cannot run, or some of whose runs failed."""


@dataclass(frozen=True)
class Ending:
    """How one run of a sweep ended.

    Args:
        number: of the run in the sweep.
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
    """Start worker processes of one thread each on this machine, and end them.

    Args:
        count: how many; default: one for each core that this process may use.
    """
    with (
        dask.config.set(_SETTINGS),
        LocalCluster(
            n_workers=count or cores(),
            threads_per_worker=1,
            processes=True,
            memory_limit=None,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(worker.OutliveInterrupts())
        yield client


@contextmanager
def workers_of(scheduler: str) -> Iterator[Client]:
    """Connect to a running scheduler.

    Raises:
        SweepError: none answers at this address, or it has no worker.
    """
    try:
        client = Client(scheduler, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        raise SweepError(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({error}); "
            "start one with `dask scheduler`"
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise SweepError(
                f"--scheduler {scheduler}: it has no worker; "
                f"start some with `dask worker {scheduler} --nthreads 1`"
            )
        yield client


def run_all(
    configs: Sequence[RunConfig],
    out: Path,
    client: Client,
    *,
    force: bool = False,
    follow: Follow | None = None,
) -> Iterator[Ending]:
    """Train every run and yield each once, as it ends.

    A run whose worker process dies is tried again on another one, from its checkpoint; after the scheduler's
    ``allowed-failures`` (three) deaths under it, it counts as failed. When the caller stops early, or is
    interrupted, the runs under way stop after their current step and can go on later.

    Args:
        configs: of the runs.
        out: folder of the runs; for workers on other machines, one that they share.
        client: of the workers.
        force: train again what has finished.
        follow: told how far each run is, in another thread.
    """
    sweep = f"qlstm-sweep-{uuid.uuid4().hex[:8]}"
    if follow is not None:
        client.subscribe_topic(sweep, lambda event: follow(event[1]))
    futures = {
        client.submit(
            worker.train_one,
            config.model_dump(),
            out,
            force,
            sweep,
            number,
            key=f"{sweep}-{number}",
            priority=-number,
            pure=False,
        ): number
        for number, config in enumerate(configs)
    }
    ended = False
    try:
        for future in as_completed(list(futures)):
            error = future.exception()
            if error is None:
                yield Ending(futures[future], future.result())
            else:
                yield Ending(futures[future], None, _describe(error))
        ended = True
    finally:
        if follow is not None:
            client.unsubscribe_topic(sweep)
        if not ended:
            client.cancel(list(futures))
            client.run(worker.stop, sweep, on_error="ignore")


def _describe(error: BaseException) -> str:
    if isinstance(error, KilledWorker):
        return f"its worker process died {error.allowed_failures + 1} times; is there enough memory?"
    # Errors that a user can put right speak for themselves.
    kind = "" if isinstance(error, BenchError | PluginError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())
