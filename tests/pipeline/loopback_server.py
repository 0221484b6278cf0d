"""A scriptable HTTP server on 127.0.0.1 for tests of the fetch stage: every attack is a route.

    with LoopbackServer({"/a": text(b"hello")}) as server:
        ...  # f"http://a.localhost:{server.port}/a"

A route is a coroutine of (request, writer) that writes raw bytes. Unknown paths answer 404.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

CERTIFICATES = Path(__file__).parent / "certificates"


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    connection: int
    number: int  # of this target's requests, from 1
    at_s: float = 0.0  # of the monotonic clock


Route = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def answer(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, delay_s: float = 0.0) -> Route:
    """A whole answer with Content-Length."""

    async def route(request: Request, writer: asyncio.StreamWriter) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join([*lines, "", ""]).encode("utf-8") + body)

    return route


def text(body: bytes, headers: Mapping[str, str] | None = None) -> Route:
    return answer(200, body, headers)


def redirect(location: str, status: int = 302) -> Route:
    return answer(status, b"moved", {"Location": location})


def raw(data: bytes, *, close: bool = True) -> Route:
    """Exactly these bytes, then the end of the connection."""

    async def route(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if close:
            await writer.drain()
            writer.close()

    return route


def in_turn(*routes: Route) -> Route:
    """The n-th request gets the n-th route; later ones the last."""

    async def route(request: Request, writer: asyncio.StreamWriter) -> None:
        await routes[min(request.number, len(routes)) - 1](request, writer)

    return route


def endless(head: bytes, chunk: bytes, pause_s: float = 0.0, count: int | None = None) -> Route:
    """`head`, then `chunk` again and again."""

    async def route(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        sent = 0
        while count is None or sent < count:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(pause_s)
            sent += 1

    return route


@dataclass
class LoopbackServer:
    routes: Mapping[str, Route]
    tls: bool = False
    requests: list[Request] = field(default_factory=list)
    num_connections: int = 0
    max_at_once: int = 0
    max_open: int = 0  # connections
    port: int = 0

    def __enter__(self) -> LoopbackServer:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def url(self, path: str, host: str = "a.localhost") -> str:
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{path}"

    def targets(self) -> list[str]:
        return [request.target for request in self.requests]

    def _serve(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._at_once = self._open = 0
        self._counts: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATES / "loopback.pem", CERTIFICATES / "loopback.key")
        self._loop.set_exception_handler(lambda loop, context: None)  # clients of these tests vanish on purpose
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)  # transports close in the loop's next rounds

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self._writers.append(writer)
        task = asyncio.ensure_future(self._talk(reader, writer, self.num_connections))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        self._open += 1
        self.max_open = max(self.max_open, self._open)
        try:
            await self._answer(reader, writer, connection)
        finally:
            self._open -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-2])}
                self._counts[target] = self._counts.get(target, 0) + 1
                request = Request(method, target, headers, connection, self._counts[target], time.monotonic())
                self.requests.append(request)
                self._at_once += 1
                self.max_at_once = max(self.max_at_once, self._at_once)
                try:
                    await self.routes.get(target, answer(404, b"nothing here"))(request, writer)
                    await writer.drain()
                finally:
                    self._at_once -= 1
        with contextlib.suppress(OSError, ssl.SSLError):
            writer.close()
