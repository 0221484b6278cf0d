"""A Ray cluster of two nodes, named by RAY_ADDRESS alone: the same bytes, also when a node dies in the middle."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.load import dump
from pipeline.config import WitConfig
from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import published_hashes
from tests.ray_nodes import ENVIRONMENT, cluster, kill, runs_tasks


def wait(until: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_writes_the_same_bytes(
    make_config: Callable[..., WitConfig], finished: Path, tmp_path: Path
) -> None:
    output, config = tmp_path / "set", tmp_path / "config.yaml"
    config.write_text(dump(make_config(output)))
    with cluster() as nodes, nodes.node() as second:
        wait(lambda: nodes.size() == 2, 60)
        run = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run", str(config)],
            cwd=REPOSITORY,
            env={**ENVIRONMENT, "RAY_ADDRESS": nodes.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            begun = output / "work/fetch"
            wait(lambda: (begun.exists() and runs_tasks(second)) or run.poll() is not None, 120)
            assert run.poll() is None
            kill(second)
            printed, _ = run.communicate(timeout=180)
        finally:
            run.kill()
    assert run.returncode == 0, printed
    assert published_hashes(output) == published_hashes(finished)
