"""AVX2 vectors inside Numba functions: a Numba type for 32-byte vectors, and the operations the kernels need.

A value of type ``Vectors(n)`` is n vectors of 32 bytes; an operation acts on all of them, so that a kernel
written once works on one table or on several. Arrays are addressed by offset, without bounds checks.

Importing this module compiles nothing. Functions that use it must be compiled only where
:func:`qlstm_core.packed.dispatch.has_avx2` holds: LLVM aborts the process when it meets ``llvm.x86.avx2.*``
in code for a CPU without AVX2.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model

intrinsic: Callable[..., Callable[..., Any]] = numba_intrinsic

_BYTE = ir.IntType(8)
_BYTES16 = ir.VectorType(_BYTE, 16)
_BYTES32 = ir.VectorType(_BYTE, 32)
_WORDS16 = ir.VectorType(ir.IntType(16), 16)
_INT = ir.IntType(32)
_INTS8 = ir.VectorType(_INT, 8)


class Vectors(types.Type):
    """The Numba type of ``count`` vectors of 32 bytes."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(name=f"Vectors({count})")


@register_model(Vectors)
class _VectorsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vectors: Vectors) -> None:
        super().__init__(manager, vectors, ir.ArrayType(_BYTES32, vectors.count))  # type: ignore[no-untyped-call]


def _literal(value: Any, name: str) -> int:
    if not isinstance(value, types.IntegerLiteral):
        raise TypingError(f"{name} must be a compile-time integer, got {value}")
    return int(value.literal_value)


def _check_array(array: Any, dtype: Any) -> None:
    if not isinstance(array, types.Array) or array.layout != "C" or array.dtype != dtype:
        raise TypingError(f"expected a C-contiguous array of {dtype}, got {array}")


def _pointer(context: Any, builder: Any, arraytype: Any, array: Any, offset: Any, pointee: Any) -> Any:
    data = builder.bitcast(context.make_array(arraytype)(context, builder, array).data, _BYTE.as_pointer())
    return builder.bitcast(builder.gep(data, [offset]), pointee.as_pointer())


def _unpack(builder: Any, vectors: Any, count: int) -> list[Any]:
    return [builder.extract_value(vectors, i) for i in range(count)]


def _pack(builder: Any, items: list[Any]) -> Any:
    packed = ir.Constant(ir.ArrayType(_BYTES32, len(items)), ir.Undefined)
    for i, item in enumerate(items):
        packed = builder.insert_value(packed, item, i)
    return packed


@intrinsic
def zeros(context: Any, count: Any) -> Any:
    """``count`` vectors of zeros."""
    n = _literal(count, "count")

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _pack(builder, [ir.Constant(_BYTES32, [0] * 32)] * n)

    return Vectors(n)(count), emit


@intrinsic
def splat(context: Any, byte: Any) -> Any:
    """One vector whose 32 bytes are all ``byte``, a compile-time constant."""
    value = _literal(byte, "byte")

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _pack(builder, [ir.Constant(_BYTES32, [value] * 32)])

    return Vectors(1)(byte), emit


@intrinsic
def load(context: Any, array: Any, offset: Any) -> Any:
    """One vector from a uint8 array."""
    _check_array(array, types.uint8)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], _BYTES32)
        return _pack(builder, [builder.load(pointer, align=1)])

    return Vectors(1)(array, types.intp), emit


@intrinsic
def splat16(context: Any, array: Any, index: Any) -> Any:
    """One vector whose 16-bit lanes are all element ``index`` of an int16 array, counted in memory order."""
    _check_array(array, types.int16)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        two = ir.Constant(args[1].type, 2)
        pointer = _pointer(
            context, builder, signature.args[0], args[0], builder.mul(args[1], two), ir.IntType(16)
        )
        undefined = ir.Constant(_WORDS16, ir.Undefined)
        first = builder.insert_element(undefined, builder.load(pointer), ir.Constant(_INT, 0))
        lanes = builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT, 16), [0] * 16))
        return _pack(builder, [builder.bitcast(lanes, _BYTES32)])

    return Vectors(1)(array, types.intp), emit


@intrinsic
def mask16(context: Any, bit: Any) -> Any:
    """One vector whose 16-bit lane n is all ones where bit ``bit`` of n is set, else zero."""
    b = _literal(bit, "bit")

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = ir.Constant(_WORDS16, [-((n >> b) & 1) for n in range(16)])
        return _pack(builder, [builder.bitcast(lanes, _BYTES32)])

    return Vectors(1)(bit), emit


