"""Weights & Biases: settings, figures and fate of each run, offline in its folder; ``wandb sync`` uploads it.

The environment says otherwise as it does everywhere: ``WANDB_MODE=online`` uploads at once, ``WANDB_PROJECT``
names the project. A run that goes on has a further folder of the same id, which ``wandb sync`` joins to the
first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qlstm_bench.loggers.logger import Logger, facts, final_figures

if TYPE_CHECKING:
    from qlstm_bench.training.folder import Run
    from qlstm_bench.training.result import Result


class WandB(Logger):
    """A run of Weights & Biases for each run."""

    needs = ("wandb",)
    install = "qlstm-bench[wandb]"

    def start(self, run: Run) -> None:
        """Begin a run in ``wandb/`` of the run's folder, or go on with the id that is there."""
        # A training tells nobody about itself, nor about the machine, but where its user wants it to.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        # offline-run-20261128_015055-gyxul05s
        before = sorted(run.directory.glob("wandb/*run-*-*"), key=lambda path: path.name.partition("run-")[2])
        going_on = bool(before) and run.last_logged_step() > 0
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or f"qlstm-{run.config.task.partition(':')[0]}",
            name=run.name,
            id=before[-1].name.rpartition("-")[2] if going_on else None,
            resume="allow" if going_on else None,
            config=run.config.model_dump(),
            settings=wandb.Settings(
                mode=mode,
                root_dir=str(run.directory),
                reinit="create_new",  # a run that the program has open stays its own
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                disable_job_creation=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the figures of a step."""
        self._run.log(dict(metrics), step=step)

    def end(self, result: Result | None) -> None:
        """Write the final figures and what became of the run, if it has ended, and close the files."""
        if result is None:
            self._run.finish()
            return
        self._run.summary.update({**final_figures(result), **facts(result)})
        self._run.finish(exit_code=int(result.status == "failed"))
