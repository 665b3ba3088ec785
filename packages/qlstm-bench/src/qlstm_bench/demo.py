"""The central finding, seen on the user's own machine in a few minutes."""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from qlstm_bench.machine import cores
from qlstm_bench.report import collect, print_table, write_html
from qlstm_bench.report.figures import draw_overview
from qlstm_bench.runs import RunError, check_writable

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

    from qlstm_bench.train import Outcome

QUANTIZERS = ("none", "binary-connect", "ter-connect")
# The slowest first, so that short runs end the show.
NORMALIZERS = ("batch-shared", "layer", "weight", "none")
SETTINGS: dict[str, Any] = {
    "data": "stdlib-char",
    "hidden": 128,
    "steps": 200,
    "lr": 0.004,
    "eval_every": 40,
    "eval_symbols": 32_000,
    "device": "cpu",
}
"""What all runs share; the rest is the paper's. So few steps want twice the paper's learning rate."""

Names = tuple[str, str]
"""Quantizer and normaliser of a run."""

Message = tuple[Names, int, int, dict[str, float]]
"""How far a run is: which, steps done, steps to do, figures logged."""

_INTERVAL_S = 0.2


def show(out: Path, *, settings: Mapping[str, Any] = SETTINGS, force: bool = False) -> None:
    """Train what has not finished yet, print the table, and write ``report.html`` and ``demo.png``.

    Each run uses one thread, and as many runs go side by side as there are cores: the figures do not depend
    on the number of cores.

    Args:
        out: folder for the report, the picture and the runs.
        settings: of every run.
        force: train again what has finished already.

    Raises:
        RunError: a folder that cannot be written to, or runs that failed.
    """
    check_writable(out)
    started = time.monotonic()
    jobs = [(quantizer, normalizer) for normalizer in NORMALIZERS for quantizer in QUANTIZERS]
    outcomes, failures = _train_all(jobs, settings, out / "runs", force)
    records, _ = collect(outcome.run.directory for outcome in outcomes)
    if records:
        print_table(records)
        write_html(records, out / "report.html")
        draw_overview(records, out / "demo.png")
        seconds = time.monotonic() - started
        print(f"\n{len(records)} runs in {seconds:.0f} s; {out / 'report.html'}, {out / 'demo.png'}")
    if failures:
        raise RunError(f"{len(failures)} of {len(jobs)} runs failed: {'; '.join(failures)}")


def _train_all(
    jobs: list[Names], settings: Mapping[str, Any], folder: Path, force: bool
) -> tuple[list[Outcome], list[str]]:
    """Train every job in worker processes; return the outcomes, and what failed and why."""
    # Spawned, not forked: a forked child would inherit PyTorch's thread pool without its threads.
    context = multiprocessing.get_context("spawn")
    messages: Queue[Message] = context.Queue()
    workers = min(len(jobs), cores())
    outcomes: list[Outcome] = []
    failures: list[str] = []
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(messages,))
    with _Board(jobs) as board:
        try:
            running = {pool.submit(_train_one, job, dict(settings), folder, force): job for job in jobs}
            pending: set[Future[Outcome]] = set(running)
            while pending:
                done, pending = wait(pending, timeout=_INTERVAL_S, return_when=FIRST_COMPLETED)
                board.follow(messages)
                for future in done:
                    job, error = running[future], future.exception()
                    if error is None:
                        outcome = future.result()
                        outcomes.append(outcome)
                        board.end(job, outcome.describe())
                    else:
                        failures.append(f"{', '.join(job)}: {type(error).__name__}: {error}")
                        board.end(job, f"failed: {error}")
        finally:
            pool.shutdown(cancel_futures=True)
    return outcomes, failures


_messages: Queue[Message] | None = None  # of a worker process: how it tells its parent


def _start_worker(messages: Queue[Message]) -> None:
    """Prepare a worker: one thread, and no life beyond its parent's."""
    import torch

    global _messages
    _messages = messages
    torch.set_num_threads(1)
    Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train_one(job: Names, settings: dict[str, Any], folder: Path, force: bool) -> Outcome:
    """Train one run in a worker process."""
    from qlstm_bench.train import train

    assert _messages is not None
    messages, told = _messages, time.monotonic()

    def tell(step: int, steps: int, figures: Mapping[str, float]) -> None:
        nonlocal told
        if figures or time.monotonic() - told >= _INTERVAL_S:
            messages.put((job, step, steps, dict(figures)))
            told = time.monotonic()

    quantizer, normalizer = job
    return train(
        {**settings, "quantizer": quantizer, "normalizer": normalizer}, folder, force=force, listen=tell
    )


class _Board:
    """A bar per run on stderr; where stderr is no terminal, a line per run when it ends."""

    def __init__(self, jobs: list[Names]) -> None:
        console = Console(stderr=True)
        name, figures = TextColumn("{task.description}"), TextColumn("{task.fields[figures]}")
        columns = (name, BarColumn(), MofNCompleteColumn(), figures)
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._tasks = {job: self._progress.add_task(", ".join(job), total=None, figures="") for job in jobs}

    def __enter__(self) -> _Board:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def follow(self, messages: Queue[Message]) -> None:
        """Show what the workers have told since the last call."""
        while True:
            try:
                job, step, steps, figures = messages.get_nowait()
            except queue.Empty:
                return
            self._progress.update(self._tasks[job], completed=step, total=steps)
            for name, value in figures.items():
                if name.startswith("valid_"):
                    self._progress.update(self._tasks[job], figures=f"{name.replace('_', ' ')} {value:.3f}")

    def end(self, job: Names, line: str) -> None:
        """Show that a run has ended."""
        self._progress.update(self._tasks[job], figures=line.partition(";")[0])
        if self._progress.disable:
            self._progress.console.print(f"{', '.join(job)}: {line}", highlight=False, soft_wrap=True)
