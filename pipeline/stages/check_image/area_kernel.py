"""The loops of area.py, and their compiler: imported where they are compiled, not where they run.

numba takes 100 MB and a second to start, for loops that come out as 4 KB of machine code. So area.py keeps that
code and loads it by LLVM alone. It can call nobody: no arrays (pointers are plain memory), no allocation and
nothing that may raise, or the code would need numba's runtime.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import binding

from pipeline.compiled.processor import here

__all__ = ["compile_shrink"]


def compile_shrink(name: str) -> bytes:
    """Object code for the processor of `here`, of a C function `name` with the arguments of _shrink."""
    pointer: Any = numba.types.CPointer
    pixels, places, numbers = pointer(numba.uint8), pointer(numba.uint64), pointer(numba.float32)
    signature = numba.void(
        *(pixels, pixels, places, places, numbers, numbers, numbers),  # the arrays
        *(numba.uint64,) * 5,  # and the sizes
    )
    compiled = numba.cfunc(signature, error_model="numpy")(_shrink)  # numpy's: dividing by zero does not raise
    module = binding.parse_assembly(compiled.inspect_llvm())
    module.get_function(compiled.native_name).name = name
    processor = here()
    machine = binding.Target.from_triple(processor.triple).create_target_machine(
        cpu=processor.cpu, features=processor.features, jit=True
    )
    # Once more over the whole module: _shrink never raises, so what cfunc adds for that case goes.
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options())
    passes.getModulePassManager().run(module, passes)
    code: bytes = machine.emit_object(module)
    return code


def _shrink(
    source: Any,
    result: Any,
    begins: Any,
    ends: Any,
    firsts: Any,
    lasts: Any,
    sums: Any,
    height: Any,
    width: Any,
    new_height: Any,
    new_width: Any,
    channels: Any,
) -> None:
    """`source` uint8[height, width, channels] to `result` uint8[new_height, new_width, channels]; channels 1 or 3.

    `begins`, `ends` uint64[new_width] and `firsts`, `lasts` float32[new_width] are the columns, see
    `area._columns`; `sums` float32[width * channels] is scratch.
    """
    # Indices are unsigned: signed ones may be negative, and the check for that costs half of the speed.
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    n = width * channels
    scale = np.float32(1.0) / (np.float32(height) * np.float32(width))
    half, whole = np.float32(0.5), np.float32(new_width)
    for i in range(new_height):
        # In units of 1 / new_height source rows, whole numbers: edges fall exactly where they should.
        top, bottom = i * height, (i + one) * height
        first, last = top // new_height, (bottom - one) // new_height
        weight = np.float32(min(bottom, (first + one) * new_height) - top)
        row = first * n
        for j in range(n):
            sums[j] = weight * np.float32(source[row + j])
        for y in range(first + one, last + one):
            weight = np.float32(min(bottom, (y + one) * new_height) - y * new_height)
            row = y * n
            for j in range(n):
                sums[j] += weight * np.float32(source[row + j])
        out = i * new_width * channels
        for x in range(new_width):
            begin, end, share, last_share = begins[x], ends[x], firsts[x], lasts[x]
            if channels == three:
                a = share * sums[begin] + last_share * sums[end]
                b = share * sums[begin + one] + last_share * sums[end + one]
                c = share * sums[begin + two] + last_share * sums[end + two]
                for k in range(begin + three, end, three):
                    a += whole * sums[k]
                    b += whole * sums[k + one]
                    c += whole * sums[k + two]
                result[out] = np.uint8(a * scale + half)
                result[out + one] = np.uint8(b * scale + half)
                result[out + two] = np.uint8(c * scale + half)
                out += three
            else:
                a = share * sums[begin] + last_share * sums[end]
                for k in range(begin + one, end, one):
                    a += whole * sums[k]
                result[out] = np.uint8(a * scale + half)
                out += one
