"""How compiled functions are declared: `kernel` for those that Python calls, the others for what kernels call.

    kernel --first call with new types--> is its code kept? --yes--> loaded, some milliseconds
                                              `--no--> compiled, seconds --> kept, under `source_key`

numba keeps compiled code as well, but looks at the file of the kernel alone, not at the files whose functions are
compiled into it; two processes that compile one kernel for different types may give each other's code a wrong name;
and damaged code crashes. Here only the folder is as numba chooses it: NUMBA_CACHE_DIR if that is set, else
`__pycache__` beside the source, else, where that cannot be written, the user's cache.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import serialize
from numba.core.caching import FunctionCache

from pipeline.compiled.source_key import source_key
from pipeline.compiled.store import CodeFile, key_of, toolchain

__all__ = ["inlined", "intrinsic", "kernel", "part"]


def kernel(function: Callable[..., Any]) -> Any:
    """Compiled when first called with arguments of some types, and kept for other processes. Lets go of the GIL."""
    compiled: Any = numba.njit(nogil=True)(function)
    if hasattr(compiled, "enable_caching"):  # numba can be told to leave functions as they are, for debuggers
        with contextlib.suppress(RuntimeError):  # nowhere to keep code: compiled in every process
            compiled._cache = _KeptCode(compiled)  # what enable_caching does with numba's
    return compiled


def part(function: Callable[..., Any]) -> Any:
    """A part of kernels: compiled with them, and called where the compiler sees no use in more."""
    return numba.njit(function)


def inlined(function: Callable[..., Any]) -> Any:
    """A part that is compiled into every place that calls it."""
    return numba.njit(forceinline=True)(function)


def intrinsic(define: Callable[..., tuple[Any, Callable[..., Any]]]) -> Any:
    """A part in LLVM's language. Callers leave out the first parameter of its definition, the typing context."""
    return numba.extending.intrinsic(define)


class _KeptCode(FunctionCache):
    """numba's seam for kept code, with files of our own."""

    def __init__(self, dispatcher: Any) -> None:
        super().__init__(dispatcher.py_func)  # type: ignore[no-untyped-call]  # numba's types end here
        self._dispatcher = dispatcher

    @functools.cached_property
    def _source_key(self) -> str:
        return source_key(self._dispatcher)  # when it is needed: what the kernel calls may stand below it

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel for arguments of these types, or None."""
        target_context.refresh()
        code = self._file(sig, target_context.codegen()).read() if self._enabled else None
        if code is None:
            return None
        kept_sig, reduced = pickle.loads(code)
        return self._impl.rebuild(target_context, reduced) if kept_sig == sig else None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled kernel for arguments of these types."""
        if self._enabled and self._impl.check_cachable(data):
            kept = (sig, self._impl.reduce(data))
            code: bytes = serialize.dumps(kept)  # type: ignore[no-untyped-call]  # numba's types end here
            self._file(sig, data.codegen).write(code)

    def _file(self, sig: Any, codegen: Any) -> CodeFile:
        function = self._dispatcher.py_func
        return CodeFile(
            folder=Path(self.cache_path),
            kernel=f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}".replace("<locals>", ""),
            source_key=self._source_key,
            machine_key=key_of(str(sig), codegen.magic_tuple(), toolchain()),
            kind="nbc",
        )
