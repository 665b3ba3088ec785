"""How far a sweep is: a live table on a terminal, else a line when something happens."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from distributed import Client
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qlstm_bench.config import RunConfig
from qlstm_bench.sweep.cluster import run_all
from qlstm_bench.training.run import Outcome
from qlstm_core.printable import printable

_MARGIN = 6  # lines of a terminal that are not rows of the table


@dataclass
class _Row:
    """What is known of a run."""

    label: str
    state: str = "waiting"
    worker: str = ""
    step: int = 0
    steps: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    began: float = 0.0
    took: float = 0.0


class Board:
    """Shows the runs of a sweep on stderr.

    Args:
        labels: labels of the runs.
        console: console to write on.
    """

    def __init__(self, labels: Sequence[str], console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._rows = [_Row(label) for label in labels]
        self._ended: list[int] = []
        self._live = Live(
            console=self._console, get_renderable=self.render, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def follow(self, message: dict[str, Any]) -> None:
        """Note what a worker tells; see :data:`qlstm_bench.sweep.cluster.Follow`."""
        number = message["run"]
        row = self._rows[number]
        if number in self._ended:
            return
        if row.worker not in ("", message["worker"]):
            self._say(f"{row.label}: its worker died; it goes on from its checkpoint")
        if not row.worker:
            row.began = time.monotonic()
        row.state, row.worker = "running", message["worker"]
        if message["steps"]:
            row.step, row.steps = message["step"], message["steps"]
        row.figures |= {
            name: value for name, value in message["figures"].items() if name.startswith("valid_")
        }

    def end(self, number: int, line: str) -> None:
        """Note that a run has ended, and how."""
        row = self._rows[number]
        row.state = printable(line.partition(";")[0])
        row.took = time.monotonic() - row.began if row.began else 0.0
        self._ended.append(number)
        self._say(f"[{len(self._ended)}/{len(self._rows)}] {row.label}: {line}")

    def _say(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(printable(line), highlight=False, markup=False, soft_wrap=True)

    def render(self) -> Group:
        """Return the table as it is now."""
        running = [row for row in self._rows if row.state == "running"]
        last = [self._rows[number] for number in reversed(self._ended)]
        shown = [*running, *last][: max(1, self._console.height - _MARGIN)]
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "state", "", "steps", "figures", "time"):
            table.add_column(heading, no_wrap=True)
        for row in shown:
            active = row.state == "running"
            seconds = time.monotonic() - row.began if active else row.took
            table.add_row(
                Text(row.label),
                Text(row.state, style="" if active else "dim"),
                ProgressBar(total=row.steps or 1, completed=row.step, width=16) if active else "",
                f"{row.step}/{row.steps}" if active and row.steps else "",
                "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in row.figures.items()),
                f"{seconds:.0f} s",
            )
        return Group(table, Text(self._summary(len(running))))

    def _summary(self, running: int) -> str:
        """Return how many runs there are of each fate, as in ``12 of 40 ended: 10 completed, …``."""
        # "diverged at step 3" and "failed: no memory" without what differs from run to run.
        fates = Counter(re.split(r" at step |: ", self._rows[number].state)[0] for number in self._ended)
        parts = ", ".join(f"{count} {fate}" for fate, count in fates.items())
        waiting = len(self._rows) - len(self._ended) - running
        ended = f"{len(self._ended)} of {len(self._rows)} ended" + (f": {parts}" if parts else "")
        return f"{ended}; {running} running, {waiting} waiting"


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
        configs: settings of the runs.
        labels: what tells them apart.
        out: folder of the runs.
        workers: as :func:`qlstm_bench.sweep.cluster.local_workers` or ``workers_of`` returns.
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
