"""Progress of long work on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


@contextmanager
def share_of_work(title: str) -> Iterator[Callable[[float], None]]:
    """Show a bar on stderr, where that is a terminal, and give the function that moves it.

    Args:
        title: description of the work, beside the bar.

    Yields:
        a function to be told the share that is done, between 0 and 1.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda share: progress.update(task, completed=share)


class ProgressContext:
    """Shows the bars of ``_progress`` while its ``with`` block lasts."""

    _progress: Progress

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()


class RunProgress(ProgressContext):
    """A bar on stderr with the latest figures; where stderr is no terminal, a line at each validation."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=None)
        self._latest: dict[str, float] = {}

    def update(self, step: int, steps: int, figures: Mapping[str, float]) -> None:
        """Show where a run is; a :data:`qlstm_bench.training.run.Listener`."""
        self._latest |= figures
        shown = [name for name in sorted(self._latest) if name.startswith(("train_", "valid_"))]
        text = "  ".join(f"{name.replace('_', ' ')} {self._latest[name]:.3f}" for name in shown)
        self._progress.update(self._task, completed=step, total=steps, description=text)
        if self._progress.disable and any(name.startswith("valid_") for name in figures):
            self._progress.console.print(f"step {step}/{steps}  {text}", highlight=False, soft_wrap=True)


class DownloadProgress(ProgressContext):
    """Shows bytes received on stderr, while its ``with`` block lasts.

    Args:
        name: name of the file.
    """

    def __init__(self, name: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(f"downloading {name}", total=None)

    def start(self, have: int, total: int) -> None:
        """Begin with ``have`` bytes of ``total``."""
        self._progress.update(self._task, completed=have, total=total)

    def update(self, received: int) -> None:
        """Add ``received`` bytes."""
        self._progress.update(self._task, advance=received)
