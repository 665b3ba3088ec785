"""The root of what a user can put right."""


class BenchError(Exception):
    """Something asked for cannot be done; its one line says what, what is allowed, and what to do.

    The command line prints it without a traceback and ends with :attr:`exit_code`.
    """

    exit_code = 2


class ConfigError(BenchError, ValueError):
    """A setting that cannot be used; the message is one line that names it and what is allowed."""


class DataError(BenchError, ValueError):
    """A dataset cannot be used; one line names the file, what was expected and how to get it."""


class RunError(BenchError):
    """A run directory that cannot be read or written; the message is one line that names it."""


class RunBusyError(RunError):
    """A run that another process is training."""
