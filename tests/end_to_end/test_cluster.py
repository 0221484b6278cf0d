"""The same run on a Ray cluster that RAY_ADDRESS names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.load import dump
from pipeline.wit import WitConfig
from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import free_port, published_hashes


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one node on loopback, started in another directory than the run."""
    ray = str(Path(sys.executable).parent / "ray")
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    environment.pop("RAY_AUTH_MODE", None)
    environment.pop("RAY_AUTH_TOKEN", None)
    address = f"127.0.0.1:{free_port()}"
    common = ["--num-cpus", "1", "--node-ip-address", "127.0.0.1", "--disable-usage-stats"]
    head = [ray, "start", "--head", "--port", address.rpartition(":")[2], "--include-dashboard", "false", *common]
    nodes = [[*head, "--block"]]
    running = []
    for node in nodes:
        running.append(
            subprocess.Popen(
                node,
                env=environment,
                cwd="/",
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        time.sleep(5)  # until the head listens
    yield address
    for process in reversed(running):  # never `ray stop`: it would end every Ray of this machine
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@pytest.mark.slow
def test_cluster_run_writes_the_same_bytes(
    address: str, finished: Path, make_config: Callable[..., WitConfig], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(dump(make_config(tmp_path / "set")))
    environment = {**os.environ, "RAY_ADDRESS": address}
    environment.pop("RAY_AUTH_MODE", None)
    environment.pop("RAY_AUTH_TOKEN", None)
    command = [sys.executable, "-m", "pipeline", "run", str(config)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert published_hashes(tmp_path / "set") == published_hashes(finished)
