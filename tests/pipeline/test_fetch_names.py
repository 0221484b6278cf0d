"""Look-ups of host names: once a name and machine, failures too, and the address guard sees what comes of them."""

from __future__ import annotations

import builtins
import dataclasses
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError
from pipeline.errors import NetworkError
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import Fetched, fetch
from pipeline.stages.fetch.name_cache import NameCache, machine_directory
from pipeline.stages.fetch.names import LookUps, check_resolvers
from pipeline.stages.fetch.outage import ENOUGH
from pipeline.stages.fetch.shared_hosts import RunWide
from pipeline.steps.fetch.facts import settings_of
from tests.conftest import REPOSITORY
from tests.pipeline.loopback_server import LoopbackServer, redirect, text

CONFIG = FetchConfig(
    user_agent="test/1 (+http://test.example)", allow_addresses=("127.0.0.0/8",), retries=0, timeout_s=5
)


def fetch_all(urls: list[str], config: FetchConfig, run: RunWide | None = None) -> list[Fetched]:
    return sorted(fetch(urls, config, run=run), key=lambda fetched: fetched.index)


# --- the system's resolver -----------------------------------------------------------------------


class System:
    """getaddrinfo of the test's own."""

    def __init__(self, names: Mapping[str, str], wait_s: float = 0.0) -> None:
        self.names, self.wait_s = names, wait_s
        self.asked: Counter[str] = Counter()

    def __call__(self, host: str, port: object, **options: object) -> list[Any]:
        self.asked[host] += 1
        time.sleep(self.wait_s)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        addresses = self.names[host].split()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in addresses for _ in range(2)]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    found = System({"a.example": "127.0.0.1", "b.example": "127.0.0.1", "far.example": "10.0.0.1"})
    monkeypatch.setattr(socket, "getaddrinfo", found)
    return found


def test_a_name_is_looked_up_once_and_one_that_does_not_exist_too(system: System) -> None:
    with LoopbackServer({"/x": text(b"x")}) as server:
        urls = [server.url("/x", host=host) for host in ("a.example", "b.example", "gone.example") for _ in range(5)]
        run = RunWide()
        got = fetch_all(urls, CONFIG, run)
    assert [fetched.reason for fetched in got] == [None] * 10 + ["dns"] * 5
    assert system.asked == {"a.example": 1, "b.example": 1, "gone.example": 1}
    assert run.look_ups == LookUps(asked=3, failed=1, shared=0)


def test_the_guard_sees_the_address_that_a_name_has(system: System) -> None:
    with LoopbackServer({"/x": text(b"x"), "/to": redirect("http://far.example/")}) as server:
        urls = ["http://far.example/x", server.url("/x", host="a.example"), server.url("/to", host="a.example")]
        got = fetch_all(urls, CONFIG)
        refused = fetch_all([urls[1]], dataclasses.replace(CONFIG, allow_addresses=()))
    assert [fetched.reason for fetched in got] == ["address_not_allowed", None, "address_not_allowed"]
    assert [fetched.detail for fetched in refused] == [f"would connect to 127.0.0.1 port {server.port}"]


def test_the_next_address_of_a_name_is_tried_where_the_first_is_not_allowed(system: System) -> None:
    system.names = {"a.example": "10.0.0.1 127.0.0.1"}
    with LoopbackServer({"/x": text(b"x")}) as server:
        (fetched,) = fetch_all([server.url("/x", host="a.example")], CONFIG)
    assert fetched.body == b"x"


def test_names_that_the_config_gives_are_not_looked_up(system: System) -> None:
    with LoopbackServer({"/x": text(b"x")}) as server:
        config = dataclasses.replace(CONFIG, resolve=(f"given.example:{server.port}:127.0.0.1",))
        got = fetch_all([server.url("/x", host=host) for host in ("given.example", "a.localhost", "127.0.0.1")], config)
        config = dataclasses.replace(CONFIG, resolve=(f"*:{server.port}:127.0.0.1",))
        got += fetch_all([server.url("/x", host="whatever.example")], config)
    assert [fetched.body for fetched in got] == [b"x"] * 4
    assert not system.asked


def test_a_resolver_that_takes_too_long_is_not_waited_for(system: System) -> None:
    system.wait_s = 2.0
    config = dataclasses.replace(CONFIG, connect_timeout_s=0.3)
    began_s = time.monotonic()
    (fetched,) = fetch_all(["http://a.example/x"], config)
    assert (fetched.reason, fetched.detail) == ("dns", "timed out")
    assert time.monotonic() - began_s < 1.9


