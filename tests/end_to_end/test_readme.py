"""The README's commands are run as they stand, on a smaller web and a shorter training."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
import yaml

from configs.presets import preset
from openwit.command.table import COMMANDS as COMMANDS_OF_OPENWIT
from tests.conftest import REPOSITORY
from tests.ports import free_port

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in _blocks("sh") for line in block.splitlines() if line and line != "make test"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project's files in a directory of their own, with this Python's environment as .venv."""
    root = tmp_path_factory.mktemp("readme") / "openwit"
    names = (
        "configs",
        "openwit",
        "pipeline",
        "query_list",
        "training",
        "Makefile",
        "pyproject.toml",
        "setup.py",
        *(f"requirements{part}.lock" for part in ("", "-train", "-dev")),
    )
    for name in names:
        source = REPOSITORY / name
        if source.is_dir():
            # With its compiled kernels, which take 20 s; without what another process is writing.
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("*.pyc.*", "*.tmp*", "*.tmp.*"))
        else:
            root.mkdir(exist_ok=True)
            shutil.copy2(source, root / name)
    (root / ".venv").symlink_to(sys.prefix)
    port = free_port()
    sample = root / "configs/shards/sample.yaml"
    sample.write_text(sample.read_text().replace(":8766", f":{port}"))
    os.environ["SAMPLE_WEB"] = f"--links 400 --port {port}"
    yield root
    del os.environ["SAMPLE_WEB"]


def _run(checkout: Path, command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS"):  # of the make that runs the tests
        environment.pop(name, None)
    # The stamps are newer than what they stand for: the environment is the one that runs this test.
    words = command.replace("make ", "make -o .venv/ready -o .venv/ready-train ", 1)
    if command == "make train":
        words += ' ARGS="--epochs 1"'
    done = subprocess.run(
        ["bash", "-c", words], cwd=checkout, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)  # fifteen commands, each of which takes seconds, on a machine that does other things too
def test_every_command_of_the_readme_works(checkout: Path) -> None:
    (own,) = _blocks("yaml")
    config = yaml.safe_load(own)
    assert set(config) == {"sources", "queries", "output", "fetch", "balance"}
    sample = yaml.safe_load((checkout / "configs/shards/sample.yaml").read_text())
    # Without retries, which wait for what never comes, and without a Ray: `make shards` has both.
    config |= {"fetch": {**sample["fetch"], **config["fetch"], "retries": 0}, "sample_web": "data/sample_web"}
    config["engine"] = {"kind": "inline"}
    config["sources"] = ["data/sample_web/tables/links.parquet"]
    (checkout / "my.yaml").write_text(yaml.safe_dump(config))
    (checkout / "my-queries.txt").write_text("red\ncircle\n")
    outputs = {command: _run(checkout, command) for command in COMMANDS}
    assert "samples" in outputs["make shards"]
    assert "nothing to do" in _run(checkout, "make shards")
    assert "zeroshot mean per class" in outputs["make train"]
    assert (checkout / "data/sample/report.html").exists()
    assert (checkout / "data/mine-500/shards/manifest.json").exists()


def test_sql_for_a_shell_of_your_own_works(finished: Path) -> None:
    (query,) = _blocks("sql")
    with duckdb.connect() as database:
        assert len(database.execute(query.replace("data/sample", str(finished))).fetchall()) <= 5


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_python_for_reading_the_shards_works(finished: Path) -> None:
    (code,) = _blocks("python")
    last = len(list((finished / "shards").glob("*.tar"))) - 1
    exec(code.replace("data/sample", str(finished)).replace("{00000..00006}", f"{{00000..{last:05d}}}"), {})


def test_words_of_the_command_are_ones_that_it_knows() -> None:
    """What a wheel's user gives; docs/command.md runs the like of it."""
    (block,) = [block for block in _blocks("text") if block.startswith("openwit ")]
    for line in block.splitlines():
        _, name, *words = shlex.split(line, comments=True)
        command = next((each for each in COMMANDS_OF_OPENWIT if each.name == name), None)
        assert command is not None or name == "--help", line
        if words:
            assert command is not None
            assert preset(command.name, words[0]) is not None, line


def test_configs_that_the_readme_names_exist() -> None:
    for name in re.findall(r"`(configs/[^`]+)`", README):
        assert (REPOSITORY / name).exists(), name
