"""What is installed for whom: data sets need no torch, three locks agree, a wheel brings what it says and no more.

`make`'s set-up runs with a Python and a uv that write down their words.
"""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

ROOMS = ("configs", "openwit", "pipeline", "query_list")
"""What the base dependencies are for."""
LOCKS = ("requirements.lock", "requirements-train.lock", "requirements-dev.lock")
OPTIONAL = {"c2pa", "cryptography", "onnx", "onnxruntime", "onnxscript", "pycares", "sentencepiece", "usearch"}
"""Of an extra of their own: who needs one says what to install."""
TORCH = ("open_clip", "safetensors", "tensorboard", "timm", "torch", "torchvision", "triton")


def _locked(lock: str) -> dict[str, str]:
    """Versions by name."""
    text = (REPOSITORY / lock).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z][a-z0-9.-]*)==([^ ;]+)", text, re.MULTILINE))


# --- who needs what ---------------------------------------------------------------------------


def test_each_lock_has_all_of_the_one_before_at_its_versions() -> None:
    base, train, everything = map(_locked, LOCKS)
    assert base.items() < train.items() < everything.items()
    assert {"torch", "timm"} <= train.keys() - base.keys()
    assert {"pytest", "webdataset"} <= everything.keys() - train.keys()
    assert {"setuptools", "uv"} <= base.keys()


@pytest.mark.parametrize(("lock", "rooms"), [(LOCKS[0], ROOMS), (LOCKS[1], ("training",))])
def test_what_a_lock_leaves_out_is_imported_by_nobody_whom_it_serves(lock: str, rooms: tuple[str, ...]) -> None:
    left_out = _locked(LOCKS[2]).keys() - _locked(lock).keys()
    modules = {
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if {canonicalize_name(package) for package in packages} <= left_out
    }
    assert {"pandas", "pytest"} <= modules
    modules -= OPTIONAL
    for room in rooms:
        for path in (REPOSITORY / room).rglob("*.py"):
            assert not _imports(path) & modules, path


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


_WITHOUT = """
import importlib, pkgutil, runpy, sys
for name in {missing}:
    sys.modules[name] = None  # as if it were not installed
"""
_TRAINING = "sys.argv = ['training', *{words}]; runpy.run_module('training', run_name='__main__')"


def _run_without(missing: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", _WITHOUT.format(missing=missing) + code]
    return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_all_that_makes_data_sets_is_imported_without_the_trainers_packages() -> None:
    done = _run_without(
        TORCH,
        f"""
for room in {ROOMS}:
    for found in pkgutil.walk_packages(importlib.import_module(room).__path__, room + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
""",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["run", "evaluate", "export"])
def test_the_trainer_says_in_one_line_what_to_install(command: str) -> None:
    done = _run_without(("torch", "open_clip"), _TRAINING.format(words=[command, "configs/train/sample.yaml"]))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the trainer is not installed here (open_clip, torch missing); run `make setup-train` in a checkout, "
        "elsewhere pip install 'openwit[train]'\n"
    )


def test_help_of_the_trainer_needs_no_torch() -> None:
    assert _run_without(TORCH, _TRAINING.format(words=["--help"])).returncode == 0


# --- make's set-up ----------------------------------------------------------------------------

_PYTHON = """#!/bin/sh
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$UV" .venv/bin/uv;;
  "-c "*) exit 0;;
esac
echo "python $*" >> calls
"""
_UV = '#!/bin/sh\necho "uv $*" >> calls\n'


