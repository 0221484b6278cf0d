"""Starting, reaching and losing a Ray: one line within 30 s, whatever happens, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from configs.load import ConfigError
from pipeline.engine import EngineConfig, start_ray
from pipeline.engine.on_ray import RayEngine
from pipeline.errors import EngineError
from pipeline.storage.scratch import scratch_directory, sweep_scratch
from pipeline.terminal.progress import Progress
from tests.conftest import REPOSITORY
from tests.pipeline import ray_driver
from tests.ports import free_port
from tests.ray_nodes import ENVIRONMENT, TOKEN, WITHOUT_TOKEN, Cluster, cluster, kill

LIMIT_S = 30.0


def driver(
    directory: Path, environment: Mapping[str, str], seconds: float = 0.0, *more: float
) -> subprocess.Popen[str]:
    """Starts two tasks in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", ray_driver.__name__, str(directory), str(seconds), *map(str, more)],
        cwd=REPOSITORY, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def daemon_of(process: subprocess.Popen[str], name: str) -> int:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = path.read_text().rpartition(")")
        except OSError:
            continue
        if before.partition("(")[2] == name and int(after.split()[1]) == process.pid:
            return int(path.parent.name)
    raise AssertionError(f"no {name}")


# --- a cluster that nobody serves ----------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[int]:
    """A port of loopback that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        port: int = listener.getsockname()[1]
        yield port


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_address_that_nobody_serves_is_one_line(scheme: str) -> None:
    engine = RayEngine(EngineConfig(address=f"{scheme}127.0.0.1:{free_port()}"), Progress())
    with pytest.raises(EngineError, match=r"cluster at .*127.0.0.1:\d+: nobody answers there \(Connection refused\)"):
        engine._start("pipeline")
    engine.close()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_address_that_never_answers_is_one_line(scheme: str, silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_ray._CONNECT_S + start_ray._PROBE_S <= LIMIT_S
    monkeypatch.setattr(start_ray, "_PROBE_S", 3.0)
    engine = RayEngine(EngineConfig(address=f"{scheme}127.0.0.1:{silent}"), Progress())
    with pytest.raises(EngineError, match=r"has not answered as a Ray for 3 s; check engine.address and RAY_ADDRESS"):
        engine._start("pipeline")
    engine.close()


def test_ray_that_times_out_at_its_start_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray

    def times_out(**options: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...\nmore")

    monkeypatch.setattr(ray, "init", times_out)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(start_ray, "_read_environment", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = dict(os.environ)
    engine = RayEngine(EngineConfig(), Progress())
    with pytest.raises(EngineError, match=r"cannot start or reach a local Ray: The current node timed out") as caught:
        engine._start("pipeline")
    assert "\n" not in str(caught.value)
    engine.close()
    assert dict(os.environ) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_cpus": 0}, "num_cpus must be at least 1"),
        ({"object_store_mb": 74}, "object_store_mb must be at least 75"),
        ({"max_retries": -1}, "max_retries must not be negative"),
    ],
)
def test_mistakes_in_the_engines_options_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig(**options)  # type: ignore[arg-type]  # all of them are numbers


# --- tokens --------------------------------------------------------------------------------------


def test_token_is_found_where_rays_own_tools_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    on = {"RAY_AUTH_MODE": "token"}
    assert start_ray._token_mode("it") == {}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("x" * 32)
    assert start_ray._token_mode("it") == on
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert start_ray._token_mode("it") == {}
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    with pytest.raises(EngineError, match=r"RAY_AUTH_TOKEN_PATH names .*absent, which holds no token"):
        start_ray._token_mode("it")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * 32)
    assert start_ray._token_mode("it") == on
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    (tmp_path / ".ray/auth_token").write_text("\n")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(EngineError, match=r"RAY_AUTH_MODE is token, but there is no token; put .*auth_token"):
        start_ray._token_mode("it")


@pytest.fixture(scope="module")
def guarded() -> Iterator[Cluster]:
    """A cluster that asks for TOKEN."""
    with cluster() as head:
        deadline = time.monotonic() + 60
        while not head.size():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield head


@pytest.mark.slow
@pytest.mark.parametrize("place", ["variable", "named file", "home"])
def test_run_brings_the_token_of_the_users_environment(guarded: Cluster, tmp_path: Path, place: str) -> None:
    (tmp_path / ".ray").mkdir()
    file = tmp_path / ("token" if place == "named file" else ".ray/auth_token")
    given = {"RAY_AUTH_TOKEN": TOKEN} if place == "variable" else {"HOME": str(tmp_path)}
    if place != "variable":
        file.write_text(TOKEN)
    if place == "named file":
        given = {"RAY_AUTH_TOKEN_PATH": str(file)}
    process = driver(tmp_path, WITHOUT_TOKEN | {"RAY_ADDRESS": guarded.address} | given)
    assert process.communicate(timeout=120)[0] == "ok\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, "a run without a token"),
        ({"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "disabled"}, r"a run without a token (RAY_AUTH_MODE is disabled)"),
        ({"RAY_AUTH_TOKEN": TOKEN[::-1]}, "the token in RAY_AUTH_TOKEN"),
    ],
)
def test_refused_run_says_in_one_line_what_is_missing(
    guarded: Cluster, tmp_path: Path, given: dict[str, str], sent: str
) -> None:
    began = time.monotonic()
    process = driver(tmp_path, WITHOUT_TOKEN | {"RAY_ADDRESS": guarded.address} | given)
    output = process.communicate(timeout=120)[0]
    assert output.startswith(f"error: the cluster at {guarded.address} refuses {sent}: it needs the cluster's own")
    assert output.count("\n") == 1
    assert time.monotonic() - began < LIMIT_S
    assert process.returncode == 2


@pytest.mark.slow
def test_local_ray_needs_nothing_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "home/.ray").mkdir(parents=True)
    (tmp_path / "home/.ray/auth_token").write_text("of another Ray, and much too short")
    foreign = {"HOME": str(tmp_path / "home"), "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "/nowhere"}
    process = driver(tmp_path, WITHOUT_TOKEN | foreign | {"http_proxy": "http://127.0.0.1:1", "RAY_TMPDIR": "/nowhere"})
    assert process.communicate(timeout=120)[0] == "ok\n"
    assert (tmp_path / "home/.ray/auth_token").read_text().startswith("of another Ray")


# --- a Ray that dies in mid-run ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_daemon_that_dies_is_one_line(tmp_path: Path, name: str) -> None:
    process = driver(tmp_path, WITHOUT_TOKEN, 300)
    wait_for(tmp_path / "a.begun", process)
    os.kill(daemon_of(process, name), signal.SIGKILL)
    began = time.monotonic()
    output = process.communicate(timeout=120)[0]
    assert time.monotonic() - began < LIMIT_S, output
    # Before it may stand what Ray itself prints of its raylet's end, which no option of Ray's silences.
    last = output.splitlines()[-1]
    assert last == f"error: Ray: its process {name} died (killed, or out of memory); run again to go on from here"
    assert "Traceback" not in output
    assert process.returncode == 2


@pytest.mark.slow
def test_cluster_whose_head_dies_is_one_line(tmp_path: Path) -> None:
    with cluster() as head:
        wait_until = time.monotonic() + 60
        while not head.size() and time.monotonic() < wait_until:
            time.sleep(0.1)
        process = driver(tmp_path, ENVIRONMENT | {"RAY_ADDRESS": head.address}, 300)
        wait_for(tmp_path / "a.begun", process)
        kill(head.head)
        began = time.monotonic()
        output = process.communicate(timeout=120)[0]
        assert time.monotonic() - began < LIMIT_S, output
    assert re.search(r"^error: .*run again to go on from here$", output, re.MULTILINE)
    assert "Traceback" not in output
    assert process.returncode == 2


@pytest.mark.slow
def test_task_too_large_for_every_node_is_one_line(guarded: Cluster, tmp_path: Path) -> None:
    process = driver(tmp_path, ENVIRONMENT | {"RAY_ADDRESS": guarded.address}, 0, 2, 1)
    output = process.communicate(timeout=120)[0]
    assert re.match(
        r"error: no node of the cluster has 2 CPUs and \d+ MB .* \(the largest of 1: 1 and .*\); add", output
    )
    assert output.count("\n") == 1
    assert process.returncode == 2


@pytest.mark.slow
def test_tasks_wait_for_a_node_that_is_large_enough(guarded: Cluster, tmp_path: Path) -> None:
    process = driver(tmp_path, ENVIRONMENT | {"RAY_ADDRESS": guarded.address}, 0, 2, 100)
    time.sleep(10)
    assert process.poll() is None
    with guarded.node(cpus=2):
        assert process.communicate(timeout=120)[0] == "ok\n"


# --- what is left behind -------------------------------------------------------------------------


def test_scratch_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    with scratch_directory("ow-", tmp_path) as inside:
        inside.chmod(0o777)  # as Ray does
        (private,) = tmp_path.iterdir()
        assert inside.parent == private
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        sweep_scratch("ow-", tmp_path)
        assert inside.is_dir()
    assert not list(tmp_path.iterdir())


def test_sockets_lie_where_their_names_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest that Ray makes, on the system that allows least."""
    socket_of_ray = "/ow-xxxxxxxx/r/session_2026-11-29_08-43-58_049603_1234567/sockets/plasma_store"
    for length in (25, 26, 60):
        place = "/" + "d" * (length - 1)
        monkeypatch.setattr("tempfile.tempdir", place)
        found = start_ray._place_of_sockets()
        assert found == (None if length <= 25 else Path("/tmp"))
        assert len(f"{found or place}{socket_of_ray}") <= 103


