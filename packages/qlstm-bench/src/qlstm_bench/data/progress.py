"""A download's progress bar, in the form that pooch asks for."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


class DownloadProgress:
    """Shows bytes received on stderr; pooch sets ``total`` and calls ``update``, ``reset`` and ``close``."""

    def __init__(self, name: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(f"downloading {name}", total=None)
        self._total: float = 0

    def __enter__(self) -> DownloadProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @property
    def total(self) -> float:
        """Bytes to receive."""
        return self._total

    @total.setter
    def total(self, size: float) -> None:
        self._total = size
        self._progress.update(self._task, total=size or None)

    def update(self, received: int) -> None:
        """Add ``received`` bytes."""
        self._progress.update(self._task, advance=received)

    def reset(self) -> None:
        """Start from nothing."""
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        """Do nothing: the bar disappears with the ``with`` block."""
