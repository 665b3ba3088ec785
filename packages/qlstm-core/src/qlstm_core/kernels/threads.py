"""Runs compiled code, which holds no GIL, in several threads.

In torch's own team of threads where it is GNU OpenMP's (``GOMP_parallel`` is part of its stable interface):
after torch's work they wait actively for the next, for some milliseconds, and threads of another pool would
share the processors with them. Elsewhere in a pool.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch

WORTH_A_THREAD = 1 << 23
"""Multiplications for which a second thread is worth its start."""


def parts_worth(multiplications: int, room: int) -> int:
    """Return into how many parts work is worth dividing, of at most ``room`` parts."""
    return max(1, min(torch.get_num_threads(), room)) if multiplications > WORTH_A_THREAD else 1


def share_work(parts: int, run: Callable[[int], None]) -> None:
    """Call ``run(0)`` to ``run(parts − 1)``, all at the same time, each in a thread of its own."""
    if parts == 1:
        run(0)
    elif _openmp() is None or not _run_in_team(_openmp(), parts, run):
        _run_in_pool(parts, run)


@cache
def _openmp() -> Any:
    """Return the GNU OpenMP library that torch brought along, if it did."""
    for path in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "GOMP_parallel"):
            return library
    return None


_Member = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _run_in_team(library: Any, parts: int, run: Callable[[int], None]) -> bool:
    """Return whether there were as many threads as parts; if not, nothing was done."""
    complete = True
    errors: list[BaseException] = []

    def member(_: Any) -> None:
        nonlocal complete
        if library.omp_get_num_threads() != parts:
            complete = False
            return
        try:
            run(library.omp_get_thread_num())
        except BaseException as error:
            errors.append(error)

    library.GOMP_parallel(_Member(member), None, ctypes.c_uint(parts), ctypes.c_uint(0))
    if errors:
        raise errors[0]
    return complete


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="qlstm")


# Parts wait for each other: those of two callers must not take each other's threads.
_turn = Lock()


def _start_anew() -> None:
    """Forget, in a forked process, the threads that it lacks."""
    global _turn
    _turn = Lock()
    _workers.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def _run_in_pool(parts: int, run: Callable[[int], None]) -> None:
    with _turn:
        others = [_workers(parts - 1).submit(run, part) for part in range(1, parts)]
        run(0)
        for other in others:
            other.result()
