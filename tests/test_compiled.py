"""Compiled kernels are never older than their sources, and are not compiled again without need.

A small package, made here, has a kernel that is fed by other files. Each run is a process of its own, as the tasks of a
run are; it says what the kernel answers, and how often it was found compiled.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest

from pipeline.compiled import processor, store
from pipeline.compiled.declare import inlined, intrinsic, kernel, part
from pipeline.compiled.processor import baseline
from pipeline.compiled.source_key import source_key
from pipeline.compiled.store import code_files
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
            [sys.executable, "-B", "-c", _RUN.format(x)],
            cwd=self.folder.parent,  # from where, too, Python imports
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
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


@pytest.mark.slow
def test_a_change_in_what_a_kernel_calls_compiles_it_again(house: House) -> None:
    assert house.run() == (33, False)
    assert house.run() == (33, True)
    house.change("deep.py", "3 * x", "4 * x")
    assert house.run() == (35, False)
    assert house.run() == (35, True)


@pytest.mark.slow
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


@pytest.mark.slow
def test_processes_that_compile_at_once_keep_right_code(house: House) -> None:
    numbers = {"1": 33, "1.5": 36, "True": 33, "2": 39}  # three types, one of them twice
    processes = {x: house.start(x) for x in numbers}
    assert {x: _answer(process)[0] for x, process in processes.items()} == numbers
    assert {x: house.run(x) for x in ("1.5", "True", "2")} == {"1.5": (36, True), "True": (33, True), "2": (39, True)}
    assert len(house.kept()) == 3
    assert not list((house.folder / "__pycache__").glob("*.tmp-*"))


@pytest.mark.slow
def test_where_the_source_cannot_be_written_the_users_cache_keeps_code(house: House) -> None:
    (house.folder / "__pycache__").write_text("no folder")
    assert house.run() == (33, False)
    assert house.run() == (33, True)
    assert list((house.folder.parent / "cache").rglob("house.room.run-*.nbc"))


@pytest.mark.slow
def test_where_nothing_can_be_written_a_kernel_runs_all_the_same(house: House) -> None:
    (house.folder / "__pycache__").write_text("no folder")
    (house.folder.parent / "cache").write_text("none either")
    assert house.run() == (33, False)
    assert house.run() == (33, False)


@pytest.mark.slow
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


# --- code that came along ---------------------------------------------------------------------


class Shipped(House):
    """The package with a copy of the room for compiled code, which has the kernel's for the baseline."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        room = folder / "pipeline" / "compiled"
        shutil.copytree(
            REPOSITORY / "pipeline" / "compiled", room, ignore=shutil.ignore_patterns("shipped", "__pycache__")
        )
        (folder / "pipeline" / "__init__.py").touch()
        self.shipped = room / "shipped"
        shared = baseline()
        assert shared is not None
        plain = self.environment
        self.environment = plain | {"NUMBA_CPU_NAME": shared.cpu, "NUMBA_CPU_FEATURES": shared.features}
        assert self.run() == (33, False)
        self.environment = plain
        (self.file,) = self.shipped.iterdir()
        assert not self.kept()


@pytest.fixture
def shipped(tmp_path: Path) -> Shipped:
    if baseline() is None:
        pytest.skip("this processor is below the baseline")
    return Shipped(tmp_path)


@pytest.mark.slow
def test_code_for_the_baseline_is_used_where_nothing_can_be_written(shipped: Shipped) -> None:
    shutil.rmtree(shipped.folder / "__pycache__")
    (shipped.folder / "__pycache__").write_text("no folder")
    (shipped.folder.parent / "cache").write_text("none either")
    assert shipped.run() == (33, True)
    assert shipped.run("1.5") == (36, False)  # other types


@pytest.mark.slow
def test_damaged_code_that_came_along_is_compiled_here(shipped: Shipped) -> None:
    shipped.file.write_bytes(shipped.file.read_bytes()[:-1] + b"?")
    assert shipped.run() == (33, False)
    assert shipped.run() == (33, True)
    assert len(shipped.kept()) == 1


@pytest.mark.slow
def test_code_of_other_sources_that_came_along_is_not_used(shipped: Shipped) -> None:
    shipped.change("deep.py", "3 * x", "4 * x")
    assert shipped.run() == (35, False)
    assert shipped.file.exists()  # who runs a package does not change it


