"""The theorems of the papers, run: predictions beside measurements, with settings that can be changed."""

from qlstm_bench.theory.catalogue import EXPERIMENTS, experiment_class
from qlstm_bench.theory.experiment import Experiment, Findings, TheoryError

__all__ = ["EXPERIMENTS", "Experiment", "Findings", "TheoryError", "experiment_class"]
