"""Gradient stability made visible: norms through time, spectral norms, λ1, λ2, and what they bound."""

from qlstm_bench.gradients.analysis import (
    BoundSummary,
    GateSummary,
    LayerAnalysis,
    LayerSummary,
    analyze,
    analyze_task,
)
from qlstm_bench.gradients.bounds import Bounds, Inequality, Lambdas
from qlstm_bench.gradients.metrics import (
    clipped_share,
    gradient_decades,
    lambda1_excess,
    measure_stability,
    stability_figures,
)
from qlstm_bench.gradients.normalization import GradientAnalysisError
from qlstm_bench.gradients.spectral import spectral_norms
from qlstm_bench.gradients.state_norms import (
    StateGradientNorms,
    state_gradient_norms,
    task_gradient_norms,
    task_gradients,
)

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
