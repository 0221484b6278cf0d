"""The sample web's HTTP server: 127.0.0.1 only, sites told apart by the Host header.

    request -> (site, path, query) -> route of server.json -> manner -> bytes, in time

Faults depend on the URL and on how often it was asked for, never on chance or the clock. One process,
one thread, asyncio; a keep-alive connection costs a few dozen microseconds a request.
"""

from __future__ import annotations

import asyncio
import errno
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from pipeline.errors import ServerError
from pipeline.terminal.printable import say

__all__ = ["serve"]

_MAX_REQUEST_BYTES = 64 * 1024
_SLOW_S = 0.5
_TRICKLE_BYTES, _TRICKLE_S = 8, 0.4  # 20 B/s
_DRIP_BYTES, _DRIP_S = 4096, 0.5  # 8 kB/s: above the low-speed limit, too slow for the total
_DRIP_LENGTH = 1_000_000
_CHUNK_BYTES = 64 * 1024
_ROBOTS = b"User-agent: *\nAllow: /\n"


def serve(path: Path) -> None:
    """Serve the sample web at `path` until standard input ends.

    Prints one line when ready. Raises ServerError where `path` is no sample web or its port is in use.
    """
    try:
        settings = json.loads((path / "sample_web.json").read_bytes())
        table = json.loads((path / "server.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ServerError(
            f"{path}: no sample web here ({error}); build it with `python -m pipeline.sample_web build`"
        ) from error
    asyncio.run(_serve(path, int(settings["port"]), table))


async def _serve(path: Path, port: int, table: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    site = _Sites(path, table)
    try:
        server = await loop.create_server(lambda: _Connection(site, loop), "127.0.0.1", port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ServerError(f"127.0.0.1:{port}: cannot listen ({error.strerror})") from error
        raise ServerError(
            f"127.0.0.1:{port}: the port is in use, perhaps by another server of the sample web; end that "
            f"process, or build the sample web for another port with `--port`"
        ) from error
    over = asyncio.Event()

    def wait_for_end_of_input() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        loop.call_soon_threadsafe(over.set)

    threading.Thread(target=wait_for_end_of_input, daemon=True).start()
    say(f"serving the sample web at {path} on 127.0.0.1:{port}", flush=True)
    await over.wait()
    server.close()


class _Sites:
    """The routes, the bodies read so far, and how often each troubled URL was asked for."""

    def __init__(self, path: Path, table: dict[str, Any]) -> None:
        self._path = path
        self._routes: dict[str, dict[str, Any]] = table["routes"]
        self._bodies: dict[str, bytes] = {}
        self._attempts: Counter[str] = Counter()

    def find(self, host: str, target: str) -> tuple[str, dict[str, Any]]:
        """Key and route of a request; an unknown URL answers 404."""
        site = host.partition(":")[0].lower().removesuffix(".localhost")
        raw_path, _, query = target.partition("?")
        path = unquote(raw_path).replace("/./", "/")
        if path == "/robots.txt":
            return path, {"data": _ROBOTS, "type": "text/plain"}
        for key in (f"{site}{path}?{query}", f"{site}{path}"):
            route = self._routes.get(key)
            if route is not None:
                return key, route
        return "", {"data": b"<p>not found</p>\n", "type": "text/html", "status": 404}

    def body(self, route: dict[str, Any]) -> bytes:
        """The route's bytes, kept in memory: a whole sample web is some 30 MB."""
        if "data" in route:
            return cast(bytes, route["data"])
        name = route.get("file")
        if name is None:
            return b""
        if name not in self._bodies:
            self._bodies[name] = (self._path / name).read_bytes()
        return self._bodies[name]

    def attempt(self, key: str) -> int:
        """How often this URL was asked for, this time included."""
        self._attempts[key] += 1
        return self._attempts[key]


class _Connection(asyncio.Protocol):
    """One client. Requests are answered one after the other."""

    def __init__(self, sites: _Sites, loop: asyncio.AbstractEventLoop) -> None:
        self._sites = sites
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answering = False
        self._timer: asyncio.TimerHandle | None = None
        self._resume: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._resume = None
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write: `_pour` stops by itself."""

    def resume_writing(self) -> None:
        if self._resume is not None:
            resume, self._resume = self._resume, None
            resume()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > _MAX_REQUEST_BYTES:
            self._close()
        elif not self._answering:
            self._next_request()

    def _next_request(self) -> None:
        self._answering = False
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        self._received = rest
        self._answering = True
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        if len(words) != 3 or words[0] not in ("GET", "HEAD"):
            self._write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._close()
            return
        target = words[1]
        host = headers.get("host", "")
        if target.startswith("http://"):  # a client that takes us for its proxy
            host, slash, target = target[7:].partition("/")
            target = slash + target
        # Bytes that were not percent-encoded arrive as Latin-1; browsers send UTF-8.
        target = target.encode("latin-1").decode("utf-8", "replace")
        key, route = self._sites.find(host, target)
        self._answer(words[0], key, route, close=headers.get("connection", "").lower() == "close")

    # --- manners --------------------------------------------------------------------------------

    def _answer(self, method: str, key: str, route: dict[str, Any], *, close: bool) -> None:
        body = self._sites.body(route)
        manner = route.get("manner", "send")
        status = int(route.get("status", 200))
        if method == "HEAD":
            self._write(_head(route, status, len(body)))
            self._finish(close)
            return
        if manner == "recover":
            if self._sites.attempt(key) == 1:
                self._write(_head(route, status, 0, kind="text/plain"))
            else:
                self._write(_head({**route, "headers": []}, 200, len(body)) + body)
            self._finish(close)
        elif manner == "slow":
            self._write(_head(route, status, len(body)) + body[: len(body) // 2])
            self._later(_SLOW_S, lambda: self._end(body[len(body) // 2 :], close))
        elif manner == "trickle":
            self._write(_head(route, status, len(body)))
            self._repeat(_TRICKLE_S, _pieces(body, _TRICKLE_BYTES))
        elif manner == "stall":
            self._write(_head(route, status, len(body)) + body[:64])  # and no more until the client goes
        elif manner == "drip":
            self._write(_head(route, status, _DRIP_LENGTH))
            self._repeat(_DRIP_S, _pieces(body + bytes(_DRIP_LENGTH - len(body)), _DRIP_BYTES))
        elif manner == "short":
            self._write(_head(route, status, len(body)) + body[: len(body) // 2])
            self._close()
        elif manner == "short_chunked":
            self._write(_head(route, status, None) + _chunk(body[: len(body) // 2]))
            self._close()
        elif manner == "chunked":
            half = len(body) // 2
            self._write(_head(route, status, None) + _chunk(body[:half]) + _chunk(body[half:]) + _chunk(b""))
            self._finish(close)
        elif manner == "huge":
            self._write(_head(route, status, int(route["length"])) + body)
            self._pour(int(route["length"]) - len(body), bytes(_CHUNK_BYTES), b"")
        elif manner == "huge_chunked":
            self._write(_head(route, status, None) + _chunk(body))
            self._pour(int(route["length"]), _chunk(bytes(_CHUNK_BYTES)), _chunk(b""))
        else:
            self._write(_head(route, status, len(body)) + body)
            self._finish(close)

    def _repeat(self, interval_s: float, pieces: list[bytes]) -> None:
        """One piece after each interval, then the end."""
        if not pieces:
            self._close()
            return
        self._write(pieces[0])
        self._later(interval_s, lambda: self._repeat(interval_s, pieces[1:]))

    def _pour(self, left: int, piece: bytes, last: bytes) -> None:
        """`left` bytes as fast as the client reads, holding one piece at a time."""
        while left > 0 and self._transport is not None:
            self._write(piece)
            left -= _CHUNK_BYTES
            if self._transport is not None and self._transport.get_write_buffer_size() > 4 * _CHUNK_BYTES:
                self._resume = partial(self._pour, left, piece, last)
                return
        self._write(last)
        self._close()

    # --- the connection -------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    def _later(self, delay_s: float, action: Callable[[], object]) -> None:
        self._timer = self._loop.call_later(delay_s, action)

    def _end(self, data: bytes, close: bool) -> None:
        self._write(data)
        self._finish(close)

    def _finish(self, close: bool) -> None:
        if close:
            self._close()
        else:
            # Not a direct call: a client that sends many requests at once must not deepen the stack.
            self._loop.call_soon(self._next_request)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _head(route: dict[str, Any], status: int, length: int | None, *, kind: str | None = None) -> bytes:
    """Status line and headers; `length` None announces chunks."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Server: openwit-sample-web"]
    if not 300 <= status < 400:
        lines.append(f"Content-Type: {kind or route.get('type', 'image/jpeg')}")
    lines += [f"{name}: {value}" for name, value in route.get("headers", [])]
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]
