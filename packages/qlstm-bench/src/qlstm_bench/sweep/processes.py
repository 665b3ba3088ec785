"""Worker processes of this machine: where one dies, another takes its place.

Dask's own keeper of a worker, the nanny, gives a place up when its worker dies while it starts, or comes back
late. These are plain processes: what has ended is started again, however and whenever it ended.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

import dask
from distributed import Worker

from qlstm_bench.errors import BenchError

_SPAWN = multiprocessing.get_context("spawn")
_POLL_S = 0.1
_TRIES = 3
_PATIENCE_S = 5.0


class Workers:
    """A number of worker processes of one thread each, which is kept up until they are let go.

    Args:
        scheduler: address of the scheduler that they serve.
        count: number of processes.
    """

    def __init__(self, scheduler: str, count: int) -> None:
        self._scheduler = scheduler
        # As Dask does for its own: read when a process starts, too late for the process itself to set.
        for name, value in dask.config.get("distributed.nanny.pre-spawn-environ").items():
            os.environ.setdefault(name, str(value))
        self._deaths = 0
        self._released, self._release = _SPAWN.Pipe(duplex=False)
        self._processes = [self._start() for _ in range(count)]
        self._keeper = threading.Thread(target=self._keep, name="keeper of workers", daemon=True)
        self._keeper.start()

    def wait_for(self, present: Callable[[], int]) -> None:
        """Wait until all have reported to the scheduler.

        Args:
            present: says how many have.

        Raises:
            BenchError: they die one after the other.
        """
        while present() < len(self._processes):
            if self._deaths > _TRIES * len(self._processes):
                raise BenchError(
                    f"no worker processes can be started: {self._deaths} died before they could work"
                )
            time.sleep(_POLL_S)

    def let_go(self) -> None:
        """Start no more of them: they may end."""
        self._release.send(None)
        self._keeper.join()

    def close(self) -> None:
        """Let them go, give them a few seconds to end, then kill them."""
        self.let_go()
        end = time.monotonic() + _PATIENCE_S
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
            process.join()

    def _start(self) -> multiprocessing.process.BaseProcess:
        process = _SPAWN.Process(target=serve, args=(self._scheduler, dask.config.config), daemon=True)
        process.start()
        return process

    def _keep(self) -> None:
        while self._released not in wait([self._released, *(one.sentinel for one in self._processes)]):
            for place, process in enumerate(self._processes):
                if not process.is_alive():
                    with suppress(OSError):  # no memory, too many processes: tried again
                        self._processes[place] = self._start()
                        self._deaths += 1
            if self._released.poll(_POLL_S):
                return


def serve(scheduler: str, config: Mapping[str, Any]) -> None:
    """What a process does: serve a scheduler until it closes.

    Args:
        scheduler: address of the scheduler.
        config: Dask's, of the process that started this one.
    """
    # Ctrl-C reaches all processes of a terminal: the sweep stops them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    dask.config.set(config)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    asyncio.run(_work(scheduler))


async def _work(scheduler: str) -> None:
    async with Worker(scheduler, nthreads=1, memory_limit=0, dashboard=False) as one:
        await one.finished()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
