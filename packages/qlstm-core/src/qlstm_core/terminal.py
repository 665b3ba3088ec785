"""The standard streams of a command line, whatever they lead to."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress

_REFUSED = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)


def run(program: str, command: Callable[[], int]) -> int:
    """Run a command line and return its exit code; no failure of its output shows as a traceback.

    A character that the terminal's encoding lacks is written as Python's escape; a stream that is closed
    takes everything; a reader that has gone away ends the command with 1, without a word; a full disk ends it
    with 1 and a line.

    Args:
        program: name of the program, for messages.
        command: the function that does the work and returns the exit code.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open to the end)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in _REFUSED or error.filename is not None:  # no stream's
            raise
        with suppress(OSError, ValueError):  # nothing is left for the interpreter to flush at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            with suppress(OSError):
                print(f"{program}: error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 1
