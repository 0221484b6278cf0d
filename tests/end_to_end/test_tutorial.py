"""docs/tutorial.ipynb: its cells are run in their order, without Jupyter. What docs/catalog.md asks the sample, too."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.ports import free_port

CELLS: list[dict[str, Any]] = json.loads((REPOSITORY / "docs/tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
PROGRAM = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code")


def test_notebook_keeps_nothing_of_what_it_prints() -> None:
    for cell in CELLS:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tutorial_works(tmp_path: Path) -> None:
    """On a port of the test's own."""
    port = free_port()
    shutil.copytree(REPOSITORY / "configs", tmp_path / "packages" / "configs")
    sample = tmp_path / "packages" / "configs" / "shards" / "sample.yaml"
    sample.write_text(sample.read_text().replace(":8766", f":{port}"))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'packages'}:{REPOSITORY}", "PYTHONWARNINGS": "default"}
    build = 'openwit("sample-web", "build")'
    assert build in PROGRAM
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "tutorial.py").write_text(PROGRAM.replace(build, f'{build[:-1]}, "--port", "{port}")'))

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", *words], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    told = run(str(tmp_path / "tutorial.py"))
    assert re.search(r"^3,2\d\d samples$", told, re.MULTILINE)  # a port is in the URLs, which the choice goes by
    assert "torch.Size([1, " in told
    assert (work / "data/sample/report.html").is_file()
    assert (work / "data/red/shards/manifest.json").is_file()
    (url,) = re.findall(r"explain data/sample --url (\S+)$", (REPOSITORY / "docs/catalog.md").read_text(), re.MULTILINE)
    story = run("-m", "openwit", "explain", "data/sample", "--url", url.replace(":8766", f":{port}"))
    assert "a drawing of a yellow circle" in story
