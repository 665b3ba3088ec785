"""Tasks: what a run trains on and what it measures."""

from qlstm_bench.tasks.task import Task, tasks_of

__all__ = ["Task", "tasks_of"]
