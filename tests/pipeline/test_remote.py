from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.web.remote import _Answer, open_download
from tests.pipeline.loopback_server import LoopbackServer, Request, answer, in_turn, raw, redirect

BODY = os.urandom(3 << 20)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    monkeypatch.setattr("pipeline.web.remote._answered", set())
    monkeypatch.setattr("pipeline.web.remote._silent", {})
    waited: list[float] = []
    monkeypatch.setattr("pipeline.web.remote.time.sleep", waited.append)
    return waited


def broken_after(count: int, headers: str = 'ETag: "one"\r\n') -> Any:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n{headers}\r\n".encode()
    return raw(head + BODY[:count])


async def the_rest(request: Request, writer: asyncio.StreamWriter) -> None:
    begin = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
    rest = BODY[begin:]
    span = f"Content-Range: bytes {begin}-{len(BODY) - 1}/{len(BODY)}"
    writer.write(f"HTTP/1.1 206 Partial\r\nContent-Length: {len(rest)}\r\n{span}\r\n\r\n".encode() + rest)


def read(server: LoopbackServer, path: str = "/a") -> bytes:
    with open_download(server.url(path)) as file:
        return file.read()


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({}) as server:
        yield server


def test_whole_file_is_read_from_its_start(server: LoopbackServer) -> None:
    server.routes = {"/a": redirect("/b"), "/b": answer(200, BODY)}
    assert read(server) == BODY


def test_break_is_mended_by_the_rest(server: LoopbackServer, waits: list[float]) -> None:
    server.routes = {"/a": in_turn(broken_after(2 << 20), the_rest)}
    assert read(server) == BODY
    assert server.requests[1].headers["range"] == f"bytes={2 << 20}-"
    assert server.requests[1].headers["if-range"] == '"one"'
    assert len(waits) == 1


def test_file_that_changed_in_between_is_read_anew(server: LoopbackServer) -> None:
    server.routes = {"/a": in_turn(broken_after(2 << 20), answer(200, b"another", {"ETag": '"two"'}))}
    assert read(server) == b"another"


def test_file_that_became_shorter_is_read_anew(server: LoopbackServer) -> None:
    server.routes = {"/a": in_turn(broken_after(2 << 20, ""), answer(416), answer(200, b"short"))}
    assert read(server) == b"short"


def test_another_range_than_was_asked_for_is_not_taken(server: LoopbackServer) -> None:
    span = {"Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"}
    server.routes = {"/a": in_turn(broken_after(1 << 20), answer(206, BODY, span), answer(200, BODY))}
    assert read(server) == BODY
    assert len(server.requests) == 3


def test_file_is_told_by_its_first_answer(server: LoopbackServer) -> None:
    async def less(request: Request, writer: asyncio.StreamWriter) -> None:
        span = f"Content-Range: bytes {1 << 20}-{len(BODY) - 1}/{len(BODY)}"
        head = f"HTTP/1.1 206 Partial\r\nContent-Length: {len(BODY) - (1 << 20)}\r\n{span}\r\n\r\n"
        writer.write(head.encode() + BODY[1 << 20 : 2 << 20])
        await writer.drain()
        writer.close()

    server.routes = {"/a": in_turn(broken_after(1 << 20), less, the_rest)}
    assert read(server) == BODY
    assert [request.headers.get("if-range") for request in server.requests] == [None, '"one"', '"one"']


def test_headers_of_a_proxy_are_not_the_file_s(server: LoopbackServer) -> None:
    with TemporaryFile() as file:
        file.write(b"begun")
        tunnelled = _Answer(file)
        for line in (
            b"HTTP/1.1 200 Connection established",
            b"",
            b"HTTP/1.1 206 Partial",
            b"Content-Range: bytes 5-9/10",
        ):
            tunnelled._read_header(line + b"\r\n")
        tunnelled._read_header(b"\r\n")
        tunnelled._write(b" file")
        file.seek(0)
        assert file.read() == b"begun file"


