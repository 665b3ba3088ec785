"""How kernels are compiled: without the GIL, at their first call, and kept on disk.

Numba's disk cache looks at the file of the compiled function only: after an edit or an upgrade that changes a
function called from another file, it would serve the old code. The cache here belongs to one content of this
folder and the function's own, from which alone compiled code is made; whatever else it finds, it compiles
again and overwrites. What a power cut or a full disk left of a file is known by its digest before anything of
it is read: Numba would unpickle it, and run the code in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

_DIGEST_SIZE = hashlib.sha256().digest_size

F = TypeVar("F", bound=Callable[..., Any])


@cache
def source_digest(folder: Path) -> str:
    """Return a digest of the sources in ``folder`` and in this one, the toolkit.

    Compiled code may take functions and constants from both, and from nowhere else: a list of what it does
    take would one day lack a file.
    """
    digest = hashlib.sha256()
    for source in [*sorted(Path(__file__).parent.glob("*.py")), *sorted(folder.glob("*.py"))]:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()


class _Files(IndexDataCacheFile):
    """Numba's two files of a function, each ending in a digest of its content and of the sources."""

    def save(self, key: Any, data: Any) -> None:
        """Save the code of one signature, together with the signature.

        Two processes may give one name to the code of different signatures: which was last to write the
        index says nothing of the code.
        """
        super().save(key, (key, data))  # type: ignore[no-untyped-call]

    def load(self, key: Any) -> Any:
        """Return the code of one signature, or ``None`` where there is none that is whole."""
        found = super().load(key)  # type: ignore[no-untyped-call]
        return found[1] if found is not None and found[0] == key else None

    def _load_index(self) -> Any:
        return super()._load_index() if self._is_whole(self._index_path) else {}  # type: ignore[no-untyped-call]

    def _load_data(self, name: str) -> Any:
        whole = self._is_whole(self._data_path(name))  # type: ignore[no-untyped-call]
        return super()._load_data(name) if whole else None  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[Any]:
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue())
            # Unpickling stops before it.
            file.write(self._digest(content.getvalue()))

    def _is_whole(self, path: str) -> bool:
        try:
            content = Path(path).read_bytes()
        except OSError:
            return False
        return content[-_DIGEST_SIZE:] == self._digest(content[:-_DIGEST_SIZE])

    def _digest(self, content: bytes) -> bytes:
        return hashlib.sha256(self._source_stamp.encode() + content).digest()


class _KernelCache(FunctionCache):
    warned = False

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._cache_file = _Files(  # type: ignore[no-untyped-call]
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=source_digest(Path(function.__code__.co_filename).parent),
        )

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        # Numba's own key pickles what the function closes over, and a compiled function pickles differently
        # in each process: it would never be found again. The function's name holds its variant instead.
        return signature, codegen.magic_tuple()

    def save_overload(self, signature: Any, data: Any) -> None:
        """Save what was compiled; it runs all the same where the disk is full or must not be written."""
        try:
            super().save_overload(signature, data)  # type: ignore[no-untyped-call]
        except OSError as error:
            if not _KernelCache.warned:
                _KernelCache.warned = True
                warnings.warn(
                    f"compiled code cannot be kept in {self.cache_path} ({error.strerror or error}): every "
                    "process compiles it for itself; make room, or set NUMBA_CACHE_DIR to another folder",
                    RuntimeWarning,
                    stacklevel=2,
                )


def compiled(variant: str | None = "", **options: Any) -> Callable[[F], F]:
    """Compile a function at its first call for each type of arguments: no GIL, divisions as in IEEE 754.

    Args:
        variant: tells apart, on disk, the functions that one ``def`` makes with different closures; every
            closed-over value that changes the code must be in it. ``None`` keeps the function off the disk,
            as befits one that only other compiled functions call.
        options: options of :func:`numba.njit`.
    """

    def decorate(function: F) -> F:
        # Code from disk brings its symbols along, made of a function's name and of a count that starts again
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