def test_look_ups_that_wait_leave_room_to_no_more_than_is_asked_for_at_once(system: System) -> None:
    system.wait_s = 0.05
    system.names = {f"{i}.example": "127.0.0.1" for i in range(30)}
    with LoopbackServer({"/x": text(b"x")}) as server:
        urls = [server.url("/x", host=f"{i}.example") for i in range(30)]
        got = fetch_all(urls, dataclasses.replace(CONFIG, concurrency=4))
    assert all(fetched.body == b"x" for fetched in got)
    assert server.max_at_once <= 4


# --- what tasks of one machine tell each other ---------------------------------------------------


def test_what_one_task_looked_up_another_does_not(system: System, tmp_path: Path) -> None:
    directory = tmp_path / "names"
    with LoopbackServer({"/x": text(b"x")}) as server:
        urls = [server.url("/x", host=host) for host in ("a.example", "gone.example")]
        first, second = RunWide(names=directory), RunWide(names=directory)
        got = fetch_all(urls, CONFIG, first), fetch_all(urls, CONFIG, second)
    assert [fetched.reason for fetched in got[0]] == [fetched.reason for fetched in got[1]] == [None, "dns"]
    assert system.asked == {"a.example": 1, "gone.example": 1}
    assert (first.look_ups, second.look_ups) == (LookUps(asked=2, failed=1), LookUps(shared=2))


def test_what_is_remembered_lapses_and_is_of_its_resolvers(tmp_path: Path) -> None:
    cache, other = NameCache(tmp_path / "names"), NameCache(tmp_path / "names", ["192.0.2.1"])
    cache.put("a.example", ("192.0.2.7", "2001:db8::7"), 100.0)
    cache.put("gone.example", (), 100.0)
    cache.put("old.example", ("192.0.2.7",), 0.0)
    found = cache.get("a.example")
    assert found is not None
    assert found[0] == ("192.0.2.7", "2001:db8::7")
    assert 99 < found[1] <= 100
    assert (cache.get("gone.example") or ("?",))[0] == ()
    assert cache.get("old.example") is None
    assert cache.get("b.example") is None
    assert other.get("a.example") is None


def test_a_file_that_is_damaged_or_of_somebody_else_is_as_good_as_none(tmp_path: Path) -> None:
    directory = tmp_path / "names"
    cache = NameCache(directory)
    cache.put("a.example", ("192.0.2.7",), 100.0)
    cache.close()
    for path in directory.iterdir():
        path.write_bytes(b"this is no database, and it is longer than the head of one" * 30)
    cache = NameCache(directory)
    cache.put("a.example", ("192.0.2.7",), 100.0)
    assert cache.get("a.example") is None
    again = NameCache(directory)  # made anew
    again.put("a.example", ("192.0.2.8",), 100.0)
    assert (again.get("a.example") or ())[0] == ("192.0.2.8",)
    directory.chmod(0o777)
    open_to_all = NameCache(directory)
    assert open_to_all.get("a.example") is None
    assert NameCache(tmp_path / "no" / "such").get("a.example") is None


def test_the_machines_file_is_in_the_temporary_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert machine_directory().parent == tmp_path


WRITE_FOR_EVER = """
import sys, itertools
from pathlib import Path
from pipeline.stages.fetch.name_cache import NameCache
cache = NameCache(Path(sys.argv[1]))
for i in itertools.count():
    cache.put(f"{i}.example", ("192.0.2.7",), 100.0)
"""


def test_a_task_that_is_killed_as_it_writes_leaves_a_file_that_others_read(tmp_path: Path) -> None:
    directory = tmp_path / "names"
    process = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(directory)], cwd=REPOSITORY)
    try:
        while not (directory / "names.sqlite").exists() or NameCache(directory).get("50.example") is None:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    cache = NameCache(directory)
    assert cache.get("50.example") is not None
    cache.put("mine.example", (), 100.0)
    assert cache.get("mine.example") is not None


# --- resolvers of the config ---------------------------------------------------------------------


@contextmanager
def name_server(names: Mapping[str, str]) -> Iterator[tuple[str, Counter[str]]]:
    """Answers over UDP on loopback: an A record, or that there is none. Gives its address and what it was asked."""
    asked: Counter[str] = Counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)

        def serve() -> None:
            while True:
                try:
                    question, whom = listener.recvfrom(4096)
                except OSError:
                    return
                if question == b"end":
                    return
                listener.sendto(_answer(question, names, asked), whom)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        yield f"127.0.0.1:{port}", asked
        listener.sendto(b"end", ("127.0.0.1", port))
        thread.join(10)