def test_sweep_takes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from pipeline.storage.scratch import scratch_directory\n"
        "with scratch_directory('ow-', Path(sys.argv[1])): print('up', flush=True); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=False)
    (left,) = tmp_path.iterdir()
    record = (left / "owner.json").read_text()
    (tmp_path / "ow-young").mkdir()
    for name, content in {
        "ow-damaged": "{",
        "ow-odd": "[]",
        "ow-elsewhere": record.replace(os.uname().nodename, "another-node"),
        "ow-container": re.sub(r'"among": "[^"]*"', '"among": "pid:[1]"', record),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "owner.json").write_text(content)
    reused = re.sub(r'"process": \d+', f'"process": {os.getpid()}', record)  # the number is another's by now
    (tmp_path / "ow-reused").mkdir()
    (tmp_path / "ow-reused" / "owner.json").write_text(reused)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "owner.json").write_text(record)
    (tmp_path / "ow-link").symlink_to(outside)
    with scratch_directory("ow-", tmp_path) as live:
        mine = live.parent.name
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            ["ow-container", "ow-damaged", "ow-elsewhere", "ow-link", "ow-odd", "ow-young", "outside", mine]
        )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_sweep_leaves_what_a_daemon_of_a_dead_process_still_uses(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys; from pathlib import Path; from pipeline.storage.scratch import scratch_directory\n"
        "with scratch_directory('ow-', Path(sys.argv[1])) as inside:\n"
        "    daemon = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()', f'--dir={inside}/s'])\n"
        "    os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    driver = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE)
    driver.wait()
    (left,) = tmp_path.iterdir()
    sweep_scratch("ow-", tmp_path)
    assert (left / "owner.json").is_file()
    assert driver.stdin is not None
    driver.stdin.close()  # the daemon ends
    until = time.monotonic() + LIMIT_S
    while left.exists() and time.monotonic() < until:
        sweep_scratch("ow-", tmp_path)
        time.sleep(0.05)
    assert not left.exists()


@pytest.mark.slow
def test_killed_run_leaves_a_private_directory_that_the_next_run_sweeps(tmp_path: Path) -> None:
    scratch = Path("/tmp") / f"owt{os.getpid()}"  # short: socket paths may not pass 107 bytes
    scratch.mkdir()
    try:
        process = driver(tmp_path, WITHOUT_TOKEN | {"TMPDIR": str(scratch)}, 300)
        wait_for(tmp_path / "a.begun", process)
        (left,) = scratch.glob("ow-*")
        assert stat.S_IMODE(left.stat().st_mode) == 0o700
        kill(process)
        assert process.stdout is not None
        process.stdout.close()
        assert left.is_dir()
        until = time.monotonic() + LIMIT_S
        while left.exists() and time.monotonic() < until:  # Ray's daemons take a moment to end
            sweep_scratch("ow-", scratch)
            time.sleep(0.1)
        assert not left.exists()
        time.sleep(1)
        assert not left.exists(), "made again by a daemon"
    finally:
        subprocess.run(["rm", "-rf", str(scratch)], check=True)


def test_environment_is_as_it_was_after_a_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "k8s")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    before = dict(os.environ)
    with start_ray._environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}):
        assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]) == ("token", "x")
    assert dict(os.environ) == before
