"""A Ray cluster of two nodes, named by RAY_ADDRESS alone: the same bytes, also when a node dies in the middle."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from configs.load import dump
from pipeline.wit import WitConfig
from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import free_port, published_hashes

# Other tests start a Ray with a token in this process; that one is theirs.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only
}


@contextlib.contextmanager
def node(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node as `ray start` makes it; it dies with all that it started when the context ends, or when killed."""
    command = [f"{Path(sys.executable).parent}/ray", "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    process = subprocess.Popen(
        [*command, "--object-store-memory=80000000", *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill(process)


def kill(node: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


def wait(until: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_cluster_that_loses_a_node_writes_the_same_bytes(
    make_config: Callable[..., WitConfig], finished: Path, tmp_path: Path
) -> None:
    output, config = tmp_path / "set", tmp_path / "config.yaml"
    config.write_text(dump(make_config(output)))
    address = f"127.0.0.1:{free_port()}"
    scratch = tempfile.mkdtemp(prefix="ow-")  # short: socket paths may not pass 107 bytes
    port = address.rpartition(":")[2]
    try:
        with (
            node("--head", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={scratch}"),
            node(f"--address={address}", "--node-ip-address=127.0.0.1") as second,
        ):
            wait(lambda: len(list(Path(scratch).glob("session_*/sockets/raylet*"))) == 2, 60)
            run = subprocess.Popen(
                [sys.executable, "-m", "pipeline", "run", str(config)],
                cwd=REPOSITORY,
                env={**ENVIRONMENT, "RAY_ADDRESS": address},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            done = output / "work/fetch/done"
            wait(lambda: any(done.glob("*.json")) or run.poll() is not None, 120)
            assert run.poll() is None
            kill(second)
            printed, _ = run.communicate(timeout=180)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert run.returncode == 0, printed
    assert published_hashes(output) == published_hashes(finished)
