"""How compiled functions are declared: `kernel` for those that Python calls, the others for what kernels call.

    kernel --first call with new types--> is its code kept? --yes--> loaded, some milliseconds
                                              `--no--> compiled, seconds --> kept, under `source_key`

numba keeps compiled code as well, but looks at the file of the kernel alone, not at the files whose functions are
compiled into it; two processes that compile one kernel for different types may give each other's code a wrong name;
and damaged code crashes. Here only a machine's own folder is as numba chooses it: NUMBA_CACHE_DIR if that is set, else
`__pycache__` beside the source, else, where that cannot be written, the user's cache. Where code comes from before
that: `store.py`. `pipeline/kernels.py` has every kernel compiled before the first run.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numba
from numba.core import serialize
from numba.core.caching import FunctionCache, NullCache
from numba.core.compiler import CompileResult

from pipeline.compiled.processor import Processor
from pipeline.compiled.source_key import source_key
from pipeline.compiled.store import CodeFile, code_files, read_code, write_code

__all__ = ["inlined", "intrinsic", "kernel", "part"]


_njit: Any = numba.njit  # its types leave out the two options below
_PART = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Nobody but kernels calls a part: without ways in from Python and C a kernel compiles in five sixths of the time."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compiled when first called with arguments of some types, and kept for other processes. Lets go of the GIL."""
    compiled = _njit(nogil=True, no_cfunc_wrapper=True)(function)
    if hasattr(compiled, "enable_caching"):  # numba can be told to leave functions as they are, for debuggers
        compiled._cache = _KeptCode(compiled)  # what enable_caching does with numba's
    return compiled


def part(function: Callable[..., Any]) -> Any:
    """A part of kernels: compiled with them, and called where the compiler sees no use in more."""
    return _njit(**_PART)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """A part that is compiled into every place that calls it."""
    return _njit(forceinline=True, **_PART)(function)


def intrinsic(define: Callable[..., tuple[Any, Callable[..., Any]]]) -> Any:
    """A part in LLVM's language. Callers leave out the first parameter of its definition, the typing context."""
    return numba.extending.intrinsic(define)


class _KeptCode(NullCache):
    """numba's seam for kept code, with files of our own."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        try:
            of_numba: Any = FunctionCache(dispatcher.py_func)  # type: ignore[no-untyped-call]  # numba's types end here
            self._own_folder: Path | None = Path(of_numba.cache_path)
        except RuntimeError:  # nowhere to keep code
            self._own_folder = None

    @property
    def cache_path(self) -> str | None:
        return None if self._own_folder is None else str(self._own_folder)

    @functools.cached_property
    def _source_key(self) -> str:
        return source_key(self._dispatcher)  # when it is needed: what the kernel calls may stand below it

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel for arguments of these types, or None."""
        target_context.refresh()
        code = read_code(self._files(sig))
        if code is None:
            return None
        kept_sig, reduced = pickle.loads(code)
        if kept_sig != sig:
            return None
        return CompileResult._rebuild(target_context, *reduced)  # type: ignore[no-untyped-call]  # as above

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled kernel for arguments of these types."""
        if data.library.has_dynamic_globals:  # addresses of this process
            return
        kept = (sig, data._reduce())
        code: bytes = serialize.dumps(kept)  # type: ignore[no-untyped-call]  # numba's types end here
        write_code(self._files(sig), code)

    def _files(self, sig: Any) -> Mapping[Processor, CodeFile]:
        function = self._dispatcher.py_func
        return code_files(
            kernel=f"{function.__module__}.{function.__qualname__}".replace("<locals>", ""),
            source_key=self._source_key,
            types=str(sig),
            kind="nbc",
            own_folder=self._own_folder,
        )
