"""The hooks that qlstm-bench adds: tasks, experiments, what papers say, and what happens around a run.

Each docstring is a whole plugin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from qlstm_bench import Claim, ExperimentSpec, PublishedFigure, TaskSpec
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
