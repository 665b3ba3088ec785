"""Vectors of floats inside compiled kernels, on every CPU: 16 float32 or 8 float64, used like numbers.

LLVM turns a vector into as many registers as the CPU needs. What a kernel computes is then written once,
element by element, without relying on LLVM to discover that a loop can be vector code. A mask tells which
lanes are inside the array; others read as zero and are not written.

Functions are callable from compiled code only. Arrays are three-dimensional, C-contiguous, and addressed
without bounds checks or negative indexes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import lower_builtin, models, register_model, type_callable

intrinsic: Callable[..., Callable[..., Any]] = numba_intrinsic

_BYTES = 64
_INT = ir.IntType(32)
_BIT = ir.IntType(1)
# Products and sums may fuse; nothing may be reordered, since kernels add and subtract constants in order to
# round.
FLAGS = ("contract",)


class Vector(types.Type):
    """The Numba type of a vector of ``dtype``, float32 or float64."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = _BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype})")


class Mask(types.Type):
    """The Numba type of one bit per lane."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"Mask({lanes})")


def _float(dtype: Any) -> Any:
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def llvm_vector(vector: Vector) -> Any:
    """Return the LLVM type."""
    return ir.VectorType(_float(vector.dtype), vector.lanes)


def _bits(vector: Vector) -> Any:
    return ir.VectorType(ir.IntType(vector.dtype.bitwidth), vector.lanes)


def _mask(lanes: int) -> Any:
    return ir.VectorType(_BIT, lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, llvm_vector(vector))  # type: ignore[no-untyped-call]


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, mask: Mask) -> None:
        super().__init__(manager, mask, _mask(mask.lanes))  # type: ignore[no-untyped-call]


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Emit a vector of ``lanes`` times ``value``."""
    empty = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    single = builder.insert_element(empty, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(single, empty, ir.Constant(ir.VectorType(_INT, lanes), [0] * lanes))


def _check_array(array: Any) -> Vector:
    if not isinstance(array, types.Array) or array.ndim != 3 or array.layout != "C":
        raise TypingError(f"expected a C-contiguous three-dimensional array, got {array}")
    return Vector(array.dtype)


def _pointer(context: Any, builder: Any, arraytype: Any, array: Any, indexes: Any, pointee: Any) -> Any:
    struct = context.make_array(arraytype)(context, builder, array)
    # Of a contiguous array the last stride is known: said as a constant, one register counts for all arrays.
    *strides, last = cgutils.unpack_tuple(builder, struct.strides, 3)
    strides.append(ir.Constant(last.type, arraytype.dtype.bitwidth // 8))
    byte = builder.bitcast(struct.data, ir.IntType(8).as_pointer())
    for index, stride in zip(indexes, strides, strict=True):
        byte = builder.gep(byte, [builder.mul(index, stride)])
    return builder.bitcast(byte, pointee.as_pointer())


def _suffix(vector: Vector, pointer: Any) -> str:
    """How LLVM names an intrinsic for a vector and a pointer to it: before LLVM 17 a pointer has a type."""
    name = f"v{vector.lanes}f{vector.dtype.bitwidth}"
    return f"{name}.p0" if str(pointer.type) == "ptr" else f"{name}.p0{name}"


def emit_load(builder: Any, vector: Vector, pointer: Any, mask: Any) -> Any:
    """Emit a load of the lanes inside the mask; others are zero."""
    type_ = llvm_vector(vector)
    name = f"llvm.masked.load.{_suffix(vector, pointer)}"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(type_, [pointer.type, _INT, mask.type, type_]), name
    )
    alignment = ir.Constant(_INT, vector.dtype.bitwidth // 8)
    return builder.call(function, [pointer, alignment, mask, ir.Constant(type_, None)])


def emit_store(builder: Any, vector: Vector, pointer: Any, mask: Any, value: Any) -> None:
    """Emit a store of the lanes inside the mask."""
    name = f"llvm.masked.store.{_suffix(vector, pointer)}"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [value.type, pointer.type, _INT, mask.type]), name
    )
    alignment = ir.Constant(_INT, vector.dtype.bitwidth // 8)
    builder.call(function, [value, pointer, alignment, mask])


def emit_first(builder: Any, count: Any, lanes: int) -> Any:
    """Emit the mask of the first ``count`` lanes, none if it is negative."""
    indexes = ir.Constant(ir.VectorType(_INT, lanes), list(range(lanes)))
    return builder.icmp_signed("<", indexes, splat(builder, builder.trunc(count, _INT), lanes))


@intrinsic
def lanes(context: Any, array: Any) -> Any:
    """How many elements of ``array`` a vector holds."""
    count = _BYTES * 8 // array.dtype.bitwidth

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), count)

    return types.int64(array), emit


@intrinsic
def first(context: Any, array: Any, count: Any) -> Any:
    """The mask of the first ``count`` lanes, of all if there are no more; ``count`` is positive."""
    n = _BYTES * 8 // array.dtype.bitwidth

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit_first(builder, args[1], n)

    return Mask(n)(array, types.int64), emit


