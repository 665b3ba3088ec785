"""TensorBoard: figures of a run as event files in its folder; ``tensorboard --logdir runs`` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qlstm_bench.loggers.logger import Logger

if TYPE_CHECKING:
    from qlstm_bench.training.folder import Run
    from qlstm_bench.training.result import Result


class TensorBoard(Logger):
    """Event files in each run's folder."""

    needs = ("tensorboard",)
    install = "qlstm-bench[tensorboard]"

    def start(self, run: Run) -> None:
        """Open the event files; forget what they hold of steps that are done again."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(run.directory / "tensorboard", purge_step=run.last_logged_step() + 1)
        self._writer.add_text("settings", "    " + run.config.to_yaml().replace("\n", "\n    "))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the figures of a step."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, result: Result | None) -> None:
        """Write the final figures, if there are any, and close the files."""
        if result is not None:
            for name, value in result.metrics.items():
                self._writer.add_scalar(f"result/{name}", value, result.steps)
        self._writer.close()
