"""A run on Ray over one heavy host: the whole run keeps to its limit, also when workers or the limiter are killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.stages.fetch.limiter import LATE_S
from tests.conftest import REPOSITORY
from tests.pipeline.loopback_server import LoopbackServer, answer
from tests.pipeline.small_run import SmallRun, picture
from tests.ray_nodes import ENVIRONMENT, WITHOUT_TOKEN, cluster

PLACES, RATE = 2, 12.0
PATHS = [f"/{i}.jpg" for i in range(96)]


def server_of_pictures() -> LoopbackServer:
    return LoopbackServer({path: answer(200, picture(i), delay_s=0.1) for i, path in enumerate(PATHS)})


def small_run(root: Path, server: LoopbackServer, **engine: object) -> SmallRun:
    """Of six staging shards; on Ray, with a limit for its one host."""
    small = SmallRun.make(root, server, PATHS)
    config = yaml.safe_load(small.config.read_text())
    polite = {"heavy_host_urls": 50, "heavy_host_concurrency": PLACES, "heavy_host_rate": RATE, "timeout_s": 2.0}
    config["fetch"] |= polite
    config |= {"engine": engine or {"num_cpus": 2}, "shards": {"samples_per_shard": 16}}
    small.config.write_text(yaml.safe_dump(config))
    return small


def start(small: SmallRun, environment: Mapping[str, str] = WITHOUT_TOKEN) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", str(small.config)],
        cwd=REPOSITORY, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def most_within(times: list[float], seconds: float) -> int:
    return max(sum(1 for each in times if at_s - seconds < each <= at_s) for at_s in times)


def kill_one(name: bytes, session: int | None = None) -> bool:
    """SIGKILL to a process of Ray with such a title, and of this session."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            process = int(entry.name)
            if (entry / "cmdline").read_bytes().startswith(name) and session in (None, os.getsid(process)):
                os.kill(process, signal.SIGKILL)
                return True
    return False


def after(server: LoopbackServer, requests: int, process: subprocess.Popen[str], do: Callable[[], bool]) -> None:
    """`do` once so many requests were made, until it has done something."""
    while len(server.requests) < requests or not do():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def check_limits(server: LoopbackServer, *, most_open: int = PLACES) -> None:
    times = sorted(request.at_s for request in server.requests)
    assert server.max_at_once <= PLACES
    assert server.max_open <= most_open
    assert most_within(times, 1.0) <= RATE * (1 + LATE_S) + 1
    assert most_within(times, 5.0) <= RATE * (5 + LATE_S) + 1


def published_without_limit(small: SmallRun, server: LoopbackServer) -> Mapping[str, str]:
    """What the same config publishes from the beginning on, on the inline engine, to which no host is heavy."""
    shutil.rmtree(small.output)
    config = yaml.safe_load(small.config.read_text())
    config["fetch"] |= {"heavy_host_urls": 0}
    small.config.write_text(yaml.safe_dump(config | {"engine": {"kind": "inline"}}))
    assert small.run() == 0
    assert not (small.output / "work/heavy_hosts").exists()
    assert server.max_at_once > PLACES
    return small.published()


@pytest.mark.slow
def test_a_run_keeps_to_the_limit_of_a_heavy_host_and_publishes_the_same(tmp_path: Path) -> None:
    with server_of_pictures() as server:
        small = small_run(tmp_path, server)
        process = start(small)
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        check_limits(server)
        assert len(server.requests) == len(PATHS)
        heavy = pq.read_table(small.output / "work/heavy_hosts/all.heavy.parquet").to_pylist()
        assert heavy == [{"host": "a.localhost", "urls": len(PATHS)}]
        assert small.published() == published_without_limit(small, server)


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_run_leave_the_limit_as_it_was(tmp_path: Path) -> None:
    with server_of_pictures() as server:
        small = small_run(tmp_path, server)
        process = start(small)
        after(server, 10, process, lambda: kill_one(b"ray::run_parcel", process.pid))
        after(server, 40, process, lambda: True)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        check_limits(server)
        process = start(small)
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        check_limits(server)
        assert small.published() == published_without_limit(small, server)


@pytest.mark.slow
def test_a_limiter_that_is_killed_ends_no_run_and_exceeds_no_limit(tmp_path: Path) -> None:
    with cluster() as nodes, nodes.node(), server_of_pictures() as server:
        small = small_run(tmp_path, server, address=nodes.address)
        process = start(small, ENVIRONMENT)
        after(server, 20, process, lambda: kill_one(b"ray::_Standing"))
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        check_limits(server, most_open=2 * PLACES)  # those that idled when it died closed with no turn
        assert len(server.requests) == len(PATHS)
        assert small.published() == published_without_limit(small, server)