def _answer(question: bytes, names: Mapping[str, str], asked: Counter[str]) -> bytes:
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    (kind,) = struct.unpack(">H", question[at + 1 : at + 3])
    name = ".".join(labels).lower()
    asked[name] += kind == 1
    address = names.get(name)
    answers = [] if address is None or kind != 1 else [b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)]
    code = 3 if address is None else 0
    head = question[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(answers), 0, 0)
    return head + question[12 : at + 5] + b"".join(answers)


def test_resolvers_of_the_config_are_asked(system: System) -> None:
    pytest.importorskip("pycares", reason="needs the extra dns")
    with LoopbackServer({"/x": text(b"x")}) as server, name_server({"c.example": "127.0.0.1"}) as (address, asked):
        config = dataclasses.replace(CONFIG, resolvers=(address,))
        urls = [server.url("/x", host=host) for host in ("c.example", "gone.example", "c.example")]
        run = RunWide()
        got = fetch_all(urls, config, run)
    assert [fetched.reason for fetched in got] == [None, "dns", None]
    assert asked == {"c.example": 1, "gone.example": 1}
    assert run.look_ups == LookUps(asked=2, failed=1)
    assert not system.asked


def test_a_resolver_that_does_not_answer_is_a_failure_of_the_name() -> None:
    pytest.importorskip("pycares", reason="needs the extra dns")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        config = dataclasses.replace(CONFIG, resolvers=(f"127.0.0.1:{silent.getsockname()[1]}",), connect_timeout_s=0.4)
        (fetched,) = fetch_all(["http://c.example/x"], config)
    assert fetched.reason == "dns"  # what c-ares says of it, and when, differs from time to time


@pytest.mark.parametrize("answers", [True, False])
def test_resolvers_that_do_not_answer_are_told_from_names_that_are_gone(answers: bool) -> None:
    pytest.importorskip("pycares", reason="needs the extra dns")
    urls = [f"http://{i}.example/x" for i in range(ENOUGH)]
    with name_server({}) as (address, _), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silence = f"127.0.0.1:{silent.getsockname()[1]}"
        config = dataclasses.replace(CONFIG, resolvers=(address if answers else silence,), connect_timeout_s=0.4)
        if answers:
            assert {fetched.reason for fetched in fetch_all(urls, config)} == {"dns"}
            return
        with pytest.raises(NetworkError, match=r"got no answer from the resolver .* fetch.resolvers"):
            fetch_all(urls, config)


def test_where_nobody_serves_names_every_one_fails_soon() -> None:
    pytest.importorskip("pycares", reason="needs the extra dns")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    config = dataclasses.replace(CONFIG, resolvers=(f"127.0.0.1:{port}",))
    got = fetch_all([f"http://{i}.example/x" for i in range(40)], config)
    assert [fetched.reason for fetched in got] == ["dns"] * 40


def test_without_c_ares_resolvers_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pycares":
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    check_resolvers(CONFIG)
    with pytest.raises(ConfigError, match=r"fetch.resolvers: libcurl/\S+ comes without c-ares.*openwit\[dns\]"):
        check_resolvers(dataclasses.replace(CONFIG, resolvers=("192.0.2.1",)))


@pytest.mark.parametrize("entry", ["192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:53"])
def test_resolvers_are_addresses(entry: str) -> None:
    assert dataclasses.replace(CONFIG, resolvers=(entry,)).resolvers == (entry,)


@pytest.mark.parametrize("entry", ["", "dns.example", "192.0.2.1:0", "192.0.2.1:x", "[2001:db8::1]", "192.0.2.1:70000"])
def test_what_is_no_resolver_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match="resolvers entry"):
        dataclasses.replace(CONFIG, resolvers=(entry,))


def test_manners_and_resolvers_are_no_part_of_what_facts_hold_for() -> None:
    others = dataclasses.replace(
        CONFIG,
        resolvers=("192.0.2.1",),
        heavy_host_urls=7,
        heavy_host_concurrency=1,
        heavy_host_rate=0.5,
        max_crawl_delay_s=0.0,
    )
    assert settings_of(others, ImageConfig()) == settings_of(CONFIG, ImageConfig())