@intrinsic
def load(context: Any, array: Any, i: Any, k: Any, j: Any, mask: Any) -> Any:
    """``array[i, k, j:]``."""
    vector = _check_array(array)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1:4], llvm_vector(vector))
        return emit_load(builder, vector, pointer, args[4])

    return vector(array, types.int64, types.int64, types.int64, mask), emit


@intrinsic
def store(context: Any, array: Any, i: Any, k: Any, j: Any, mask: Any, value: Any) -> Any:
    """``array[i, k, j:] = value``."""
    vector = _check_array(array)
    if value != vector:
        raise TypingError(f"cannot store {value} in {array}")

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1:4], llvm_vector(vector))
        emit_store(builder, vector, pointer, args[4], args[5])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, types.int64, mask, value), emit


@intrinsic
def zero(context: Any, array: Any) -> Any:
    """A vector of zeros, of the dtype of ``array``."""
    vector = Vector(array.dtype)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(llvm_vector(vector), None)

    return vector(array), emit


def _operand(context: Any, builder: Any, given: Any, value: Any, vector: Vector) -> Any:
    """A number as a vector; a vector as it is."""
    if isinstance(given, Vector):
        return value
    return splat(builder, context.cast(builder, value, given, vector.dtype), vector.lanes)


def _define(function: Callable[..., Any], instruction: str) -> None:
    """Give vectors one arithmetic operator, with another vector or a number on either side."""

    @type_callable(function)
    def type_(context: Any) -> Any:
        def typer(a: Any, b: Any) -> Any:
            if isinstance(a, Vector) and (a == b or isinstance(b, types.Number)):
                return a
            return b if isinstance(b, Vector) and isinstance(a, types.Number) else None

        return typer

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors = (
            _operand(context, builder, given, value, signature.return_type)
            for given, value in zip(signature.args, args, strict=True)
        )
        return getattr(builder, instruction)(*vectors, flags=FLAGS)

    for operands in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(function, *operands)(lower)


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")


@type_callable(operator.neg)
def _type_negative(context: Any) -> Any:
    def typer(a: Any) -> Any:
        return a if isinstance(a, Vector) else None

    return typer


def _lower_negative(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.fneg(args[0])


lower_builtin(operator.neg, Vector)(_lower_negative)


def _unary(name: str) -> Any:
    @intrinsic
    def apply(context: Any, a: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            type_ = llvm_vector(a)
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(type_, [type_]), f"llvm.{name}.v{a.lanes}f{a.dtype.bitwidth}"
            )
            return builder.call(function, args)

        return a(a), emit

    return apply


sqrt = _unary("sqrt")
magnitude = _unary("fabs")


def _extremum(comparison: str) -> Any:
    @intrinsic
    def apply(context: Any, a: Any, number: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bound = splat(builder, context.cast(builder, args[1], signature.args[1], a.dtype), a.lanes)
            # An ordered comparison with NaN is false: NaN stays.
            return builder.select(builder.fcmp_ordered(comparison, args[0], bound), bound, args[0])

        return a(a, number), emit

    return apply


at_most = _extremum(">")
at_least = _extremum("<")


@intrinsic
def where_less(context: Any, a: Any, number: Any, then: Any, otherwise: Any) -> Any:
    """``then`` in the lanes where ``a < number``, else ``otherwise``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bound = splat(builder, context.cast(builder, args[1], signature.args[1], a.dtype), a.lanes)
        return builder.select(builder.fcmp_ordered("<", args[0], bound), args[2], args[3])

    return a(a, number, a, a), emit


@intrinsic
def power_of_two(context: Any, rounded: Any) -> Any:
    """``2^n``, where ``rounded`` is ``n + 1.5 · 2^23`` (float32) or ``n + 1.5 · 2^52`` (float64)."""
    single = rounded.dtype == types.float32
    fraction, bias = (23, 127) if single else (52, 1023)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = _bits(rounded)
        n = builder.bitcast(args[0], bits)
        biased = builder.add(n, ir.Constant(bits, [bias] * rounded.lanes))
        shifted = builder.shl(biased, ir.Constant(bits, [fraction] * rounded.lanes))
        return builder.bitcast(shifted, llvm_vector(rounded))

    return rounded(rounded), emit


@intrinsic
def total(context: Any, a: Any) -> Any:
    """The sum of the lanes, taken in any order."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = _float(a.dtype)
        name = f"llvm.vector.reduce.fadd.v{a.lanes}f{a.dtype.bitwidth}"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(scalar, [scalar, llvm_vector(a)]), name
        )
        return builder.call(function, [ir.Constant(scalar, 0.0), args[0]], fastmath=("reassoc",))

    return a.dtype(a), emit


@intrinsic
def only(context: Any, a: Any, mask: Any) -> Any:
    """``a``, and zeros in the lanes that the mask lacks."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(args[1], args[0], ir.Constant(llvm_vector(a), None))

    return a(a, mask), emit
