"""How kernels are compiled: without the GIL, at their first call, and kept on disk.

Numba's disk cache looks at the file of the compiled function only: after an edit or an upgrade that changes a
function called from another file, it would serve the old code. The cache here belongs to one content of all
sources that end up in a function's code; whatever else it finds, it compiles anew and overwrites.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

F = TypeVar("F", bound=Callable[..., Any])


@cache
def source_digest(folder: Path) -> str:
    """Return a digest of the sources in ``folder`` and of the modules at the top of this package.

    Compiled code may call whatever stands there: a list of what it does call would one day lack a file.
    """
    digest = hashlib.sha256()
    for source in [*sorted(Path(__file__).parent.glob("*.py")), *sorted(folder.glob("*.py"))]:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()


class _KernelCache(FunctionCache):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=source_digest(Path(function.__code__.co_filename).parent),
        )

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        # Numba's own key pickles what the function closes over, and a compiled function pickles differently
        # in each process: it would never be found again. The function's name holds its variant instead.
        return signature, codegen.magic_tuple()


def compiled(variant: str | None = "", **options: Any) -> Callable[[F], F]:
    """Compile a function at its first call for each type of arguments: no GIL, divisions as in IEEE 754.

    Args:
        variant: tells apart, on disk, the functions that one ``def`` makes with different closures; every
            closed-over value that changes the code must be in it. ``None`` keeps the function off the disk,
            as befits one that only other compiled functions call.
        options: of :func:`numba.njit`.
    """

    def decorate(function: F) -> F:
        # Code from disk brings its symbols along, made of a function's name and of a count that starts anew
        # in each process. Were two closures of one def called the same, one could run in place of the other.
        distinction = uuid4().hex if variant is None else variant
        if distinction:
            function.__qualname__ += f"_{distinction}"
        dispatcher = njit(nogil=True, error_model="numpy", **options)(function)
        # With NUMBA_DISABLE_JIT, njit returns the function itself.
        if variant is not None and dispatcher is not function:
            # RuntimeError: no place on disk can be written. Every process then compiles for itself.
            with contextlib.suppress(RuntimeError):
                dispatcher._cache = _KernelCache(function)
        return dispatcher  # type: ignore[no-any-return]

    return decorate
