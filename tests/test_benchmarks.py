"""The benchmarks are whole: all can be imported, and those without a side environment run, at sizes of no meaning."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

REAL_DATA = ("language", "query_list_build", "text_path")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_it_can_be_imported(path: Path) -> None:
    importlib.import_module(f"benchmarks.{path.stem}")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("catalog", ["--rows", "20000", "--repeats", "1"]),
        ("language", ["--texts", "2000", "--repeats", "1"]),
        ("query_list_build", ["--words", "1000"]),
        ("select_scale", ["--rows", "20000", "--engine", "inline", "--max-urls-per-caption", "10", "--compare"]),
        ("text_path", ["--texts", "3000", "--queries", "2000", "--repeats", "1"]),
    ],
)
def test_it_runs(name: str, arguments: list[str], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    environment = dict(os.environ)
    if name in REAL_DATA:
        environment["OPENWIT_SHARED_DATA"] = str(request.getfixturevalue("shared_data"))
    if name == "select_scale":
        arguments = [*arguments, "--scratch", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
