"""The programs of docs/python.md, run as they stand there, from a directory of the reader's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

PATHS = {f"/{i}": text(picture(i)) for i in range(8)}
_PAGE = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
FIRST, NO_ADVERTS, SQUARE = re.findall(r"^```python\n(.*?)^```", _PAGE, re.MULTILINE | re.DOTALL)


def _made(tmp_path: Path, server: LoopbackServer, *, engine: str = "inline") -> None:
    """config.yaml in `tmp_path`, for a set in out/, two links of which have a caption that sells something."""
    small = SmallRun.make(tmp_path, server, PATHS)
    rows = pq.read_table(tmp_path / "links.parquet").to_pylist()
    for row, more in zip(rows, ("with free shipping", "for Sale"), strict=False):
        row["alt"] += f" {more}"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "links.parquet")
    config = yaml.safe_load(small.config.read_text())
    config |= {"output": "out", "engine": {"kind": engine, "num_cpus": 2}}
    small.config.write_text(yaml.safe_dump(config))


def _python(directory: Path, name: str, program: str) -> str:
    (directory / name).write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, name], cwd=directory, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_programs_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    with LoopbackServer(PATHS) as server:
        _made(tmp_path, server)
        assert _python(tmp_path, "first.py", FIRST).split()[0] == "8"
        said = _python(tmp_path, "no_adverts.py", NO_ADVERTS).splitlines()
        assert "no_adverts 8 6 {'advert': 2}" in said
        assert len([line for line in said if re.fullmatch(r"[A-Za-z ]+ [0-9]+", line)]) == 6
        assert not any("shipping" in line for line in said)
        assert _python(tmp_path, "square.py", SQUARE).strip() == "8"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stage_of_a_script_or_of_a_module_beside_it_runs_on_ray(tmp_path: Path) -> None:
    with LoopbackServer(PATHS) as server:
        _made(tmp_path, server, engine="ray")
        said = _python(tmp_path, "no_adverts.py", NO_ADVERTS)
        assert "no_adverts 8 6 {'advert': 2}" in said
        beside = (
            "from no_adverts import NoAdverts\nfrom openwit import Pipeline\n"
            "stage = NoAdverts(words=('dog',))\n"
            "result = Pipeline('config.yaml').judge_links(stage).run()\n"
            "print(result.samples, result.ran_tasks > 0)\n"
        )
        assert _python(tmp_path, "main.py", beside).split() == ["7", "True"]
        fails = (
            "from no_adverts import NoAdverts\nfrom openwit import Pipeline, PipelineError\n"
            "try:\n    Pipeline('config.yaml').judge_links(NoAdverts(words=('(',))).run()\n"
            "except PipelineError as error:\n    print(error)\n"
        )
        assert _python(tmp_path, "fails.py", fails).startswith("stage no_adverts: ArrowInvalid: Invalid regular")