@intrinsic
def store_low_bytes(context: Any, array: Any, offset: Any, vector: Any) -> Any:
    """Store the low bytes of one vector's 16-bit lanes, 16 bytes, into a uint8 array."""
    _check_array(array, types.uint8)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (item,) = _unpack(builder, args[2], 1)
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], _BYTES16)
        builder.store(builder.trunc(builder.bitcast(item, _WORDS16), _BYTES16), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@intrinsic
def join(context: Any, first: Any, second: Any) -> Any:
    """The vectors of ``first`` followed by those of ``second``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _pack(
            builder, _unpack(builder, args[0], first.count) + _unpack(builder, args[1], second.count)
        )

    return Vectors(first.count + second.count)(first, second), emit


@intrinsic
def lookup(context: Any, tables: Any, offset: Any, stride: Any, count: Any, index: Any) -> Any:
    """``count`` tables of 16 bytes, ``stride`` bytes apart, each looked up with every vector of ``index``.

    Bytes of ``index`` are 0 to 15. The result holds all vectors of the first table, then those of the second,
    …
    """
    _check_array(tables, types.uint8)
    n = _literal(count, "count")

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        shuffle = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_BYTES32, [_BYTES32, _BYTES32]), "llvm.x86.avx2.pshuf.b"
        )
        both_lanes = ir.Constant(ir.VectorType(_INT, 32), list(range(16)) * 2)
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], _BYTE)
        indexes = _unpack(builder, args[4], index.count)
        found = []
        for i in range(n):
            at = builder.gep(pointer, [builder.mul(args[2], ir.Constant(args[2].type, i))])
            table = builder.load(builder.bitcast(at, _BYTES16.as_pointer()), align=1)
            table = builder.shuffle_vector(table, ir.Constant(_BYTES16, ir.Undefined), both_lanes)
            found += [builder.call(shuffle, [table, item]) for item in indexes]
        return _pack(builder, found)

    return Vectors(n * index.count)(tables, types.intp, types.intp, count, index), emit


def _binary(operation: str, lanes: Any) -> Callable[..., Any]:
    @intrinsic
    def apply(context: Any, a: Any, b: Any) -> Any:
        if a != b:
            raise TypingError(f"{operation}: {a} and {b} differ")

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            results = []
            for x, y in zip(
                _unpack(builder, args[0], a.count), _unpack(builder, args[1], a.count), strict=True
            ):
                result = getattr(builder, operation)(builder.bitcast(x, lanes), builder.bitcast(y, lanes))
                results.append(builder.bitcast(result, _BYTES32))
            return _pack(builder, results)

        return a(a, b), emit

    return apply


def _shift(operation: str) -> Callable[..., Any]:
    @intrinsic
    def apply(context: Any, a: Any, bits: Any) -> Any:
        amount = ir.Constant(_WORDS16, [_literal(bits, "bits")] * 16)

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            shifted = [
                builder.bitcast(getattr(builder, operation)(builder.bitcast(x, _WORDS16), amount), _BYTES32)
                for x in _unpack(builder, args[0], a.count)
            ]
            return _pack(builder, shifted)

        return a(a, bits), emit

    return apply


add8 = _binary("add", _BYTES32)
add16 = _binary("add", _WORDS16)
sub16 = _binary("sub", _WORDS16)
and_ = _binary("and_", _BYTES32)
shift_right16 = _shift("lshr")
shift_left16 = _shift("shl")


@intrinsic
def add_pairs(context: Any, vectors: Any, first: Any, second: Any) -> Any:
    """In 16-bit lanes, ``first · byte 2j + second · byte 2j+1`` of unsigned bytes; compile-time factors."""
    weights = ir.Constant(_BYTES32, [_literal(first, "first"), _literal(second, "second")] * 16)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        multiply = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_WORDS16, [_BYTES32, _BYTES32]), "llvm.x86.avx2.pmadd.ub.sw"
        )
        sums = [
            builder.bitcast(builder.call(multiply, [x, weights]), _BYTES32)
            for x in _unpack(builder, args[0], vectors.count)
        ]
        return _pack(builder, sums)

    return vectors(vectors, first, second), emit


@intrinsic
def accumulate(
    context: Any,
    sums: Any,
    row: Any,
    stride: Any,
    step: Any,
    vectors: Any,
    halves: Any,
    planes: Any,
    width: Any,
) -> Any:
    """Add 16 unsigned 16-bit lanes of every vector, widened, into an int32 array.

    Vector i belongs to half ``i % halves`` of the lines and to table ``i // halves``, which is ``c·planes +
    p`` of column c and plane p. Lane j is added, times ``2^(p·width + 1)``, to element ``at + c·stride +
    half·step + j``.
    """
    _check_array(sums, types.int32)
    n_halves, n_planes, n_width = (
        _literal(halves, "halves"),
        _literal(planes, "planes"),
        _literal(width, "width"),
    )

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        four = ir.Constant(args[1].type, 4)
        base = _pointer(context, builder, signature.args[0], args[0], builder.mul(args[1], four), _INT)
        items = _unpack(builder, args[4], vectors.count)
        for column in range(vectors.count // (n_halves * n_planes)):
            for half, part in product(range(n_halves), range(2)):
                lanes = ir.Constant(ir.VectorType(_INT, 8), list(range(8 * part, 8 * part + 8)))
                offset = builder.add(
                    builder.mul(args[2], ir.Constant(args[2].type, column)),
                    builder.add(
                        builder.mul(args[3], ir.Constant(args[3].type, half)),
                        ir.Constant(args[3].type, 8 * part),
                    ),
                )
                pointer = builder.bitcast(builder.gep(base, [offset]), _INTS8.as_pointer())
                total = builder.load(pointer, align=4)
                for plane in range(n_planes):
                    words = builder.bitcast(items[(column * n_planes + plane) * n_halves + half], _WORDS16)
                    eight = builder.shuffle_vector(words, ir.Constant(_WORDS16, ir.Undefined), lanes)
                    shift = ir.Constant(_INTS8, [plane * n_width + 1] * 8)
                    total = builder.add(total, builder.shl(builder.zext(eight, _INTS8), shift))
                builder.store(total, pointer, align=4)
        return context.get_dummy_value()

    signature = types.void(sums, types.intp, types.intp, types.intp, vectors, halves, planes, width)
    return signature, emit
