"""What is raised when data is missing, damaged or of the wrong kind."""

from qlstm_bench.errors import BenchError


class DataError(BenchError, ValueError):
    """A dataset cannot be used; one line names the file, what was expected and how to get it."""
