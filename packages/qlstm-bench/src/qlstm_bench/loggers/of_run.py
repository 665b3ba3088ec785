"""The loggers that a run names: made before it trains, told of it, and kept from harming it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from qlstm_bench.config import ConfigError
from qlstm_bench.loggers.logger import Logger, loggers_of
from qlstm_core.plugins import PluginWarning, registry
from qlstm_core.plugins.errors import blame

if TYPE_CHECKING:
    from qlstm_bench.training.folder import Run
    from qlstm_bench.training.result import Result


def canonical_loggers(names: Iterable[str]) -> list[str]:
    """Return the one spelling of each logger, each once.

    Raises:
        PluginError: an unknown name or option; lists the nearest names and those installed.
    """
    catalogue = loggers_of(registry)
    return list(dict.fromkeys(catalogue.canonical(name) for name in names))


class RunLoggers:
    """The loggers of one run. What one of them raises is warned of once; it is then left out of this run.

    As a context it closes, when it is left by an interruption, the records that have not ended.

    Args:
        names: the loggers, with options or without.
        out: folder of the runs.

    Raises:
        ConfigError: a logger without its modules, or one that cannot work there.
        PluginError: an unknown name, an option that does not fit, or a factory that makes no logger.
    """

    def __init__(self, names: Sequence[str], out: Path) -> None:
        catalogue = loggers_of(registry)
        self._loggers: dict[str, Logger] = {name: catalogue.create(name) for name in names}
        self._started = False
        for name, logger in self._loggers.items():
            _check_modules(name, logger)
        self._tell(lambda logger: logger.check(out), passing=ConfigError)

    def start(self, run: Run) -> None:
        """Tell all that a run starts, or goes on from its checkpoint."""
        self._started = True
        self._tell(lambda logger: logger.start(run))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell all one line of metrics.jsonl."""
        self._tell(lambda logger: logger.log(step, metrics))

    def end(self, result: Result | None) -> None:
        """Tell all that the run has ended; ``None`` stands for an interruption."""
        self._tell(lambda logger: logger.end(result))
        self._loggers.clear()

    def __enter__(self) -> RunLoggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started:
            self.end(None)

    def _tell(self, say: Callable[[Logger], None], passing: type[Exception] | tuple[()] = ()) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                say(logger)
            except passing:
                raise
            except BaseException as error:
                reason = blame(error)
                del self._loggers[name]
                warnings.warn(f"log: {name} failed, and the run goes on without it: {reason}", PluginWarning)


def _check_modules(name: str, logger: Logger) -> None:
    missing = [module for module in logger.needs if find_spec(module) is None]
    if missing:
        install = logger.install or " ".join(missing)
        raise ConfigError(
            f"log: {name} needs {', '.join(missing)}: run `pip install '{install}'`, or leave it out"
        )
