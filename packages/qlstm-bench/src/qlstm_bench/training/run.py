"""Training one run: from settings to result, through interruptions and divergence."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import seed_everything

from qlstm_bench.config import RunConfig
from qlstm_bench.errors import BenchError, ConfigError, RunError
from qlstm_bench.loggers.of_run import RunLoggers, canonical_loggers
from qlstm_bench.tasks import Task, tasks_of
from qlstm_bench.tasks.cells import cell_settings, check_cell
from qlstm_bench.training.folder import FINISHED, Run, check_writable
from qlstm_bench.training.loop import Listener, Training
from qlstm_bench.training.optimizer import check_curvature, make_optimizer
from qlstm_bench.training.optimizer_catalogue import canonical_optimizer, check_optimizer
from qlstm_bench.training.result import Result
from qlstm_bench.training.start import check_data_start, check_initial_state, start_from_data
from qlstm_bench.training.team import Team, launched_processes, make_fabric
from qlstm_core.plugins import registry


class _Turn:
    """Whose turn it is to train in this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._busy = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait until no other thread trains.

        Raises:
            RunError: this thread does so already: a hook or a listener called :func:`train`.
        """
        with self._lock:
            if self._busy:
                raise RunError(
                    "a training cannot start another one from within: both would draw from the same random "
                    "generators; start it when the first has returned, or in a process of its own"
                )
            self._busy = True
            try:
                yield
            finally:
                self._busy = False


_turn = _Turn()


_NO_MEMORY = (
    "not enough memory",
    "allocate memory",
    "calculation overflowed",
    "Overflow when unpacking long",
)
"""What PyTorch says on a CPU, in errors that have no type of their own."""


@contextmanager
def _memory_named() -> Iterator[None]:
    """Turn memory that cannot be had into an error of one line."""
    try:
        yield
    except (MemoryError, RuntimeError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        typed = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not typed and not any(sign in reason for sign in _NO_MEMORY):
            raise
        raise BenchError(
            f"not enough memory: {reason}; smaller hidden, layers, batch or unroll need less"
        ) from error


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Args:
        run: the run and its directory.
        result: what its result.json holds.
        reused: whether it had finished before and was not repeated.
    """

    run: Run
    result: Result
    reused: bool

    def describe(self) -> str:
        """Return what became of it on one line."""
        before = "finished before; " if self.reused else ""
        return f"{before}{self.result.describe()}; {self.run.directory}"


_PARTS = {"embedding_quantizer": "embedding", "head_quantizer": "head"}
"""Settings of quantizers for parts of the model that only some tasks have."""


def resolve(settings: Mapping[str, Any]) -> tuple[RunConfig, Task]:
    """Return complete settings and their task, not yet prepared.

    The task's defaults fill what ``settings`` leaves out; the names of task, cell, quantizers, normaliser,
    optimizer and loggers get their one spelling; an object given as ``data`` goes to the task, and its type's
    name into the settings.

    Raises:
        ConfigError, PluginError: a setting or name that does not fit.
    """
    tasks = tasks_of(registry)
    launched = launched_processes()
    names = {
        "task": tasks.canonical(settings.get("task", "char-lm")),
        "quantizer": registry.quantizers.canonical(settings.get("quantizer", "none")),
        "normalizer": registry.normalizers.canonical(settings.get("normalizer", "none")),
    }
    for part in ("state_quantizer", *_PARTS):
        names[part] = registry.quantizers.canonical(settings.get(part, "none"))
    task: Task = tasks.create(names["task"])
    for part, name in _PARTS.items():
        if names[part] != "none" and name not in task.quantizes:
            raise ConfigError(
                f"{part}={names[part]}: the model of task {names['task']} has no {name} that takes a "
                f"quantizer; it has {', '.join(task.quantizes) or 'none beside its recurrent layer'}"
            )
    if isinstance(settings.get("input_quantizer"), str):
        names["input_quantizer"] = registry.quantizers.canonical(settings["input_quantizer"])
    merged = {**task.defaults, **({} if launched is None else {"processes": launched}), **settings, **names}
    if "data" in merged and not isinstance(merged["data"], str):
        task.given_data = merged["data"]
        merged["data"] = f"object of type {type(task.given_data).__name__}"
    merged["optimizer"] = canonical_optimizer(merged.get("optimizer", "adam"))
    config = RunConfig.build(merged | cell_settings(merged))
    config = config.model_copy(update={"log": canonical_loggers(config.log)})
    check_cell(config)
    check_optimizer(config.optimizer, config.lr)
    check_curvature(config)
    check_data_start(config)
    return config, task


def train(
    settings: Mapping[str, Any], out: Path | str, *, force: bool = False, listen: Listener | None = None
) -> Outcome:
    """Train a run to its end and return its result; go on from its checkpoint where there is one.

    Training stops at the first loss or gradient norm that is not finite: the run has then ``diverged``, which
    is a result like any other. Processes that torchrun started together train one run: each calls this, the
    first writes, and all return its result.

    PyTorch's random generators belong to the process: trainings that several threads start in one process
    take turns, and each has the numbers that it has alone. For several at a time, start processes, as
    ``qlstm-bench sweep`` does.

    Args:
        settings: fields of :class:`qlstm_bench.config.RunConfig`; ``data`` may also be an object that the
            task takes, such as a torch Dataset.
        out: folder that holds the run's directory.
        force: train again, from the start, what has finished or was interrupted.
        listen: function that is told of every step.

    Raises:
        ConfigError, PluginError, DataError, RunError: before any training.
    """
    with _turn.taken(), _memory_named():
        return _train(settings, Path(out), force, listen)


def _train(settings: Mapping[str, Any], out: Path, force: bool, listen: Listener | None) -> Outcome:
    check_writable(out)
    config, task = resolve(settings)
    loggers = RunLoggers(config.log, out)
    task.prepare(config)
    fabric = make_fabric(config)
    seed_everything(config.seed, verbose=False)
    model = task.model(config.quantizer, config.normalizer)
    check_initial_state(model, config)
    optimizer = make_optimizer(model, config, task.quantized_lr(task.recurrent(model)))
    run = Run.of(out, config, task.dataset_sha256)
    team = Team(fabric, task.batch_axis)
    with run.writing() if team.leader else nullcontext():
        if force and team.leader:
            run.clear()
        before = team.tell(run.result() if team.leader else None)
        if before is not None and before.status in FINISHED:
            return Outcome(run, before, reused=True)
        if team.leader:
            run.start()
        if config.data_start:
            start_from_data(task, model)
        training = Training(fabric, team, task, model, optimizer, run, loggers, listen)
        training.restore()
        with loggers:
            if team.leader:
                with training.off_the_clock():
                    loggers.start(run)
                    registry.notify("qlstm_run_started", run=run)
            try:
                result = training.loop()
            except Exception as error:
                message = " ".join(f"{type(error).__name__}: {error}".split())
                if team.leader:
                    with suppress(RunError):  # a full disk: the error says so already
                        _end(run, training.result("failed", error=message), loggers)
                raise
            if team.leader:
                _end(run, result, loggers)
    return Outcome(run, result, reused=False)


def _end(run: Run, result: Result, loggers: RunLoggers) -> None:
    run.write_result(result)
    loggers.end(result)
    registry.notify("qlstm_run_ended", run=run, result=result)
