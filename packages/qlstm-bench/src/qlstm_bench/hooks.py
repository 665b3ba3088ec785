"""The bench's own plugin: its hooks, and its tasks, registered like anyone else's."""

from __future__ import annotations

from collections.abc import Iterable

from qlstm_bench import hookspecs
from qlstm_bench.hookspecs import TaskSpec
from qlstm_bench.tasks import tasks_of
from qlstm_core.plugins import Registry, hookimpl


@hookimpl
def qlstm_addhooks(registry: Registry) -> None:
    """Add ``qlstm_tasks`` and the hooks around a run."""
    registry.manager.add_hookspecs(hookspecs)
    tasks_of(registry)


@hookimpl
def qlstm_tasks() -> Iterable[TaskSpec]:
    """Provide ``char-lm``."""
    yield TaskSpec(
        name="char-lm",
        summary="next character of a text",
        factory="qlstm_bench.tasks.char_lm:CharLM",
        references=("Hou et al. 2019, Normalization helps training of quantized LSTM",),
    )
