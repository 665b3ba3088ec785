"""Vectors of bytes inside Numba functions: Numba types for registers, and the operations the kernels need.

A value of type ``Vectors(n, size)`` is n registers of ``size`` bytes, 32 (AVX2) or 64 (AVX-512); an operation
acts on all of them, so that a kernel written once works on one table or on several. Arrays are addressed by
offset, without bounds checks.

Importing this module compiles nothing. Functions that use it must be compiled only where
:func:`qlstm_core.packed.kernels.choose.has_avx2` or :func:`~qlstm_core.packed.kernels.choose.has_vbmi` holds:
LLVM aborts the process when it meets ``llvm.x86.avx2.*`` in code for a CPU without AVX2.
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
_INT = ir.IntType(32)
_INTS8 = ir.VectorType(_INT, 8)
_TABLE = ir.VectorType(_BYTE, 16)


class Vectors(types.Type):
    """The Numba type of ``count`` vectors of ``size`` bytes."""

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size
        super().__init__(name=f"Vectors({count}, {size})")

    @property
    def bytes(self) -> Any:
        """The LLVM type of one vector."""
        return ir.VectorType(_BYTE, self.size)

    @property
    def words(self) -> Any:
        """The LLVM type of one vector of 16-bit lanes."""
        return ir.VectorType(ir.IntType(16), self.size // 2)


@register_model(Vectors)
class _VectorsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vectors: Vectors) -> None:
        super().__init__(manager, vectors, ir.ArrayType(vectors.bytes, vectors.count))  # type: ignore[no-untyped-call]


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


def _pack(builder: Any, vectors: Vectors, items: list[Any]) -> Any:
    packed = ir.Constant(ir.ArrayType(vectors.bytes, vectors.count), ir.Undefined)
    for i, item in enumerate(items):
        packed = builder.insert_value(packed, builder.bitcast(item, vectors.bytes), i)
    return packed


@intrinsic
def zeros(context: Any, count: Any, size: Any) -> Any:
    """``count`` vectors of ``size`` bytes, all zero."""
    vectors = Vectors(_literal(count, "count"), _literal(size, "size"))

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(ir.ArrayType(vectors.bytes, vectors.count), None)

    return vectors(count, size), emit


@intrinsic
def splat(context: Any, byte: Any, size: Any) -> Any:
    """One vector of ``size`` bytes that are all ``byte``, a compile-time constant."""
    value, vectors = _literal(byte, "byte"), Vectors(1, _literal(size, "size"))

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _pack(builder, vectors, [ir.Constant(vectors.bytes, [value] * vectors.size)])

    return vectors(byte, size), emit


@intrinsic
def load(context: Any, array: Any, offset: Any, size: Any) -> Any:
    """One vector of ``size`` bytes from a uint8 array."""
    _check_array(array, types.uint8)
    vectors = Vectors(1, _literal(size, "size"))

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], vectors.bytes)
        return _pack(builder, vectors, [builder.load(pointer, align=1)])

    return vectors(array, types.intp, size), emit


@intrinsic
def splat16(context: Any, array: Any, index: Any, size: Any) -> Any:
    """One vector whose 16-bit lanes are all element ``index`` of an int16 array, counted in memory order."""
    _check_array(array, types.int16)
    vectors = Vectors(1, _literal(size, "size"))

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        two = ir.Constant(args[1].type, 2)
        pointer = _pointer(
            context, builder, signature.args[0], args[0], builder.mul(args[1], two), ir.IntType(16)
        )
        undefined = ir.Constant(vectors.words, ir.Undefined)
        first = builder.insert_element(undefined, builder.load(pointer), ir.Constant(_INT, 0))
        lanes = ir.Constant(ir.VectorType(_INT, vectors.size // 2), None)
        return _pack(builder, vectors, [builder.shuffle_vector(first, undefined, lanes)])

    return vectors(array, types.intp, size), emit


@intrinsic
def mask16(context: Any, bit: Any, size: Any) -> Any:
    """One vector whose 16-bit lane n is all ones where bit ``bit`` of n is set, else zero."""
    b, vectors = _literal(bit, "bit"), Vectors(1, _literal(size, "size"))

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = ir.Constant(vectors.words, [-((n >> b) & 1) for n in range(vectors.size // 2)])
        return _pack(builder, vectors, [lanes])

    return vectors(bit, size), emit


@intrinsic
def store_low_bytes(context: Any, array: Any, offset: Any, vector: Any) -> Any:
    """Store the low bytes of one vector's 16-bit lanes, half as many bytes, into a uint8 array."""
    _check_array(array, types.uint8)
    half = ir.VectorType(_BYTE, vector.size // 2)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (item,) = _unpack(builder, args[2], 1)
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], half)
        builder.store(builder.trunc(builder.bitcast(item, vector.words), half), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@intrinsic
def join(context: Any, first: Any, second: Any) -> Any:
    """The vectors of ``first`` followed by those of ``second``."""
    joined = Vectors(first.count + second.count, first.size)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = _unpack(builder, args[0], first.count) + _unpack(builder, args[1], second.count)
        return _pack(builder, joined, items)

    return joined(first, second), emit


@intrinsic
def item(context: Any, vectors: Any, index: Any) -> Any:
    """Vector ``index``, a compile-time constant, alone."""
    i, single = _literal(index, "index"), Vectors(1, vectors.size)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _pack(builder, single, [builder.extract_value(args[0], i)])

    return single(vectors, index), emit


@intrinsic
def lookup(context: Any, tables: Any, offset: Any, stride: Any, count: Any, index: Any) -> Any:
    """``count`` tables, ``stride`` bytes apart, each looked up with every vector of ``index``.

    Vectors of 32 bytes look up in tables of 16 bytes, bytes of ``index`` being 0 to 15; vectors of 64 bytes
    in tables of 64, by the low 6 bits of each byte. The result holds all vectors of the first table, then
    those of the second, …
    """
    _check_array(tables, types.uint8)
    n = _literal(count, "count")
    found = Vectors(n * index.count, index.size)
    table = _TABLE if index.size == 32 else index.bytes
    both_lanes = ir.Constant(ir.VectorType(_INT, 32), list(range(16)) * 2)
    name = "llvm.x86.avx2.pshuf.b" if index.size == 32 else "llvm.x86.avx512.permvar.qi.512"

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        shuffle = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(index.bytes, [index.bytes, index.bytes]), name
        )
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], _BYTE)
        indexes = _unpack(builder, args[4], index.count)
        results = []
        for i in range(n):
            at = builder.gep(pointer, [builder.mul(args[2], ir.Constant(args[2].type, i))])
            entries = builder.load(builder.bitcast(at, table.as_pointer()), align=1)
            if index.size == 32:
                entries = builder.shuffle_vector(entries, ir.Constant(table, ir.Undefined), both_lanes)
            results += [builder.call(shuffle, [entries, each]) for each in indexes]
        return _pack(builder, found, results)

    return found(tables, types.intp, types.intp, count, index), emit


