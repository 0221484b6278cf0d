"""A command that computes nothing loads nothing to compute with: help is there at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.commands import main
from tests.conftest import REPOSITORY

KERNELS = {"llvmlite", "numba"}
PICTURES = {"PIL", "cv2"}
READERS = {"fastwarc", "fsspec", "ftfy", "mwparserfromhell", "selectolax", "spellchecker"}
OTHERS = {"asyncio", "duckdb", "fasttext", "img2dataset", "multiprocessing", "open_clip", "ray", "torch"}
HEAVY = KERNELS | PICTURES | READERS | OTHERS
"""What no command loads before it knows what there is to do."""
ARRAYS = {"numpy", "pandas", "pyarrow"}
FOR_HELP = HEAVY | ARRAYS | {"ada_url", "idna", "pycurl", "rich", "ssl"}
"""What no help loads."""
PIPELINE = (
    *("plan", "run", "status", "sql", "report", "balance-report", "explain", "verify"),
    *("subset", "join", "export-list", "release", "remove", "compact", "apply-delta"),
)
HELP = [
    ["pipeline", "--help"],
    *(["pipeline", command, "--help"] for command in PIPELINE),
    ["query_list", "--help"],
    *(["query_list", command, "--help"] for command in ("build", "stats", "lint", "diff-rules")),
    ["pipeline.sample_web", "--help"],
]
"""Modules to run, with their words."""
CONFIGS = ["pipeline.config", "pipeline.releasing.config", "pipeline.sets.subset_config", "query_list.config"]
STEPS = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in (REPOSITORY / "pipeline" / "steps").rglob("[a-z]*.py")
)

_RUN = """
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def loaded(code: str, *words: str) -> set[str]:
    """The top-level modules that a Python has loaded after `code`, which prints them in its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def loaded_by_import(modules: Iterable[str]) -> set[str]:
    return loaded(f"import json, sys, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))")


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_help_loads_nothing_to_compute_with(words: list[str]) -> None:
    assert loaded(_RUN, *words) & FOR_HELP == set()


def test_every_command_is_held_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line and line[0].islower()]
    assert tuple(told) == PIPELINE


@pytest.mark.parametrize("module", CONFIGS)
def test_config_can_be_read_without_what_its_options_are_for(module: str) -> None:
    assert loaded_by_import([module]) & FOR_HELP == set()


def test_steps_load_what_they_work_with_when_they_work() -> None:
    assert loaded_by_import(STEPS) & (HEAVY | {"pandas"}) == set()


def test_status_loads_no_library_of_a_stage(tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("dog\n")
    (tmp_path / "links.csv").write_text("url,alt_text\nhttp://127.0.0.1/a.jpg,a dog\n")
    config = tmp_path / "set.yaml"
    config.write_text(
        f"sources: [{tmp_path}/links.csv]\nqueries: {tmp_path}/queries.txt\noutput: {tmp_path}/set\n"
        "fetch: {user_agent: tests (nobody@example.invalid)}\n"
    )
    assert loaded(_RUN, "pipeline", "status", str(config)) & HEAVY == set()
