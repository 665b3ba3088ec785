"""The hooks that qlstm-bench adds: tasks, and what happens around a run. Each docstring is a whole plugin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from qlstm_bench import TaskSpec
from qlstm_core.plugins import hookspec

if TYPE_CHECKING:
    from qlstm_bench import Result, Run


@hookspec
def qlstm_tasks() -> Iterable[TaskSpec]:
    """Return the tasks that the plugin provides; called once, at the first look-up.

    Example::

        from qlstm_bench import CharLM, TaskSpec
        from qlstm_core.plugins import hookimpl

        class ShortMemory(CharLM):
            defaults = CharLM.defaults | {"unroll": 10}

        @hookimpl
        def qlstm_tasks():
            yield TaskSpec(name="short-memory", summary="characters, ten steps back", factory=ShortMemory)
    """
    raise NotImplementedError


@hookspec
def qlstm_run_started(run: Run) -> None:
    """Note that a run starts, or goes on from its checkpoint.

    Example::

        from qlstm_core.plugins import hookimpl

        @hookimpl
        def qlstm_run_started(run):
            print(f"{run.name}: hidden {run.config.hidden}")
    """
    raise NotImplementedError


@hookspec
def qlstm_run_logged(run: Run, step: int, metrics: Mapping[str, float]) -> None:
    """Note the figures of one line of metrics.jsonl.

    Example::

        from qlstm_core.plugins import hookimpl

        @hookimpl
        def qlstm_run_logged(run, step, metrics):
            if "valid_bpc" in metrics:
                print(f"{run.name}, step {step}: {metrics['valid_bpc']:.3f} bits per character")
    """
    raise NotImplementedError


@hookspec
def qlstm_run_ended(run: Run, result: Result) -> None:
    """Note the end of a run, and what its result.json holds.

    Example::

        from qlstm_core.plugins import hookimpl

        @hookimpl
        def qlstm_run_ended(run, result):
            print(f"{run.name}: {result.status}")
    """
    raise NotImplementedError
