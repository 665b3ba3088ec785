"""Tasks, training, gradient norms and reports for recurrent networks with few-bit weights."""

__version__ = "0.1.0"
