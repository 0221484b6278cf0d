"""What the code of a kernel depends on, found by a walk from the kernel itself: no list to keep, no hash to paste.

    kernel --names in its code--> compiled functions, intrinsics --names in theirs--> ... --> SHA-256
                              `--> constants, by value

The walk sees what the compiler sees: bytecode, with its constants, and the value of every global name in it, whichever
file that was imported from. So a change in a function that is called, or in a number that it uses, gives another key;
a new date of a file, a comment, or another place on the disk does not. Kernels that were compiled before and travel
with the package, in a wheel, are found by the same key as those compiled here.

What comes from Python, numpy, numba and LLVM counts by its name: their versions are in the key, too (`toolchain`).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

__all__ = ["source_key"]

_COMPILER = ("llvmlite", "numba", "numpy")
_PLAIN = (bool, bytes, complex, float, int, str, type(None), type(...))
_DIGITS = 16


def source_key(kernel: Callable[..., Any]) -> str:
    """Key of all the sources that are compiled into a kernel.

    Raises TypeError where a name stands for something whose influence on the code is not known.
    """
    return _Walk(kernel).digest.hexdigest()[:_DIGITS]


class _Walk:
    """Each thing that is met goes into the digest: what it is, then what it holds."""

    def __init__(self, kernel: Callable[..., Any]) -> None:
        self.digest = hashlib.sha256()
        self._places: dict[int, int] = {}
        self._value(kernel)

    def _say(self, *words: object) -> None:
        self.digest.update(repr(words).encode())

    def _value(self, value: Any) -> None:
        # Plain types first, then what comes with the compiler: an array, too, has a __module__.
        if isinstance(value, _PLAIN):
            self._say(type(value).__name__, value)
        elif isinstance(value, tuple):
            self._say("tuple", type(value).__qualname__, len(value))
            for item in value:
                self._value(item)
        elif isinstance(value, frozenset):
            self._say("frozenset", sorted(map(repr, value)))
        elif isinstance(value, np.ndarray | np.generic):
            self._array(np.asarray(value))
        elif isinstance(value, CodeType):
            self._code(value)
        elif isinstance(value, ModuleType):
            self._say("module", value.__name__)
        elif isinstance(value, type | FunctionType | BuiltinFunctionType) and _is_brought(value.__module__):
            self._say("brought", value.__module__, value.__qualname__)
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
            self._say("record", value.__qualname__, value._fields)
        elif type(value).__module__.partition(".")[0] in (*_COMPILER, "typing"):
            self._made_by_compiler(value)
        else:
            raise TypeError(f"a kernel uses {value!r}: what of it is compiled is not known; extend source_key.py")

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        if array.dtype.hasobject:
            raise TypeError("a kernel uses an array of Python objects, which cannot be compiled")
        self._say("array", array.dtype.descr, array.shape, array.flags.writeable)
        self.digest.update(array.tobytes())

    def _code(self, code: CodeType) -> None:
        self._say(
            "code", code.co_name, code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars,
            code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags,
        )  # fmt: skip
        self._value(code.co_consts)

    def _function(self, function: FunctionType) -> None:
        is_new = id(function) not in self._places
        self._say("function", self._places.setdefault(id(function), len(self._places)))
        if not is_new:  # it may call itself
            return
        self._code(function.__code__)
        self._value(function.__defaults__)
        self._value(tuple(sorted((function.__kwdefaults__ or {}).items())))
        for cell in function.__closure__ or ():
            self._value(cell.cell_contents)
        names = _names(function.__code__)
        for name in names:
            if name not in function.__globals__:
                continue  # a builtin, or an attribute of something
            value = function.__globals__[name]
            self._say("name", name)
            self._value(value)
            if isinstance(value, ModuleType) and not _is_brought(value.__name__):
                for attribute in names:
                    if hasattr(value, attribute):
                        self._say("attribute", attribute)
                        self._attribute(getattr(value, attribute))

    def _attribute(self, value: Any) -> None:
        if isinstance(value, ModuleType) and not _is_brought(value.__name__):
            raise TypeError(f"a kernel goes through two modules, {value.__name__} the second; import what it names")
        self._value(value)

    def _made_by_compiler(self, value: Any) -> None:
        """A compiled function, an intrinsic, a type, or what `typing` makes of types."""
        function = getattr(value, "__wrapped__", None)
        if function is None:
            self._say("type", type(value).__qualname__, str(value))
            return
        options = getattr(value, "targetoptions", {})
        self._say("compiled", type(value).__qualname__, sorted((name, str(option)) for name, option in options.items()))
        self._value(function)


def _is_brought(module: str) -> bool:
    package = module.partition(".")[0]
    return package in _COMPILER or package in sys.stdlib_module_names


def _names(code: CodeType) -> list[str]:
    """All names of globals and attributes in the code and that of the functions within."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(_names(constant))
    return sorted(names)
