"""A download's progress bar."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


class DownloadProgress:
    """Shows bytes received on stderr, while its ``with`` block lasts.

    Args:
        name: of the file.
    """

    def __init__(self, name: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(f"downloading {name}", total=None)

    def __enter__(self) -> DownloadProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, have: int, total: int) -> None:
        """Begin with ``have`` bytes of ``total``."""
        self._progress.update(self._task, completed=have, total=total)

    def update(self, received: int) -> None:
        """Add ``received`` bytes."""
        self._progress.update(self._task, advance=received)
