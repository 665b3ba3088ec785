"""A weight whose products are looked up, and how compiled code calls what looks them up: by address.

By address, code that multiplies need not take in the code of every kernel, nor be compiled again when one of
them changes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types
from numba.core.errors import TypingError

from qlstm_core.kernels.float_vectors import intrinsic


class PackedWeight(NamedTuple):
    """A weight ``(groups, rows, cols)``, block-diagonal, as bits or as panels of floats.

    Args:
        address: of the function that multiplies by the bits; 0: the weight is in panels.
        panels: ``(panels, depth, width)``, see :mod:`qlstm_core.kernels.gemm`; none of a weight in bits.
        header: int64, numbers that the function knows.
        blocks: ``(terms · groups, tiles, …, …)`` uint8: of each term and group what kernels read.
        factors: ``(terms, groups · columns)``, what a vector is multiplied with first; no terms: nothing.
        scales: ``(terms · groups, sums, lines)``, what sums are multiplied with.
        offsets: ``(terms · groups, lines)``, added to each weight of a line; or no terms.
        matrix: the weight itself, for what is not finite.
        work: ``(threads, …)`` uint8, what each thread computes in.
    """

    address: int
    panels: Any
    header: Any
    blocks: Any
    factors: Any
    scales: Any
    offsets: Any
    matrix: Any
    work: Any


def _array(dtype: Any, dimensions: int) -> Any:
    return types.Array(dtype, dimensions, "C")


_ROWS = _array(types.float32, 2)
_FIELDS = (
    types.int64, _array(types.float32, 3), _array(types.int64, 1), _array(types.uint8, 4), _ROWS,
    _array(types.float32, 3), _ROWS, _array(types.float32, 3), _array(types.uint8, 2),
)  # fmt: skip
MULTIPLY_ROWS = types.void(
    types.NamedTuple(_FIELDS, PackedWeight), _ROWS, types.int64, types.int64, _ROWS, types.int64,
    types.boolean, types.int64,
)  # fmt: skip
"""The signature of :func:`qlstm_core.packed.engine.row_products.multiply_rows`."""


def address_of(function: Any, signature: Any) -> int:
    """Compile a function for one signature, or take it from disk, and return its address."""
    function.compile(signature.args)
    result = function.overloads[signature.args]
    assert result.signature.return_type == signature.return_type, result.signature
    address: int = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    return address


def call_at(signature: Any, arguments: tuple[Any, ...]) -> Any:
    """Return an intrinsic's typing and code: a call of the function of ``signature`` at an address.

    Args:
        signature: signature of the function.
        arguments: types of the arguments, which must be those of ``signature``.
    """
    if arguments != signature.args:
        raise TypingError(f"expected arguments {signature.args}, got {arguments}")

    def emit(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        call_conv = context.call_conv
        kind = call_conv.get_function_type(signature.return_type, signature.args)
        function = builder.inttoptr(args[0], kind.as_pointer())
        status, result = call_conv.call_function(
            builder, function, signature.return_type, signature.args, args[1:]
        )
        with builder.if_then(status.is_error, likely=False):
            call_conv.return_status_propagate(builder, status)
        return result

    return signature.return_type(types.int64, *signature.args), emit


@intrinsic
def call_multiply_rows(
    context: Any, address: Any, weight: Any, x: Any, row: Any, count: Any, out: Any, to: Any, add: Any,
    part: Any,
) -> Any:  # fmt: skip
    """Call :func:`qlstm_core.packed.engine.row_products.multiply_rows` at ``address``."""
    return call_at(MULTIPLY_ROWS, (weight, x, row, count, out, to, add, part))
