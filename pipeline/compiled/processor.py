"""Which processors code is compiled for: the one that is here, or all of its kind from a baseline on.

A run compiles what it misses for the processor under it. What travels, in a wheel or a checkout that several machines
mount, is compiled for a baseline that all but old machines reach; on one with AVX-512 it is as fast as that
machine's own (docs/log.md), and it gives the same bytes: no kernel asks for fused or reordered arithmetic.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llvmlite import binding

__all__ = ["Processor", "baseline", "here"]


@dataclass(frozen=True)
class Processor:
    """As LLVM names them."""

    triple: str
    """Instruction set, vendor, operating system."""
    cpu: str
    features: str
    """What of them is on or off apart from what `cpu` says."""


# https://gitlab.com/x86-psABIs/x86-64-ABI, "Micro-Architecture Levels": x86-64-v3, Intel and AMD since 2013 and 2015.
_X86_64_V2 = frozenset(("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "sahf"))
_X86_64_V3 = _X86_64_V2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"}
_BASELINES: Mapping[str, tuple[str, frozenset[str]]] = MappingProxyType(
    {"x86_64": ("x86-64-v3", _X86_64_V3), "aarch64": ("generic", frozenset()), "arm64": ("generic", frozenset())}
)
"""By the triple's first word: LLVM's name, and what a processor must have."""


@functools.cache
def here() -> Processor:
    """What this process compiles for: its processor, unless numba's variables say another."""
    binding.initialize_native_target()
    cpu = os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if cpu == "generic" else _features().flatten()
    return Processor(binding.get_process_triple(), cpu, features)


@functools.cache
def baseline() -> Processor | None:
    """What travelling code is compiled for; None where this processor cannot run it, or is of a kind that has none."""
    triple: str = binding.get_process_triple()
    cpu, needed = _BASELINES.get(triple.partition("-")[0], ("", frozenset()))
    has = _features()
    return Processor(triple, cpu, "") if cpu and all(has.get(feature) for feature in needed) else None


def _features() -> binding.FeatureMap:
    try:
        return binding.get_host_cpu_features()
    except RuntimeError:  # LLVM cannot tell on every system
        return binding.FeatureMap()
