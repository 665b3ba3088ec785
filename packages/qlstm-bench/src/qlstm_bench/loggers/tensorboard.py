"""TensorBoard: figures of a run as event files in its folder; ``tensorboard --logdir runs`` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qlstm_core.plugins import hookimpl

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from qlstm_bench.training.folder import Run
    from qlstm_bench.training.result import Result

_writers: dict[Path, SummaryWriter] = {}


@hookimpl
def qlstm_run_started(run: Run) -> None:
    """Open the event files; forget what they hold of steps that are done again."""
    if "tensorboard" not in run.config.log:
        return
    from torch.utils.tensorboard import SummaryWriter

    before = _writers.pop(run.directory, None)  # of a training in this process that was interrupted
    if before is not None:
        before.close()
    writer = SummaryWriter(run.directory / "tensorboard", purge_step=run.last_logged_step() + 1)
    writer.add_text("settings", "    " + run.config.to_yaml().replace("\n", "\n    "))
    _writers[run.directory] = writer


@hookimpl
def qlstm_run_logged(run: Run, step: int, metrics: Mapping[str, float]) -> None:
    """Write the figures of a step."""
    writer = _writers.get(run.directory)
    if writer is not None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()


@hookimpl
def qlstm_run_ended(run: Run, result: Result) -> None:
    """Write the final figures, and close the files."""
    writer = _writers.pop(run.directory, None)
    if writer is not None:
        for name, value in result.metrics.items():
            writer.add_scalar(f"result/{name}", value, result.steps)
        writer.close()