def test_a_processor_below_the_baseline_compiles_for_itself(shipped: Shipped) -> None:
    room = shipped.folder.parent / "pipeline" / "compiled" / "processor.py"
    room.write_text(room.read_text() + "\n_BASELINES = {}\n")
    assert shipped.run() == (33, False)
    assert len(shipped.kept()) == 1


@pytest.mark.parametrize("missing", sorted(processor._X86_64_V3))
def test_the_baseline_needs_every_feature_of_its_level(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.binding, "get_process_triple", lambda: "x86_64-unknown-linux-gnu")
    monkeypatch.setattr(processor, "_features", lambda: dict.fromkeys(processor._X86_64_V3, True))
    found = baseline.__wrapped__()
    assert found is not None
    assert found.cpu == "x86-64-v3"
    monkeypatch.setattr(processor, "_features", lambda: dict.fromkeys(processor._X86_64_V3 - {missing}, True))
    assert baseline.__wrapped__() is None


def test_code_of_another_system_version_or_type_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def names() -> set[str]:
        files = code_files(kernel="k", source_key="s", types="int64", kind="nbc", own_folder=Path())
        return {file.path.name for file in files.values()}

    here_names = names()
    monkeypatch.setattr(store, "toolchain", lambda: ("cpython-399", "0", "0", "0"))
    assert not names() & here_names
    monkeypatch.undo()
    monkeypatch.setattr(store, "here", lambda: processor.Processor("riscv64-unknown-linux-gnu", "generic", ""))
    monkeypatch.setattr(store, "baseline", lambda: None)
    assert len(names()) == 1
    assert not names() & here_names


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

_COMPILED_AHEAD = """
import importlib, sys
from pipeline.kernels import KERNELS
for compile in KERNELS.values():
    compile()
for name in sys.argv[1:]:
    module, function = name.split(":")
    print(name, len(getattr(importlib.import_module(module), function).signatures))
"""
_RESULTS = """
import hashlib
import numpy as np, pyarrow as pa
from pipeline.compiled import processor
{patch}
from pipeline.matching.config import MatchConfig
from pipeline.matching.matcher import Matcher
from pipeline.records.queries import query_list_of
from pipeline.stages.check_image import area
from pipeline.stages.language.model import load_model
random = np.random.default_rng(0)
words = ["".join(map(chr, random.integers(97, 123, n))) for n in random.integers(1, 12, 500)] + ["straße", "dog"]
texts = pa.array([" ".join(random.choice(words, n)) for n in random.integers(0, 40, 2000)], pa.string())
digest = hashlib.sha256()
for found in Matcher.build(query_list_of(words[::3]), MatchConfig()).find(texts):
    digest.update(found.tobytes())
language = load_model().predict(texts, "en")
digest.update(language.p_label.tobytes() + language.p_target.tobytes())
pixels = random.integers(0, 256, (301, 407, 3), np.uint8)
for size in ((150, 201), (400, 300), (7, 5)):
    digest.update(area.shrink(pixels, size).tobytes())
print(digest.hexdigest())
"""


def _kernels() -> list[str]:
    """module:function of each."""
    return [
        f"{name}:{function}"
        for name in _modules_with("\n@kernel\n")
        for function in re.findall(
            r"^@kernel\ndef (\w+)", Path(str(importlib.import_module(name).__file__)).read_text("utf-8"), re.MULTILINE
        )
    ]


def test_every_kernel_is_compiled_ahead_and_for_one_kind_of_arrays() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _COMPILED_AHEAD, *_kernels()], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{name} 1" for name in _kernels()]


@pytest.mark.slow
def test_code_for_the_baseline_gives_the_same_bytes_as_code_for_this_processor(tmp_path: Path) -> None:
    found = set()
    for patch in ("", "processor._BASELINES = {}"):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        words = [sys.executable, "-c", _RESULTS.format(patch=patch)]
        done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


def _modules_with(text: str) -> list[str]:
    found = [path for path in (REPOSITORY / "pipeline").rglob("*.py") if text in path.read_text(encoding="utf-8")]
    return sorted(str(path.relative_to(REPOSITORY).with_suffix("")).replace(os.sep, ".") for path in found)


def test_every_kernel_has_a_key() -> None:
    assert len(_kernels()) >= 10
    for name in _kernels():
        module, function = name.split(":")
        assert re.fullmatch("[0-9a-f]{16}", source_key(getattr(importlib.import_module(module), function)))


def test_functions_are_compiled_in_one_place() -> None:
    assert _modules_with("njit") == ["pipeline.compiled.declare"]
    assert _modules_with("cache=True") == []
