"""Gradient stability made visible: norms through time, spectral norms, λ1, λ2, and what they bound."""

from qlstm_bench.gradients.analysis import BoundSummary, GateSummary, LayerAnalysis, LayerSummary, analyze
from qlstm_bench.gradients.bounds import Bounds, Inequality, Lambdas
from qlstm_bench.gradients.normalization import GradientAnalysisError
from qlstm_bench.gradients.of_task import analyze_task, measure_stability, task_gradient_norms, task_gradients
from qlstm_bench.gradients.spectral import spectral_norms
from qlstm_bench.gradients.study.metrics import (
    clipped_share,
    gradient_decades,
    lambda1_excess,
    stability_figures,
)
from qlstm_bench.gradients.through_time import state_gradient_norms
from qlstm_bench.training.result import StateGradientNorms

__all__ = [
    "BoundSummary",
    "Bounds",
    "GateSummary",
    "GradientAnalysisError",
    "Inequality",
    "Lambdas",
    "LayerAnalysis",
    "LayerSummary",
    "StateGradientNorms",
    "analyze",
    "analyze_task",
    "clipped_share",
    "gradient_decades",
    "lambda1_excess",
    "measure_stability",
    "spectral_norms",
    "stability_figures",
    "state_gradient_norms",
    "task_gradient_norms",
    "task_gradients",
]
