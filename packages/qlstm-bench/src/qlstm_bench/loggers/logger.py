"""What a logger is: it is told of the start, the figures and the end of a run whose ``log`` names it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from qlstm_core.plugins import Catalogue, Registry, Spec

if TYPE_CHECKING:
    from qlstm_bench.training.folder import Run
    from qlstm_bench.training.result import Result


@dataclass(frozen=True, kw_only=True)
class LoggerSpec(Spec):
    """A place that figures go to; ``factory(**options)`` returns a :class:`qlstm_bench.Logger`."""


class Logger(ABC):
    """Takes the figures of one run to another place; a plugin provides it through ``qlstm_loggers``.

    One is made for each run, and told by the process that writes the run's folder. Whatever it raises is
    warned of once, in one line; it is then left out, and the run goes on.

    Attributes:
        needs: names of the modules that it imports when it is used. A run that names a logger whose modules
            are not installed is refused before it trains.
        install: what pip installs to have them, as in ``"qlstm-bench[mlflow]"``; default: their names.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = ""

    def check(self, out: Path) -> None:  # noqa: B027
        """See, before any training, that it can work for runs in the folder ``out``.

        Raises:
            ConfigError: it cannot, and what to do about it.
        """

    @abstractmethod
    def start(self, run: Run) -> None:
        """Begin a record of a run, or go on with the one that an interruption left.

        Args:
            run: ``run.name`` and ``run.directory`` say where, ``run.config`` holds its settings;
                ``run.last_logged_step()`` is above 0 where it goes on from a checkpoint.
        """

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in one line of metrics.jsonl.

        Args:
            step: optimizer steps done. After an interruption the steps since the checkpoint come once more.
            metrics: figures by name; they may be infinite or NaN.
        """

    @abstractmethod
    def end(self, result: Result | None) -> None:
        """Close the record.

        Args:
            result: what result.json holds; ``None`` where the training was interrupted: it may go on later.
        """


def final_figures(result: Result) -> dict[str, float]:
    """Return the figures that stand for a run: all of its result but those that its lines have."""
    return {name: value for name, value in result.metrics.items() if not name.startswith("valid_")}


def facts(result: Result) -> dict[str, str]:
    """Return what became of a run and what it was made with, by name: status, data, device, versions."""
    return {
        "status": result.fate,
        "dataset": f"{result.dataset.name} {result.dataset.sha256}",
        "device": result.device,
        "git_commit": str(result.git_commit),
        **{f"version.{package}": version for package, version in result.versions.items()},
    }


def loggers_of(registry: Registry) -> Catalogue[LoggerSpec]:
    """Return the catalogue of all loggers that the installed plugins provide."""
    return registry.catalogue("qlstm_loggers", LoggerSpec, "logger", product=Logger)
