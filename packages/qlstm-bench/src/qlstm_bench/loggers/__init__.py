"""Where a run's figures can go beside its own folder: TensorBoard, MLflow, Weights & Biases, and plugins."""

from qlstm_bench.loggers.logger import Logger, LoggerSpec, loggers_of

__all__ = ["Logger", "LoggerSpec", "loggers_of"]
