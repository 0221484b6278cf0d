"""Averaging areas: the resize of nearly every picture, and after decoding its largest cost.

Each output pixel is the mean of the source area that it covers, edges by their share. OpenCV's INTER_AREA
computes the same, columns first and so over every source row; here rows are added up first, which the
compiler turns into wide instructions, and the columns of the few sums that are left come last: 3 to 4 times
as fast. No reordering or contraction of floating-point operations: the same bytes on every machine.

    area_kernel.py --numba, once--> object code in __pycache__ --LLVM, in every process--> _load_shrink()

A process that finds the object code does without numba, which is half of the memory of a fetch task.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from llvmlite import binding

from pipeline.compiled.store import code_files, key_of, read_code, write_code

__all__ = ["prepare", "shrink"]

_NAME = "shrink"
_C_TYPE = ctypes.CFUNCTYPE(None, *(ctypes.c_void_p,) * 7, *(ctypes.c_uint64,) * 5)
_engines: list[binding.ExecutionEngine] = []  # they own the memory that the code lies in


def prepare() -> None:
    """Load the compiled loops now, as `shrink` would when it is first called; for who has memory now and less later."""
    _load_shrink()


def shrink(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Average uint8[h, w] or uint8[h, w, 3] down to `size` (width, height); neither side may grow."""
    height, width = pixels.shape[:2]
    channels = 3 if pixels.ndim == 3 else 1
    source = np.ascontiguousarray(pixels)
    result = np.empty((size[1], size[0], *pixels.shape[2:]), np.uint8)
    arrays = (source, result, *_columns(width, size[0], channels), np.empty(width * channels, np.float32))
    _load_shrink()(*(array.ctypes.data for array in arrays), height, width, size[1], size[0], channels)
    return result


def _columns(width: int, new_width: int, channels: int) -> tuple[npt.NDArray[np.generic], ...]:
    """Per output column: indices uint64 of its first and last source column, and what it has of them, float32.

    Shares are in units of 1 / new_width source columns, whole numbers: edges fall exactly where they should. The
    last column's is 0 where it is the first as well.
    """
    left = np.arange(new_width, dtype=np.uint64) * np.uint64(width)
    right = left + np.uint64(width)
    begin, end = left // new_width, (right - 1) // new_width
    firsts = np.minimum(right, (begin + 1) * new_width) - left
    lasts = np.where(end > begin, right - end * new_width, 0)
    return begin * channels, end * channels, firsts.astype(np.float32), lasts.astype(np.float32)


@functools.cache
def _load_shrink() -> Callable[..., None]:
    """area_kernel._shrink, by LLVM's loader."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(_object_code()))
    engine.finalize_object()
    _engines.append(engine)
    return _C_TYPE(engine.get_function_address(_NAME))


def _object_code() -> bytes:
    """From its file; compiled and kept for the next process where there is none, or compiled only where none may be."""
    source = Path(__file__).with_name("area_kernel.py")
    files = code_files(
        kernel=f"{__package__}.{source.stem}",
        source_key=key_of(source.read_text(encoding="utf-8")),  # the whole file: it calls no other, and is not loaded
        types="",
        kind="o",
        own_folder=source.with_name("__pycache__"),
    )
    code = read_code(files)
    if code is None:
        from pipeline.stages.check_image.area_kernel import compile_shrink  # not above: it brings numba

        code = compile_shrink(_NAME)
        write_code(files, code)
    return code
