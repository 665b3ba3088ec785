"""Where the threads that share one time step wait for each other."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types

from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.float_vectors import intrinsic

_LONG = ir.IntType(64)
_PATIENCE = 4000
"""How often a thread looks before it yields."""

# Code from disk finds the function by this name, wherever the library was loaded.
_GIVE_WAY = "qlstm_give_way"
_library: Any = ctypes.CDLL("kernel32" if sys.platform == "win32" else None)
_yield = _library.SwitchToThread if sys.platform == "win32" else _library.sched_yield
llvm.add_symbol(_GIVE_WAY, ctypes.cast(_yield, ctypes.c_void_p).value)


@intrinsic
def _arrive(context: Any, counter: Any) -> Any:
    """Add 1 to ``counter[0]`` and return what it was, before all that others read afterwards."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", pointer, ir.Constant(_LONG, 1), "seq_cst")

    return types.int64(counter), emit


@intrinsic
def _look(context: Any, counter: Any) -> Any:
    """Return ``counter[0]`` as another thread last left it."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(pointer, "seq_cst", 8, typ=_LONG)

    return types.int64(counter), emit


@intrinsic
def _give_way(context: Any) -> Any:
    """Let another thread have the processor: it may be the one that is waited for."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.IntType(32), []), _GIVE_WAY
        )
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), emit


@compiled(None)
def wait(counter: Any, threads: int) -> None:
    """Wait until all ``threads`` have called this equally often; ``counter`` is one int64, at first 0."""
    if threads == 1:
        return
    everyone = (_arrive(counter) // threads + 1) * threads
    waited = 0
    while _look(counter) < everyone:
        waited += 1
        if waited > _PATIENCE:
            _give_way()
