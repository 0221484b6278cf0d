"""Compiled kernels are never older than their sources, and are not compiled again without need.

A small package, made here, has a kernel that is fed by other files. Each run is a process of its own, as the tasks of a
run are; it says what the kernel answers, and how often it was found compiled.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest

from pipeline.compiled.declare import inlined, intrinsic, kernel, part
from pipeline.compiled.source_key import source_key
from tests.conftest import REPOSITORY

_FILES = {
    "__init__.py": "",
    "deep.py": """
from pipeline.compiled.declare import part

@part
def triple(x):
    return 3 * x
""",
    "numbers.py": "import numpy as np\n\nLIMIT = 7\nTABLE = np.array([10, 20])\n",
    "called.py": """
from pipeline.compiled.declare import inlined
from house.deep import triple

@inlined
def six_times(x):
    return 2 * triple(x)
""",
    "room.py": """
from pipeline.compiled.declare import kernel
from house import numbers
from house.called import six_times
from house.numbers import TABLE

@kernel
def run(x):
    return six_times(x) + numbers.LIMIT + TABLE[1]
""",
}
_RUN = "import sys; from house.room import run; x = {}; print(run(x), sum(run.stats.cache_hits.values()))"


class House:
    """The package in a folder, and processes that run its kernel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "house"
        self.folder.mkdir()
        for name, text in _FILES.items():
            (self.folder / name).write_text(text)
        path = os.pathsep.join((str(folder), str(REPOSITORY)))
        self.environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(folder / "cache")}
        self.environment.pop("NUMBA_CACHE_DIR", None)

    def change(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new))
        os.utime(self.folder / name, (1e9, 1e9))  # as if it were older than all that was compiled

    def start(self, x: str = "1") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-B", "-c", _RUN.format(x)], env=self.environment, stdout=subprocess.PIPE, text=True
        )

    def run(self, x: str = "1") -> tuple[float, bool]:
        """What the kernel answers to a number, and whether its code was there."""
        return _answer(self.start(x))

    def kept(self) -> list[Path]:
        return sorted((self.folder / "__pycache__").glob("house.room.run-*.nbc"))


def _answer(process: subprocess.Popen[str]) -> tuple[float, bool]:
    out, _ = process.communicate()
    assert process.returncode == 0
    value, hits = out.split()
    return float(value), hits == "1"


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


# --- across processes -------------------------------------------------------------------------


def test_a_change_in_what_a_kernel_calls_compiles_it_again(house: House) -> None:
    assert house.run() == (33, False)
    assert house.run() == (33, True)
    house.change("deep.py", "3 * x", "4 * x")
    assert house.run() == (35, False)
    assert house.run() == (35, True)


def test_a_change_of_a_number_from_another_file_compiles_it_again(house: House) -> None:
    assert house.run() == (33, False)
    house.change("numbers.py", "LIMIT = 7", "LIMIT = 8")
    assert house.run() == (34, False)
    house.change("numbers.py", "[10, 20]", "[10, 21]")
    assert house.run() == (35, False)
    assert len(house.kept()) == 1  # code of older sources is gone


def test_a_new_date_a_comment_or_another_place_compile_nothing(house: House) -> None:
    house.environment["NUMBA_CACHE_DIR"] = str(house.folder.parent / "chosen")
    assert house.run() == (33, False)
    for name in _FILES:
        (house.folder / name).touch()
        (house.folder / name).write_text("# moves all lines\n\n" + (house.folder / name).read_text())
    assert house.run() == (33, True)
    assert not house.kept()
    assert list((house.folder.parent / "chosen").rglob("house.room.run-*.nbc"))


def test_processes_that_compile_at_once_keep_right_code(house: House) -> None:
    numbers = {"1": 33, "1.5": 36, "True": 33, "2": 39}  # three types, one of them twice
    processes = {x: house.start(x) for x in numbers}
    assert {x: _answer(process)[0] for x, process in processes.items()} == numbers
    assert {x: house.run(x) for x in ("1.5", "True", "2")} == {"1.5": (36, True), "True": (33, True), "2": (39, True)}
    assert len(house.kept()) == 3
    assert not list((house.folder / "__pycache__").glob("*.tmp-*"))


def test_where_the_source_cannot_be_written_the_users_cache_keeps_code(house: House) -> None:
    (house.folder / "__pycache__").write_text("no folder")
    assert house.run() == (33, False)
    assert house.run() == (33, True)
    assert list((house.folder.parent / "cache").rglob("house.room.run-*.nbc"))


