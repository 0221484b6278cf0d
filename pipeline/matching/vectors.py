"""What the kernel needs of the processor and numba does not offer: wide loads, 64 bytes classified at once.

Each function is a few lines of LLVM's own language, which the compiler turns into the vector instructions
that the machine has (AVX-512, AVX2, SSE2, NEON). None checks bounds: every array that is read by `load8` or
by a mask must have that many bytes after the index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from llvmlite import ir  # the language that numba itself compiles to
from numba import types
from numba.core import cgutils

from pipeline.compiled.declare import intrinsic

__all__ = ["add16", "classify", "fill16", "load8", "lowest_bit", "prefetch", "rank16", "separate", "white"]

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_BLOCK = ir.VectorType(_BYTE, 64)
_INT = ir.IntType(32)
_INTS = ir.VectorType(_INT, 16)
_TWO_WORDS: Any = cast(Any, types.UniTuple)(types.uint64, 2)
_declare: Any = cgutils.get_or_insert_function
_variable: Any = cgutils.alloca_once_value


def _splat(byte: int) -> ir.Constant:
    return ir.Constant(_BLOCK, [byte] * 64)


def _splat_int(builder: Any, value: Any) -> Any:
    nothing = ir.Constant(_INTS, ir.Undefined)
    single = builder.insert_element(nothing, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(single, nothing, ir.Constant(_INTS, [0] * 16))


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, kind: ir.Type) -> Any:
    """A pointer to byte `index` of an array of any element type."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(builder.bitcast(data, _BYTE.as_pointer()), [index]), kind.as_pointer())


def _load_block(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
    block = builder.load(_address(context, builder, signature.args[0], arguments[0], arguments[1], _BLOCK))
    block.align = 1
    return block


def _equals(builder: Any, block: Any, characters: str) -> Any:
    found = None
    for character in characters:
        same = builder.icmp_unsigned("==", block, _splat(ord(character)))
        found = same if found is None else builder.or_(found, same)
    return found


def _mask_pair(context: Any, builder: Any, signature: Any, first: Any, second: Any) -> Any:
    masks = [builder.bitcast(mask, _WORD) for mask in (first, second)]
    return context.make_tuple(builder, signature.return_type, masks)


_Implementation = tuple[Any, Callable[..., Any]]


@intrinsic
def load8(_typing: Any, array: Any, index: Any) -> _Implementation:
    """uint64: bytes index..index+7 of an array, lowest byte first on little-endian machines."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        word = builder.load(_address(context, builder, signature.args[0], arguments[0], arguments[1], _WORD))
        word.align = 1
        return word

    return types.uint64(array, types.int64), implement


@intrinsic
def classify(_typing: Any, array: Any, index: Any) -> _Implementation:
    """(uint64, uint64): which of the 64 bytes from `index` are ASCII letters or digits; which are not ASCII."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        block = _load_block(context, builder, signature, arguments)
        lower = builder.or_(block, _splat(0x20))
        letter = builder.icmp_unsigned("<", builder.sub(lower, _splat(ord("a"))), _splat(26))
        digit = builder.icmp_unsigned("<", builder.sub(block, _splat(ord("0"))), _splat(10))
        beyond = builder.icmp_unsigned(">=", block, _splat(0x80))
        return _mask_pair(context, builder, signature, builder.or_(letter, digit), beyond)

    return _TWO_WORDS(array, types.int64), implement


@intrinsic
def separate(_typing: Any, array: Any, index: Any) -> _Implementation:
    """(uint64, uint64): which of the 64 bytes are space, tab or line end; which are marks that are wrapped."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        block = _load_block(context, builder, signature, arguments)
        return _mask_pair(
            context, builder, signature, _equals(builder, block, " \t\n\r"), _equals(builder, block, ",.;:?!`")
        )

    return _TWO_WORDS(array, types.int64), implement


@intrinsic
def white(_typing: Any, array: Any, index: Any) -> _Implementation:
    """uint64: which of the 64 bytes from `index` are ASCII white space or zero."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        block = _load_block(context, builder, signature, arguments)
        control = builder.icmp_unsigned("<", builder.sub(block, _splat(9)), _splat(5))
        return builder.bitcast(builder.or_(control, _equals(builder, block, " \0")), _WORD)

    return types.uint64(array, types.int64), implement


@intrinsic
def add16(_typing: Any, total: Any, total_row: Any, rows: Any, row: Any) -> _Implementation:
    """Add row `row` of float32[M, 16] to row `total_row` of float32[N, 16], both C-contiguous."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        lanes = ir.VectorType(ir.FloatType(), 16)

        def place(i: int) -> Any:
            byte = builder.shl(arguments[i + 1], ir.Constant(_WORD, 6))
            return _address(context, builder, signature.args[i], arguments[i], byte, lanes)

        values = []
        for pointer in (place(0), place(2)):
            value = builder.load(pointer)
            value.align = 4
            values.append(value)
        stored = builder.store(builder.fadd(*values), place(0))
        stored.align = 4
        return context.get_dummy_value()

    return types.void(total, types.int64, rows, types.int64), implement


@intrinsic
def lowest_bit(_typing: Any, word: Any) -> _Implementation:
    """int64: the place of the lowest set bit of a word that is not zero."""

    def implement(_context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), implement


@intrinsic
def prefetch(_typing: Any, array: Any, index: Any) -> _Implementation:
    """Ask for the cache line of byte `index` of an array, without waiting for it."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        pointer = _address(context, builder, signature.args[0], arguments[0], arguments[1], _BYTE)
        flag = ir.IntType(32)
        function = _declare(
            builder.module,
            ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), flag, flag, flag]),
            "llvm.prefetch.p0",
        )
        builder.call(function, [pointer, ir.Constant(flag, 0), ir.Constant(flag, 3), ir.Constant(flag, 1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), implement


@intrinsic
def fill16(_typing: Any, array: Any, index: Any, value: Any) -> _Implementation:
    """Write `value` to the 16 int32 from byte `index`."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        pointer = _address(context, builder, signature.args[0], arguments[0], arguments[1], _INTS)
        stored = builder.store(_splat_int(builder, arguments[2]), pointer)
        stored.align = 1
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int32), implement


@intrinsic
def rank16(
    _typing: Any, array: Any, index: Any, first: Any, size: Any, ranks: Any, ranks_index: Any
) -> _Implementation:
    """For each of the 16 int32 from byte `index`: how many of the `size` int32 from byte `first` are smaller.

    The 16 numbers, int32, go to byte `ranks_index` of `ranks`.
    """

    def implement(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array_type, _, _, _, ranks_type, _ = signature.args
        values, at, first_at, count, target, target_at = arguments
        block = builder.load(_address(context, builder, array_type, values, at, _INTS))
        block.align = 1
        others = _address(context, builder, array_type, values, first_at, _INT)
        total = _variable(builder, ir.Constant(_INTS, [0] * 16))
        with cgutils.for_range(builder, count) as loop:
            other = _splat_int(builder, builder.load(builder.gep(others, [loop.index])))
            smaller = builder.sext(builder.icmp_signed("<", other, block), _INTS)  # -1 where it is
            builder.store(builder.sub(builder.load(total), smaller), total)
        stored = builder.store(builder.load(total), _address(context, builder, ranks_type, target, target_at, _INTS))
        stored.align = 1
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, types.int64, ranks, types.int64), implement
