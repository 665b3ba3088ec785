"""A download's progress bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from qlstm_bench.progress import Shown


class DownloadProgress(Shown):
    """Shows bytes received on stderr, while its ``with`` block lasts.

    Args:
        name: of the file.
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
