"""The experiments by name; each module is imported when its experiment is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from qlstm_bench.theory.experiment import Experiment, TheoryError
from qlstm_core.plugins.errors import suggest

EXPERIMENTS: Mapping[str, str] = {
    "least-squares": "rounded_training.convex:LeastSquares",
    "logistic": "rounded_training.convex:Logistic",
    "binary-connect-floor": "rounded_training.binary_connect:BinaryConnectFloor",
    "binary-connect-trap": "rounded_training.binary_connect:BinaryConnectTrap",
    "toy-histograms": "rounded_training.nonconvex:ToyHistograms",
    "markov": "rounded_training.markov:MarkovLimit",
    "rounding-adam": "rounded_training.rounding_adam:RoundingAdam",
    "batch-norm-gradient": "batch_norm_variance.batch_norm:BatchNormGradient",
    "gradient-variance": "batch_norm_variance.variance:GradientVariance",
    "ternary-variance": "batch_norm_variance.ternary_variance:TernaryVariance",
}
"""Name to module and class, in the order of the papers."""


def experiment_class(name: str) -> type[Experiment]:
    """Return an experiment's class by its name.

    Raises:
        TheoryError: an unknown name.
    """
    if name not in EXPERIMENTS:
        raise TheoryError(
            f"unknown experiment {name!r}{suggest(name, EXPERIMENTS)}; "
            f"expected all, or one of {', '.join(EXPERIMENTS)}"
        )
    module, _, attribute = EXPERIMENTS[name].partition(":")
    found: type[Experiment] = getattr(import_module(f"qlstm_bench.theory.{module}"), attribute)
    return found
