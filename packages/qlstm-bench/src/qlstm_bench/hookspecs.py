"""The hooks that qlstm-bench adds: for what plugins provide, and for what happens around a run.

Each docstring is a whole plugin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from qlstm_bench import Claim, ExperimentSpec, LoggerSpec, OptimizerSpec, PublishedFigure, TaskSpec
from qlstm_core.plugins import hookspec

if TYPE_CHECKING:
    from qlstm_bench import Result, Run


@hookspec
def qlstm_tasks() -> Iterable[TaskSpec]:
    """Return the tasks that the plugin provides; called once, at the first look-up.

    Example::

        from qlstm_bench import CharLM, TaskSpec
        from qlstm_core.plugins import hookimpl

        class ShortMemory(CharLM):
            defaults = CharLM.defaults | {"unroll": 10}

        @hookimpl
        def qlstm_tasks():
            yield TaskSpec(name="short-memory", summary="characters, ten steps back", factory=ShortMemory)
    """
    raise NotImplementedError


@hookspec
def qlstm_optimizers() -> Iterable[OptimizerSpec]:
    """Return the optimizers that the plugin provides; called once, at the first look-up.

    Example::

        import torch
        from qlstm_bench import OptimizerSpec
        from qlstm_core.plugins import hookimpl

        class SignDescent(torch.optim.Optimizer):
            def __init__(self, params, lr, weight_decay: float = 0.0):
                super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

            @torch.no_grad()
            def step(self):
                for group in self.param_groups:
                    for param in group["params"]:
                        if param.grad is not None:
                            param.mul_(1 - group["lr"] * group["weight_decay"])
                            param.sub_(group["lr"] * param.grad.sign())

        @hookimpl
        def qlstm_optimizers():
            yield OptimizerSpec(name="sign-descent", summary="steps of one length", factory=SignDescent)
    """
    raise NotImplementedError


@hookspec
def qlstm_loggers() -> Iterable[LoggerSpec]:
    """Return the loggers that the plugin provides; called once, at the first look-up.

    Example::

        import csv
        from qlstm_bench import Logger, LoggerSpec
        from qlstm_core.plugins import hookimpl

        class CSV(Logger):
            def start(self, run):
                self.path = run.directory / "metrics.csv"

            def log(self, step, metrics):
                with self.path.open("a", newline="") as file:
                    csv.writer(file).writerows([step, name, value] for name, value in metrics.items())

            def end(self, result):
                pass

        @hookimpl
        def qlstm_loggers():
            yield LoggerSpec(name="csv", summary="metrics.csv in each run's folder", factory=CSV)
    """
    raise NotImplementedError


@hookspec
def qlstm_theory_experiments() -> Iterable[ExperimentSpec]:
    """Return the theory experiments that the plugin provides; called once, at the first look-up.

    Example::

        import numpy as np
        import pandas as pd
        from pydantic import Field
        from qlstm_bench import Experiment, ExperimentSpec, Findings
        from qlstm_core.plugins import hookimpl

        class MeanOfSigns(Experiment):
            '''The mean of n random signs has standard deviation 1/√n.

            Source: the central limit theorem.
            '''

            signs: tuple[int, ...] = Field(default=(16, 256), description="n, number of signs")

            def run(self, progress=lambda share: None):
                rng = np.random.default_rng(self.seed)
                measured = [rng.choice([-1.0, 1.0], (1000, n)).mean(1).std() for n in self.signs]
                predicted = np.array(self.signs) ** -0.5
                table = pd.DataFrame({"n": self.signs, "measured": measured, "predicted": predicted})
                return Findings(table, draw=lambda figure: None, caption="")

        @hookimpl
        def qlstm_theory_experiments():
            yield ExperimentSpec(name="mean-of-signs", summary="The mean of signs", factory=MeanOfSigns)
    """
    raise NotImplementedError


@hookspec
def qlstm_published() -> Iterable[PublishedFigure]:
    """Return figures that papers published, to stand beside ours; called once, at the first report.

    Example::

        from qlstm_bench import PublishedFigure
        from qlstm_core.plugins import hookimpl

        TABLE = {"none": 1.45, "layer": 1.43}

        @hookimpl
        def qlstm_published():
            for normalizer, figure in TABLE.items():
                yield PublishedFigure(
                    task="char-lm", data="ptb-char", normalizer=normalizer, hidden=512, epochs=200,
                    figure=figure, source="Doe 2026, table 1",
                )
    """
    raise NotImplementedError


@hookspec
def qlstm_claims() -> Iterable[Claim]:
    """Return claims of papers, which reports decide from the runs at hand; called once, at the first report.

    Example::

        from qlstm_bench import Claim, Comparison
        from qlstm_core.plugins import hookimpl

        @hookimpl
        def qlstm_claims():
            yield Claim(
                name="layer-before-weight",
                statement="With layer normalisation BWN and TWN are better than with weight normalisation.",
                source="Doe 2026, section 4",
                margins={"char-lm": 0.02, "word-lm": "2 %"},
                compare=(
                    Comparison(
                        first={"quantizer": ["bwn", "twn"], "normalizer": "weight"},
                        relation="worse",
                        second={"normalizer": "layer"},
                    ),
                ),
            )
    """
    raise NotImplementedError


@hookspec
def qlstm_run_started(run: Run) -> None:
    """Note that a run starts, or goes on from its checkpoint.

    Example::

        from qlstm_core.plugins import hookimpl

        @hookimpl
        def qlstm_run_started(run):
            print(f"{run.name}: hidden {run.config.hidden}")
    """
    raise NotImplementedError


@hookspec
def qlstm_run_logged(run: Run, step: int, metrics: Mapping[str, float]) -> None:
    """Note the figures of one line of metrics.jsonl.

    Example::

        from qlstm_core.plugins import hookimpl

        @hookimpl
        def qlstm_run_logged(run, step, metrics):
            if "valid_bpc" in metrics:
                print(f"{run.name}, step {step}: {metrics['valid_bpc']:.3f} bits per character")
    """
    raise NotImplementedError


@hookspec
def qlstm_run_ended(run: Run, result: Result) -> None:
    """Note the end of a run, and what its result.json holds.

    Example::

        from qlstm_core.plugins import hookimpl

        @hookimpl
        def qlstm_run_ended(run, result):
            print(f"{run.name}: {result.status}")
    """
    raise NotImplementedError
