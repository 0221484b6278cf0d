"""docs/command.md: its overview is the command's own, and its commands are run as they stand, on a smaller web."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openwit.command import main
from pipeline.sample_web import SampleWebConfig, build_sample_web
from tests.conftest import REPOSITORY
from tests.ports import free_port

DOCUMENT = (REPOSITORY / "docs" / "command.md").read_text(encoding="utf-8")
ANSWERS = "\n\n\nme@example.org\n\n"
"""To `openwit init`."""


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


def test_overview_is_what_help_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert _blocks("text") == [capsys.readouterr().out]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Where `openwit` is on the path, whose sample is small and needs no Ray."""
    port = free_port()
    shutil.copytree(REPOSITORY / "configs", tmp_path / "packages" / "configs")
    sample = tmp_path / "packages" / "configs" / "shards" / "sample.yaml"
    text = sample.read_text().replace(":8766", f":{port}").replace("retries: 1", "retries: 0").replace("_s: 3", "_s: 1")
    sample.write_text(f"{text}engine: {{kind: inline}}\n")
    program = tmp_path / "bin" / "openwit"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m openwit "$@"\n')
    program.chmod(0o755)
    work = tmp_path / "work"
    build_sample_web(SampleWebConfig(path=str(work / "data" / "sample_web"), links=200, port=port))
    (work / "my-links").mkdir()
    row = {"url": "https://a.example/1.jpg", "caption": "a dog in the park"}
    pq.write_table(pa.Table.from_pylist([row]), work / "my-links" / "a.parquet")
    (work / "my-queries.txt").write_text("dog\n")
    paths = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{tmp_path / 'packages'}:{REPOSITORY}",
        "HOME": str(tmp_path / "home"),
    }
    return {**os.environ, **paths}


@pytest.mark.timeout(600)  # twenty commands, on a machine that does other things too
def test_every_command_works(environment: dict[str, str], tmp_path: Path) -> None:
    script = "".join(_blocks("sh"))
    # It wants a terminal: util-linux has one for it.
    script = script.replace("openwit init\n", 'script -qec "openwit init" /dev/null\n')
    if shutil.which("script") is None:
        script = re.sub(r"^script .*\n", "", script, flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path / "work",
        env=environment,
        input=ANSWERS,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for told in ("all whole", "final_balance", "--fetch.retries", "output: data/my-links"):
        assert told in done.stdout
    for made in ("data/sample/report.html", "laion.yaml", "my.yaml", "openwit-shards.json"):
        assert (tmp_path / "work" / made).is_file()
    assert (tmp_path / "home" / ".local/share/bash-completion/completions/openwit").is_file()