class Checkout:
    """The files of a set-up, and stand-ins for Python and uv."""

    def __init__(self, root: Path, uv: str) -> None:
        self.root = root / "checkout"
        self.root.mkdir()
        for name in ("Makefile", "pyproject.toml", "setup.py", *LOCKS):
            (self.root / name).write_bytes((REPOSITORY / name).read_bytes())
            os.utime(self.root / name, (1e9, 1e9))
        for name, text in {"python3": _PYTHON, "uv": uv}.items():
            (root / name).write_text(text)
            (root / name).chmod(0o755)
        self.environment = {**os.environ, "PYTHON": str(root / "python3"), "UV": str(root / "uv")}
        for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS"):  # of the make that runs the tests
            self.environment.pop(name, None)

    def make(self, *targets: str) -> list[str]:
        """What was called, shortened to what differs."""
        done = subprocess.run(["make", *targets], cwd=self.root, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        self.said = done.stdout
        calls = self.root / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        assert all("--require-hashes --no-deps -r" in line for line in lines if " -r " in line)
        return [re.sub(r"^(python|uv) .*pip install .*(?=-e \.|-r )", _shortened, line) for line in lines]

    def renew(self, name: str) -> None:
        os.utime(self.root / name)


def _shortened(call: re.Match[str]) -> str:
    return "python pip " if call.group(1) == "python" else "uv "


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[..., Checkout]:
    return lambda uv=_UV: Checkout(tmp_path, uv)


def _of(lock: str) -> str:
    return f"uv -r {lock}"


_BASE = [
    "python -m venv .venv",
    "python pip -r .venv/uv.lock",
    _of("requirements.lock"),
    "python pip -e .",
    "python -m pipeline.kernels",
]


def test_set_up_installs_for_data_sets_and_says_so(checkout: Callable[..., Checkout]) -> None:
    here = checkout()
    assert here.make("setup") == _BASE
    assert re.match(r"Setting up \.venv to make data sets, once: \d+ MB to load, [\d.]+ GB on the disk", here.said)
    assert re.search(r"^Ready to make data sets, after \d+ s\.$", here.said, re.MULTILINE)
    assert (here.root / ".venv/uv.lock").read_text().startswith("uv==")
    assert len(re.findall("^[^ ]", (here.root / ".venv/uv.lock").read_text(), re.MULTILINE)) == 1
    assert here.make("setup") == []


def test_the_trainer_and_the_tests_packages_are_added_in_any_order(checkout: Callable[..., Checkout]) -> None:
    here = checkout()
    assert here.make("setup-train") == [*_BASE, _of("requirements-train.lock")]
    assert here.make("setup-dev") == [_of("requirements-dev.lock")]
    assert here.make("setup", "setup-train", "setup-dev") == []


def test_with_the_tests_packages_the_trainer_is_there(checkout: Callable[..., Checkout]) -> None:
    here = checkout()
    assert here.make("setup-dev") == [*_BASE, _of("requirements-dev.lock")]
    assert here.make("setup-train") == []


@pytest.mark.parametrize(
    ("lock", "target", "calls"),
    [
        ("requirements.lock", "setup", _BASE[1:]),
        ("requirements.lock", "setup-dev", [*_BASE[1:], _of("requirements-dev.lock")]),
        ("requirements-train.lock", "setup", []),
        ("requirements-train.lock", "setup-train", [_of("requirements-train.lock")]),
        ("requirements-dev.lock", "setup-train", []),
        ("requirements-dev.lock", "setup-dev", [_of("requirements-dev.lock")]),
    ],
)
def test_a_new_lock_sets_up_again(checkout: Callable[..., Checkout], lock: str, target: str, calls: list[str]) -> None:
    here = checkout()
    here.make("setup-dev")
    for stamp in ("ready", "ready-train", "ready-dev"):
        os.utime(here.root / ".venv" / stamp, (1.1e9, 1.1e9))
    here.renew(lock)
    assert here.make(target) == calls
    assert here.make(target) == []


def test_where_uv_fails_pip_installs(checkout: Callable[..., Checkout]) -> None:
    here = checkout("#!/bin/sh\nexit 1\n")
    assert here.make("setup") == [*_BASE[:2], "python pip -r requirements.lock", *_BASE[3:]]
    assert "with pip" in here.said


@pytest.mark.parametrize(
    ("target", "stamp"),
    [("sql", "ready"), ("report", "ready"), ("train", "ready-train"), ("test", "ready-dev"), ("lint", "ready-dev")],
)
def test_targets_set_up_what_they_need_and_no_more(checkout: Callable[..., Checkout], target: str, stamp: str) -> None:
    here = checkout()
    (here.root / "data/sample/shards").mkdir(parents=True)
    (here.root / "data/sample/shards/manifest.json").touch()
    words = ["make", "-n", target]
    done = subprocess.run(words, cwd=here.root, env=here.environment, capture_output=True, text=True, check=True)
    wanted = {"ready": 1, "ready-train": 2, "ready-dev": 2}[stamp]
    assert len(re.findall(r"--require-hashes --no-deps -r requirements\S*;", done.stdout)) == wanted
    assert ("requirements-dev" in done.stdout) == (stamp == "ready-dev")
