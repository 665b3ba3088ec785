"""The bench's own plugin: its hooks, and its tasks, registered like anyone else's."""

from __future__ import annotations

from collections.abc import Iterable

from qlstm_bench import hookspecs
from qlstm_bench.tasks import tasks_of
from qlstm_bench.tasks.task import TaskSpec
from qlstm_core.plugins import Registry, hookimpl

_HOU = ("Hou et al. 2019, Normalization helps training of quantized LSTM",)


@hookimpl
def qlstm_addhooks(registry: Registry) -> None:
    """Add ``qlstm_tasks`` and the hooks around a run."""
    registry.manager.add_hookspecs(hookspecs)
    tasks_of(registry)


@hookimpl
def qlstm_tasks() -> Iterable[TaskSpec]:
    """Provide the papers' tasks."""
    yield TaskSpec(
        name="char-lm",
        summary="next character of a text",
        factory="qlstm_bench.tasks.char_lm:CharLM",
        references=_HOU,
    )
    yield TaskSpec(
        name="word-lm",
        summary="next word of a text",
        factory="qlstm_bench.tasks.word_lm:WordLM",
        references=_HOU,
    )
    yield TaskSpec(
        name="large-vocab-lm",
        summary="next word out of a large vocabulary, by sampled softmax; samples=8192",
        factory="qlstm_bench.tasks.large_vocab:LargeVocabularyLM",
        references=("Kuchaiev and Ginsburg 2017, arXiv:1703.10722",),
    )
    yield TaskSpec(
        name="mnist",
        summary="digit of an image read pixel by pixel, 784 steps; permuted=true, per_step=28",
        factory="qlstm_bench.tasks.classification:SequentialMNIST",
        references=_HOU,
    )
    yield TaskSpec(
        name="digits",
        summary="digit of a small image read pixel by pixel, 64 steps; permuted=true, per_step=8",
        factory="qlstm_bench.tasks.classification:SequentialDigits",
    )
    yield TaskSpec(
        name="classify",
        summary="class of a sequence, given after its last step; for data of one's own",
        factory="qlstm_bench.tasks.classification:Classification",
    )
