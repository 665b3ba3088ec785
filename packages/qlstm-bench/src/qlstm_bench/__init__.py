"""Tasks, training, gradient norms and reports for recurrent networks with few-bit weights.

What programs and plugins use is exported here, and imported when it is used.
"""

from typing import TYPE_CHECKING

from qlstm_core.exports import lazily

if TYPE_CHECKING:
    from qlstm_bench.config import RunConfig
    from qlstm_bench.errors import BenchError, ConfigError, DataError, RunError
    from qlstm_bench.gradients import (
        GradientAnalysisError,
        analyze,
        analyze_task,
        spectral_norms,
        state_gradient_norms,
        task_gradient_norms,
    )
    from qlstm_bench.loggers import Logger, LoggerSpec, loggers_of
    from qlstm_bench.papers import Claim, Comparison, PublishedFigure
    from qlstm_bench.report import (
        Record,
        Verdict,
        claims_frame,
        collect,
        decide_claims,
        print_claims,
        print_table,
        published_frame,
        results_frame,
        summary_frame,
        to_csv,
        to_latex,
        to_markdown,
        write_html,
    )
    from qlstm_bench.speed.peers import Peer, onnx_runtime_int8, onnx_runtime_missing
    from qlstm_bench.sweep.plan import read_plan
    from qlstm_bench.sweep.yaml_lines import Document
    from qlstm_bench.tasks.char_lm import CharLM
    from qlstm_bench.tasks.classification import Classification, SequentialDigits, SequentialMNIST
    from qlstm_bench.tasks.large_vocab import LargeVocabularyLM
    from qlstm_bench.tasks.layers import make_initial_state, make_layer
    from qlstm_bench.tasks.task import Task, TaskSpec, tasks_of
    from qlstm_bench.tasks.word_lm import WordLM
    from qlstm_bench.theory import Experiment, ExperimentSpec, Findings, make_experiment
    from qlstm_bench.training.folder import Run
    from qlstm_bench.training.optimizer import GradientNorm, clip_gradients_, make_optimizer
    from qlstm_bench.training.optimizer_catalogue import OptimizerSpec, optimizers_of
    from qlstm_bench.training.result import Result, StateGradientNorms
    from qlstm_bench.training.run import Outcome, resolve, train
    from qlstm_bench.training.trained import load_model

__version__ = "0.1.0"

__all__ = [
    "BenchError", "CharLM", "Claim", "Classification", "Comparison", "ConfigError", "DataError", "Document",
    "Experiment", "ExperimentSpec", "Findings", "GradientAnalysisError", "GradientNorm",
    "LargeVocabularyLM", "Logger", "LoggerSpec", "OptimizerSpec", "Outcome", "Peer", "PublishedFigure",
    "Record", "Result", "Run", "RunConfig", "RunError", "SequentialDigits", "SequentialMNIST",
    "StateGradientNorms", "Task", "TaskSpec", "Verdict", "WordLM", "analyze", "analyze_task",
    "claims_frame", "clip_gradients_", "collect", "decide_claims", "load_model", "loggers_of",
    "make_experiment", "make_initial_state", "make_layer", "make_optimizer", "onnx_runtime_int8",
    "onnx_runtime_missing", "optimizers_of", "print_claims", "print_table", "published_frame", "read_plan",
    "resolve", "results_frame", "spectral_norms", "state_gradient_norms", "summary_frame",
    "task_gradient_norms", "tasks_of", "to_csv", "to_latex", "to_markdown", "train", "write_html",
]  # fmt: skip

_ORIGINS = {
    "qlstm_bench.config": ("RunConfig",),
    "qlstm_bench.errors": ("BenchError", "ConfigError", "DataError", "RunError"),
    "qlstm_bench.gradients": (
        "GradientAnalysisError", "analyze", "analyze_task", "spectral_norms", "state_gradient_norms",
        "task_gradient_norms",
    ),
    "qlstm_bench.loggers": ("Logger", "LoggerSpec", "loggers_of"),
    "qlstm_bench.papers": ("Claim", "Comparison", "PublishedFigure"),
    "qlstm_bench.report": (
        "Record", "Verdict", "claims_frame", "collect", "decide_claims", "print_claims", "print_table",
        "published_frame", "results_frame", "summary_frame", "to_csv", "to_latex", "to_markdown",
        "write_html",
    ),
    "qlstm_bench.speed.peers": ("Peer", "onnx_runtime_int8", "onnx_runtime_missing"),
    "qlstm_bench.sweep.plan": ("read_plan",),
    "qlstm_bench.sweep.yaml_lines": ("Document",),
    "qlstm_bench.tasks.char_lm": ("CharLM",),
    "qlstm_bench.tasks.classification": ("Classification", "SequentialDigits", "SequentialMNIST"),
    "qlstm_bench.tasks.large_vocab": ("LargeVocabularyLM",),
    "qlstm_bench.tasks.layers": ("make_initial_state", "make_layer"),
    "qlstm_bench.tasks.task": ("Task", "TaskSpec", "tasks_of"),
    "qlstm_bench.tasks.word_lm": ("WordLM",),
    "qlstm_bench.theory": ("Experiment", "ExperimentSpec", "Findings", "make_experiment"),
    "qlstm_bench.training.folder": ("Run",),
    "qlstm_bench.training.optimizer": ("GradientNorm", "clip_gradients_", "make_optimizer"),
    "qlstm_bench.training.optimizer_catalogue": ("OptimizerSpec", "optimizers_of"),
    "qlstm_bench.training.result": ("Result", "StateGradientNorms"),
    "qlstm_bench.training.run": ("Outcome", "resolve", "train"),
    "qlstm_bench.training.trained": ("load_model",),
}  # fmt: skip
"""The modules that define what is exported, and the names."""

__getattr__, __dir__ = lazily(
    __name__, {name: module for module, names in _ORIGINS.items() for name in names}
)