def _binary(operation: str, words: bool) -> Callable[..., Any]:
    @intrinsic
    def apply(context: Any, a: Any, b: Any) -> Any:
        if a != b:
            raise TypingError(f"{operation}: {a} and {b} differ")
        lanes = a.words if words else a.bytes

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pairs = zip(_unpack(builder, args[0], a.count), _unpack(builder, args[1], a.count), strict=True)
            emit_one = getattr(builder, operation)
            return _pack(
                builder,
                a,
                [emit_one(builder.bitcast(x, lanes), builder.bitcast(y, lanes)) for x, y in pairs],
            )

        return a(a, b), emit

    return apply


def _shift(operation: str) -> Callable[..., Any]:
    @intrinsic
    def apply(context: Any, a: Any, bits: Any) -> Any:
        amount = ir.Constant(a.words, [_literal(bits, "bits")] * (a.size // 2))

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit_one = getattr(builder, operation)
            items = _unpack(builder, args[0], a.count)
            return _pack(builder, a, [emit_one(builder.bitcast(x, a.words), amount) for x in items])

        return a(a, bits), emit

    return apply


add8 = _binary("add", words=False)
add16 = _binary("add", words=True)
sub16 = _binary("sub", words=True)
and_ = _binary("and_", words=False)
or_ = _binary("or_", words=False)
shift_right16 = _shift("lshr")
shift_left16 = _shift("shl")


@intrinsic
def add_pairs(context: Any, vectors: Any, first: Any, second: Any) -> Any:
    """In 16-bit lanes, ``first · byte 2j + second · byte 2j+1`` of unsigned bytes; compile-time factors."""
    pair = [_literal(first, "first"), _literal(second, "second")]
    weights = ir.Constant(vectors.bytes, pair * (vectors.size // 2))
    name = "llvm.x86.avx2.pmadd.ub.sw" if vectors.size == 32 else "llvm.x86.avx512.pmaddubs.w.512"

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        multiply = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vectors.words, [vectors.bytes, vectors.bytes]), name
        )
        items = _unpack(builder, args[0], vectors.count)
        return _pack(builder, vectors, [builder.call(multiply, [x, weights]) for x in items])

    return vectors(vectors, first, second), emit


@intrinsic
def accumulate(
    context: Any,
    sums: Any,
    at: Any,
    stride: Any,
    step: Any,
    vectors: Any,
    halves: Any,
    planes: Any,
    width: Any,
) -> Any:
    """Add 16 unsigned 16-bit lanes of every vector of 32 bytes, widened, into an int32 array.

    Vector i belongs to half ``i % halves`` of the lines and to table ``i // halves``, which is ``n·planes +
    p`` for row n of the sums and plane p. Lane j is added, times ``2^(p·width + 1)``, to element ``at +
    n·stride + half·step + j``. A vector of 64 bytes counts as two of 32.
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
        registers = vectors.size // 32
        for n in range(vectors.count * registers // (n_halves * n_planes)):
            for half, part in product(range(n_halves), range(2)):
                offset = builder.add(
                    builder.mul(args[2], ir.Constant(args[2].type, n)),
                    builder.add(
                        builder.mul(args[3], ir.Constant(args[3].type, half)),
                        ir.Constant(args[3].type, 8 * part),
                    ),
                )
                pointer = builder.bitcast(builder.gep(base, [offset]), _INTS8.as_pointer())
                total = builder.load(pointer, align=4)
                for plane in range(n_planes):
                    register, inside = divmod((n * n_planes + plane) * n_halves + half, registers)
                    words = builder.bitcast(items[register], vectors.words)
                    start = 16 * inside + 8 * part
                    lanes = ir.Constant(ir.VectorType(_INT, 8), list(range(start, start + 8)))
                    eight = builder.shuffle_vector(words, ir.Constant(vectors.words, ir.Undefined), lanes)
                    shift = ir.Constant(_INTS8, [plane * n_width + 1] * 8)
                    total = builder.add(total, builder.shl(builder.zext(eight, _INTS8), shift))
                builder.store(total, pointer, align=4)
        return context.get_dummy_value()

    signature = types.void(sums, types.intp, types.intp, types.intp, vectors, halves, planes, width)
    return signature, emit
