"""A sweep on the board, to its end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from distributed import Client

from qlstm_bench.config import RunConfig
from qlstm_bench.sweep.board import Board
from qlstm_bench.sweep.execute import run_all
from qlstm_bench.train import Outcome


def run_watched(
    configs: Sequence[RunConfig],
    labels: Sequence[str],
    out: Path,
    workers: AbstractContextManager[Client],
    *,
    force: bool = False,
) -> tuple[list[Outcome], list[str]]:
    """Train every run, showing on stderr how far each is.

    Args:
        configs: of the runs.
        labels: what tells them apart.
        out: folder of the runs.
        workers: as :func:`qlstm_bench.sweep.execute.local_workers` or ``workers_of`` returns.
        force: train again what has finished.

    Returns:
        what became of the runs that ended, and a line for each that failed.
    """
    outcomes: list[Outcome] = []
    failures: list[str] = []
    with workers as client, Board(labels) as board:
        for ending in run_all(configs, out, client, force=force, follow=board.follow):
            board.end(ending.number, ending.line)
            if ending.outcome is None:
                failures.append(f"{labels[ending.number]}: {ending.error}")
            else:
                outcomes.append(ending.outcome)
    return outcomes, failures
