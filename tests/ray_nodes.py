"""Nodes of a Ray cluster on this machine, for tests that lose one."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.ports import free_port

ALONE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /tmp && exec "$@"', "sh")
TOKEN = secrets.token_hex(32)
# Other tests start a Ray with a token in this process; that one is theirs.
WITHOUT_TOKEN = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
    "RAY_USAGE_STATS_ENABLED": "0"
}
ENVIRONMENT = WITHOUT_TOKEN | {"RAY_AUTH_TOKEN": TOKEN}
"""Of a run on the cluster: that it has to use the token it finds, the run sees for itself."""


@dataclass(frozen=True)
class Cluster:
    """A cluster, of its head node to begin with."""

    address: str
    scratch: Path
    head: subprocess.Popen[bytes]

    def size(self) -> int:
        """How many nodes are up, or were."""
        return len(list(self.scratch.glob("session_2*/sockets/raylet*")))

    @contextlib.contextmanager
    def node(self, *, cpus: int = 1, alone: bool = False) -> Iterator[subprocess.Popen[bytes]]:
        """Another node; `alone` it has a /tmp of its own, and sees nothing of the other's."""
        with _node(f"--address={self.address}", cpus=cpus, before=ALONE if alone else ()) as process:
            yield process


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A head node of one CPU, on ports and in a directory of its own."""
    port, client_port = free_port(), free_port()
    scratch = tempfile.mkdtemp(prefix="owt-")  # short: socket paths may not pass 107 bytes
    head = ("--head", f"--port={port}", f"--ray-client-server-port={client_port}", "--include-dashboard=false")
    try:
        with _node(*head, f"--temp-dir={scratch}") as process:
            _wait_for(port)
            yield Cluster(f"127.0.0.1:{port}", Path(scratch), process)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _wait_for(port: int) -> None:
    """Until somebody listens there: who comes before is told that nobody does."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.1)
    raise TimeoutError(f"the head does not listen at {port}")


def runs_tasks(node: subprocess.Popen[bytes]) -> bool:
    """Whether a worker of the node is at a task of the pipeline."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_bytes().startswith(b"ray::run_parcel") and os.getsid(
                int(entry.name)
            ) == node.pid:
                return True
    return False


def kill(process: subprocess.Popen[Any]) -> None:
    """End a process that leads its session, and all that it started, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def _node(*arguments: str, cpus: int = 1, before: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    ray = f"{Path(sys.executable).parent}/ray"
    command = [*before, ray, "start", "--block", f"--num-cpus={cpus}", "--disable-usage-stats"]
    process = subprocess.Popen(
        [*command, "--object-store-memory=80000000", "--node-ip-address=127.0.0.1", *arguments],
        env=ENVIRONMENT | {"RAY_AUTH_MODE": "token"},  # a head finds that out alone, other nodes do not
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill(process)
