"""The theorems of the papers, run: predictions beside measurements, with settings that can be changed."""

from qlstm_bench.theory.experiment import (
    Experiment,
    ExperimentSpec,
    Findings,
    TheoryError,
    default_experiment,
    experiments_of,
    installed_experiments,
    loadable_experiments,
    make_experiment,
)

__all__ = [
    "Experiment", "ExperimentSpec", "Findings", "TheoryError", "default_experiment", "experiments_of",
    "installed_experiments", "loadable_experiments", "make_experiment",
]  # fmt: skip