def test_server_that_never_gets_to_the_end_is_given_up(server: LoopbackServer) -> None:
    too_long = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY) + 10}\r\n\r\n".encode()

    async def route(request: Request, writer: asyncio.StreamWriter) -> None:
        await (answer(416) if "range" in request.headers else raw(too_long + BODY))(request, writer)

    server.routes = {"/a": route}
    with pytest.raises(InputError, match="run again later"):
        read(server)
    assert len(server.requests) < 20


@pytest.mark.parametrize("header", ["Retry-After: \xb2", 'ETag: "\xe9"'])
def test_odd_bytes_in_headers_do_no_harm(server: LoopbackServer, header: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n{header}\r\n\r\n".encode("latin-1")
    server.routes = {"/a": in_turn(raw(head + BODY[: 1 << 20]), the_rest)}
    assert read(server) == BODY


def test_refused_load_is_waited_out(server: LoopbackServer, waits: list[float]) -> None:
    slow_down = answer(503, b"<Code>SlowDown</Code>")
    server.routes = {"/a": in_turn(slow_down, answer(429, headers={"Retry-After": "7"}), slow_down, answer(200, BODY))}
    assert read(server) == BODY
    assert all(least <= wait <= 1.25 * least for wait, least in zip(waits, (1, 7, 4), strict=True))


def test_lasting_failure_is_given_up(server: LoopbackServer, waits: list[float]) -> None:
    server.routes = {"/a": answer(503)}
    with pytest.raises(InputError, match=r"/a: cannot be fetched \(HTTP 503\); run again later"):
        read(server)
    assert len(server.requests) == 8
    assert max(waits) <= 75


@pytest.mark.parametrize(("status", "told"), [(404, "no such file"), (403, r"HTTP 403\); check the URL")])
def test_what_no_time_heals_is_not_tried_again(server: LoopbackServer, status: int, told: str) -> None:
    server.routes = {"/a": answer(status, b"sorry")}
    with pytest.raises(InputError, match=told):
        read(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["http://", "https://[::1/a"])
def test_mistaken_url_is_told_at_once(url: str, waits: list[float]) -> None:
    with pytest.raises(InputError, match="check the URL"):
        open_download(url)
    assert not waits


def test_nobody_there(waits: list[float]) -> None:
    with pytest.raises(InputError, match="cannot be fetched"):
        open_download("http://127.0.0.1:9/a")
    assert len(waits) == 2, "a stranger is given up soon"
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/b: cannot be fetched \(.*, a moment ago\)"):
        open_download("http://127.0.0.1:9/b")
    assert len(waits) == 2, "and not asked for other files"


def test_server_that_is_gone_for_a_while_is_waited_for(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.web.remote._answered", {"127.0.0.1:9"})
    with pytest.raises(InputError, match="run again later"):
        open_download("http://127.0.0.1:9/a")
    assert len(waits) == 7


def test_server_that_accepts_and_says_nothing_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.web.remote._STRANGER_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        with pytest.raises(InputError, match=r"cannot be fetched \(.*\); run again later"):
            open_download(f"http://127.0.0.1:{mute.getsockname()[1]}/a")
        assert time.monotonic() - began < 20


def test_full_disk_is_told_as_such(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.routes = {"/a": answer(200, BODY)}

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def tell(self) -> int:
            return 0

        def seek(self, offset: int) -> int:
            return 0

        truncate = close = lambda self: None

    monkeypatch.setattr("pipeline.web.remote.tempfile.TemporaryFile", lambda prefix: Full())
    with pytest.raises(OSError, match="No space left"):
        read(server)


def test_nothing_is_left_behind(server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.web.remote.tempfile.tempdir", str(tmp_path))
    server.routes = {"/a": answer(200, BODY)}
    with open_download(server.url("/a")) as file:
        assert not list(tmp_path.iterdir())
        assert len(file.read()) == len(BODY)