def test_where_nothing_can_be_written_a_kernel_runs_all_the_same(house: House) -> None:
    (house.folder / "__pycache__").write_text("no folder")
    (house.folder.parent / "cache").write_text("none either")
    assert house.run() == (33, False)
    assert house.run() == (33, False)


def test_damaged_code_is_compiled_again(house: House) -> None:
    assert house.run() == (33, False)
    (path,) = house.kept()
    code = bytearray(path.read_bytes())
    code[len(code) // 2] ^= 1
    path.write_bytes(code)
    assert house.run() == (33, False)
    assert house.run() == (33, True)
    path.write_bytes(path.read_bytes()[:20])
    assert house.run() == (33, False)


# --- what the key hangs on --------------------------------------------------------------------


class _Row(NamedTuple):
    first: int


class _WiderRow(NamedTuple):
    first: int
    second: int


@intrinsic
def _one(_typing: Any) -> tuple[Any, Callable[..., Any]]:
    return numba.types.int64(), lambda _context, _builder, signature, _arguments: signature.return_type(1)


@intrinsic
def _two(_typing: Any) -> tuple[Any, Callable[..., Any]]:
    return numba.types.int64(), lambda _context, _builder, signature, _arguments: signature.return_type(2)


def _key(function: Callable[..., Any], **globals_: Any) -> str:
    """The key of a kernel with this function's code and these globals."""
    return source_key(kernel(_rebound(function, **globals_)))


def _rebound(function: Callable[..., Any], **globals_: Any) -> Any:
    return types.FunctionType(function.__code__, {**function.__globals__, **globals_}, function.__name__)


def _uses_thing(x: Any) -> Any:
    return thing(x)  # type: ignore[name-defined]  # noqa: F821  # given by _key


def _add_one(x: int) -> int:
    return x + 1


def _add_two(x: int) -> int:
    return x + 2


def _closed_over(number: int) -> Callable[[int], int]:
    return lambda x: x + number


@pytest.mark.parametrize(
    ("thing", "other"),
    [
        (part(_add_one), part(_add_two)),
        (part(_add_one), inlined(_add_one)),
        (part(_rebound(_uses_thing, thing=part(_add_one))), part(_rebound(_uses_thing, thing=part(_add_two)))),
        (part(_closed_over(1)), part(_closed_over(2))),
        (1, 2),
        (1, True),
        (1.0, -1.0),
        (np.int64(1), np.uint64(1)),
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([1, 2]), np.array([[1, 2]])),
        ((1, (2, b"3")), (1, (2, b"4"))),
        (_Row, _WiderRow),
        (_one, _two),
        (numba.types.int64, numba.types.int32),
        (np.uint8, np.uint16),
    ],
)
def test_what_a_name_stands_for_is_part_of_the_key(thing: Any, other: Any) -> None:
    assert _key(_uses_thing, thing=thing) == _key(_uses_thing, thing=thing)
    assert _key(_uses_thing, thing=thing) != _key(_uses_thing, thing=other)


def test_names_that_the_code_does_not_use_are_no_part_of_the_key() -> None:
    assert _key(_uses_thing, thing=1, another=1) == _key(_uses_thing, thing=1, another=2)


def test_a_function_that_calls_itself_has_a_key() -> None:
    itself = _rebound(_uses_thing)
    itself.__globals__["thing"] = part(itself)
    assert source_key(kernel(itself))


@pytest.mark.parametrize("thing", [object(), {"a": 1}, [1], re.compile("a")])
def test_what_is_not_understood_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"extend source_key\.py"):
        _key(_uses_thing, thing=thing)


# --- the house's kernels ----------------------------------------------------------------------


def _modules_with(text: str) -> list[str]:
    found = [path for path in (REPOSITORY / "pipeline").rglob("*.py") if text in path.read_text(encoding="utf-8")]
    return sorted(str(path.relative_to(REPOSITORY).with_suffix("")).replace(os.sep, ".") for path in found)


def test_every_kernel_has_a_key() -> None:
    modules = _modules_with("\n@kernel\n")
    assert len(modules) >= 6
    for name in modules:
        module = importlib.import_module(name)
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        for function in re.findall(r"^@kernel\ndef (\w+)", source, re.MULTILINE):
            assert re.fullmatch("[0-9a-f]{16}", source_key(getattr(module, function)))


def test_functions_are_compiled_in_one_place() -> None:
    assert _modules_with("njit") == ["pipeline.compiled.declare"]
    assert _modules_with("cache=True") == []
