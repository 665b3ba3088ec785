"""The bench's own plugin: its hooks, and what they give of its own, registered like anyone else's."""

from __future__ import annotations

from collections.abc import Iterable

from qlstm_bench import hookspecs
from qlstm_bench.loggers import LoggerSpec, loggers_of
from qlstm_bench.papers.claims import Claim, claims_of, own_claims
from qlstm_bench.papers.published import PublishedFigure, figures_of, own_figures
from qlstm_bench.tasks import tasks_of
from qlstm_bench.tasks.task import TaskSpec
from qlstm_bench.theory import ExperimentSpec, experiments_of
from qlstm_bench.training.optimizer_catalogue import OptimizerSpec, optimizers_of, torch_optimizers
from qlstm_core.plugins import Registry, hookimpl

_HOU = ("Hou et al. 2019, Normalization helps training of quantized LSTM",)
_LI = ("Li et al. 2017, Training quantized nets, arXiv:1706.02379",)
_SARI = ("Sari and Partovi Nia 2020, Batch normalization in quantized networks",)


@hookimpl
def qlstm_addhooks(registry: Registry) -> None:
    """Add the hooks of :mod:`qlstm_bench.hookspecs`."""
    registry.manager.add_hookspecs(hookspecs)
    tasks_of(registry)
    experiments_of(registry)
    figures_of(registry)
    claims_of(registry)
    optimizers_of(registry)
    loggers_of(registry)


@hookimpl
def qlstm_tasks() -> Iterable[TaskSpec]:
    """Provide the papers' tasks."""
    yield TaskSpec(
        name="char-lm",
        summary="next character of a text",
        factory="qlstm_bench.tasks.char_lm:CharLM",
        references=_HOU,
    )
    yield TaskSpec(
        name="word-lm",
        summary="next word of a text",
        factory="qlstm_bench.tasks.word_lm:WordLM",
        references=_HOU,
    )
    yield TaskSpec(
        name="large-vocab-lm",
        summary="next word out of a large vocabulary, by sampled softmax; samples=8192",
        factory="qlstm_bench.tasks.large_vocab:LargeVocabularyLM",
        references=("Kuchaiev and Ginsburg 2017, arXiv:1703.10722",),
    )
    yield TaskSpec(
        name="mnist",
        summary="digit of an image read pixel by pixel, 784 steps; permuted=true, per_step=28",
        factory="qlstm_bench.tasks.classification:SequentialMNIST",
        references=_HOU,
    )
    yield TaskSpec(
        name="digits",
        summary="digit of a small image read pixel by pixel, 64 steps; permuted=true, per_step=8",
        factory="qlstm_bench.tasks.classification:SequentialDigits",
    )
    yield TaskSpec(
        name="classify",
        summary="class of a sequence, given after its last step; for data of one's own",
        factory="qlstm_bench.tasks.classification:Classification",
    )


@hookimpl
def qlstm_optimizers() -> Iterable[OptimizerSpec]:
    """Provide torch's optimizers."""
    return torch_optimizers()


@hookimpl
def qlstm_loggers() -> Iterable[LoggerSpec]:
    """Provide what the package has a logger for."""
    yield LoggerSpec(
        name="tensorboard",
        summary="event files in each run's folder, for tensorboard --logdir",
        factory="qlstm_bench.loggers.tensorboard:TensorBoard",
    )
    yield LoggerSpec(
        name="mlflow",
        summary="mlflow.db beside the runs, or the store that MLFLOW_TRACKING_URI names",
        factory="qlstm_bench.loggers.mlflow:MLflow",
    )
    yield LoggerSpec(
        name="wandb",
        summary="Weights & Biases: offline, in each run's folder, or as WANDB_MODE says",
        factory="qlstm_bench.loggers.wandb:WandB",
    )


@hookimpl
def qlstm_theory_experiments() -> Iterable[ExperimentSpec]:
    """Provide the experiments on the theorems of two papers."""
    yield ExperimentSpec(
        name="least-squares",
        summary="Least squares with rounded weights: the floors of SR and R, and none for BC",
        factory="qlstm_bench.theory.rounded_training.convex:LeastSquares",
        references=_LI,
    )
    yield ExperimentSpec(
        name="logistic",
        summary="Logistic regression with rounded weights: theorems 1 and 4 beside the error",
        factory="qlstm_bench.theory.rounded_training.convex:Logistic",
        references=_LI,
    )
    yield ExperimentSpec(
        name="binary-connect-floor",
        summary="BinaryConnect's floor on a non-quadratic, and the unit of the weights",
        factory="qlstm_bench.theory.rounded_training.binary_connect:BinaryConnectFloor",
        references=_LI,
    )
    yield ExperimentSpec(
        name="binary-connect-trap",
        summary="BinaryConnect near a grid point: slower than theorem 4 allows",
        factory="qlstm_bench.theory.rounded_training.binary_connect:BinaryConnectTrap",
        references=_LI,
    )
    yield ExperimentSpec(
        name="toy-histograms",
        summary="Toy histograms: BC concentrates on minimisers, SR stagnates",
        factory="qlstm_bench.theory.rounded_training.nonconvex:ToyHistograms",
        references=_LI,
    )
    yield ExperimentSpec(
        name="markov",
        summary="Stochastic rounding as a Markov chain: theorem 5's limit, and how fast it is reached",
        factory="qlstm_bench.theory.rounded_training.markov:MarkovLimit",
        references=_LI,
    )
    yield ExperimentSpec(
        name="rounding-adam",
        summary="Adam with rounded weights on recurrent tasks: order of errors, weights changed",
        factory="qlstm_bench.theory.rounded_training.rounding_adam:RoundingAdam",
        references=_LI,
    )
    yield ExperimentSpec(
        name="batch-norm-gradient",
        summary="Gradient through batch normalisation: equations (1) and (2)",
        factory="qlstm_bench.theory.batch_norm_variance.batch_norm:BatchNormGradient",
        references=_SARI,
    )
    yield ExperimentSpec(
        name="gradient-variance",
        summary="Variance of the gradient through layers, with and without batch normalisation",
        factory="qlstm_bench.theory.batch_norm_variance.variance:GradientVariance",
        references=_SARI,
    )
    yield ExperimentSpec(
        name="ternary-variance",
        summary="Variance of ternary weights and of their sums: equations (4) to (6)",
        factory="qlstm_bench.theory.batch_norm_variance.ternary_variance:TernaryVariance",
        references=_SARI,
    )


@hookimpl
def qlstm_published() -> Iterable[PublishedFigure]:
    """Provide the figures of Hou et al. 2019 and of Kuchaiev and Ginsburg 2017."""
    return own_figures()


@hookimpl
def qlstm_claims() -> Iterable[Claim]:
    """Provide the claims of four papers."""
    return own_claims()
