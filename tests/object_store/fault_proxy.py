"""A proxy on loopback in front of an object store: it counts requests and, by a rule, spoils some.

    with FaultProxy(store_endpoint) as proxy:
        proxy.faults = Faults(shares={"500": 0.05, "lost answer": 0.02}, seed=7)
        proxy.once("lost answer", "PUT", r"^records/")
        ...  # a client of proxy.endpoint
        assert proxy.counts()["LIST"] == 0

Which requests a rule spoils follows from its seed, the request and how often that was made, not from the order in
which requests arrive: a run of many threads meets the same faults again, and a client's second try is drawn anew.
"""

from __future__ import annotations

import collections
import contextlib
import html
import http.client
import random
import re
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, get_args
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["METHODS", "Fault", "FaultProxy", "Faults", "Method", "Request"]

Method = Literal["GET", "HEAD", "PUT", "POST", "DELETE", "LIST"]
"""An HTTP method; LIST is the GET that asks for names instead of an object, DELETE also the POST that deletes many."""

METHODS: tuple[Method, ...] = get_args(Method)

Fault = Literal["500", "503", "slow", "cut request", "cut answer", "lost answer", "409", "501"]
"""
500, 503      answered so; the store sees nothing
slow          done at once, answered late
cut request   closed in the middle of the request's body; the store sees nothing
cut answer    done, closed in the middle of the answer (of its head where it has no body)
lost answer   done, closed without an answer: the nastiest for a conditional put
409           a conditional put is answered ConditionalRequestConflict, as S3 does when two arrive at once; the store
              sees nothing, other requests pass
501           a conditional put is answered NotImplemented, as stores without them do; other requests pass
"""

_KEY = re.compile(r"<Key>(.*?)</Key>")
_CONDITIONS = ("if-match", "if-none-match")
_OF_ONE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "content-length", "expect", "host")
_CODES = {"500": "InternalError", "503": "SlowDown", "409": "ConditionalRequestConflict", "501": "NotImplemented"}


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Which share of requests is spoilt how, of those with one of `methods` and a key in which `keys` is found.

    At most `at_most` are, if that is set, since the log was last emptied.
    """

    shares: Mapping[Fault, float] = field(default_factory=dict)
    seed: int = 0
    methods: Collection[Method] = METHODS
    keys: str = ""
    slow_s: float = 0.5
    at_most: int | None = None

    def of(self, request: Request, number: int) -> Fault | None:
        """The fault of this request, made for the `number`th time."""
        if request.method not in self.methods or not re.search(self.keys, request.key):
            return None
        drawn = random.Random(f"{self.seed} {request.method} {request.key} {request.range} {number}").random()
        for fault, share in self.shares.items():
            drawn -= share
            if drawn < 0:
                return fault
        return None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client asked for; `range` is the header as it came, or "".

    `key` is without the bucket: of a LIST the prefix, of a DELETE of many all their keys, a blank between them.
    """

    method: Method
    key: str
    range: str
    conditional: bool
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Once:
    fault: Fault
    method: Method
    keys: str


class FaultProxy:
    """Serves in threads of this process while it is entered. Without a rule it passes everything on."""

    def __init__(self, store: str) -> None:
        self.faults = Faults()
        self.conditional_puts = True
        """False: the store knows none, and a condition is ignored, as old stores ignore headers they do not know."""
        self.log: list[tuple[Request, Fault | None]] = []
        self._store = urlsplit(store).netloc
        self._numbers: collections.Counter[Request] = collections.Counter()
        self._once: list[_Once] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def endpoint(self) -> str:
        """The URL for a client."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.close_connections()

    def once(self, fault: Fault, method: Method, keys: str = "") -> None:
        """Spoil the next request with this method and a key in which `keys` is found."""
        with self._lock:
            self._once.append(_Once(fault=fault, method=method, keys=keys))

    def counts(self) -> collections.Counter[str]:
        """How many requests came, by method."""
        with self._lock:
            return collections.Counter(request.method for request, _ in self.log)

    def fault_counts(self) -> collections.Counter[str]:
        """How many requests were spoilt, by fault."""
        with self._lock:
            return collections.Counter(fault for _, fault in self.log if fault)

    def forget(self) -> None:
        """Empty the log; the rules stay."""
        with self._lock:
            self.log.clear()

    def _fault_of(self, request: Request) -> Fault | None:
        with self._lock:
            self._numbers[request] += 1
            fault = self._drawn(request)
            if fault in ("409", "501") and not request.conditional:
                fault = None
            self.log.append((request, fault))
            return fault

    def _drawn(self, request: Request) -> Fault | None:
        for rule in self._once:
            if rule.method == request.method and re.search(rule.keys, request.key):
                self._once.remove(rule)
                return rule.fault
        limit = self.faults.at_most
        if limit is not None and sum(fault is not None for _, fault in self.log) >= limit:
            return None
        return self.faults.of(request, self._numbers[request])


class _Server(ThreadingHTTPServer):
    proxy: FaultProxy
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def close_connections(self) -> None:
        """A client's idle connection would keep its thread."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._upstream = http.client.HTTPConnection(self.server.proxy._store)

    def finish(self) -> None:
        self._upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        many = self.command == "POST" and "delete" in parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        body = b"".join(self._body()) if many else None
        request = self._request(body)
        proxy = self.server.proxy
        fault = proxy._fault_of(request)
        if fault == "cut request":
            if body is None:
                self.rfile.read(request.num_bytes // 2)
            self._cut()
            return
        if body is None:
            body = b"".join(self._body())
        if "Content-Length" in self.headers and len(body) < request.num_bytes:  # the client died: no object of a half
            self._cut()
            return
        if fault in _CODES:
            self._refuse(int(fault))
            return
        status, reason, headers, answer = self._ask(body)
        if fault == "slow":
            time.sleep(proxy.faults.slow_s)
        if fault == "lost answer":
            self._cut()
            return
        length = headers["content-length"] if self.command == "HEAD" else str(len(answer))
        self.send_response_only(status, reason)
        for name, value in headers.items():
            if name.lower() not in _OF_ONE_CONNECTION:
                self.send_header(name, value)
        if length is not None and status != 204:
            self.send_header("Content-Length", length)
        if fault == "cut answer" and not answer:
            self._cut()
            return
        self.end_headers()
        self.wfile.write(answer[: len(answer) // 2] if fault == "cut answer" else answer)
        self.wfile.flush()
        if fault == "cut answer":
            self._cut()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815  # the names that the base class calls

    def _request(self, deletes: bytes | None) -> Request:
        """`deletes` is the body of a DELETE of many."""
        url = urlsplit(self.path)
        key = unquote(url.path).lstrip("/").partition("/")[2]
        method: Any = self.command
        if deletes is not None:
            method, key = "DELETE", " ".join(html.unescape(found) for found in _KEY.findall(deletes.decode()))
        elif method == "GET" and not key:
            method, key = "LIST", parse_qs(url.query).get("prefix", [""])[0]
        return Request(
            method=method,
            key=key,
            range=self.headers.get("Range", ""),
            conditional=method == "PUT" and any(name in self.headers for name in _CONDITIONS),
            num_bytes=int(self.headers.get("Content-Length", 0)),
        )

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while num_bytes := int(self.rfile.readline().partition(b";")[0], 16):
                yield self.rfile.read(num_bytes)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _ask(self, body: bytes) -> tuple[int, str, http.client.HTTPMessage, bytes]:
        """Status, reason, headers and body of the store's answer."""
        self._upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            conditional = self.command == "PUT" and name.lower() in _CONDITIONS
            if name.lower() not in _OF_ONE_CONNECTION and (self.server.proxy.conditional_puts or not conditional):
                self._upstream.putheader(name, value)
        self._upstream.putheader("Host", self.headers["Host"])
        self._upstream.putheader("Content-Length", str(len(body)))
        self._upstream.endheaders(body)
        answer = self._upstream.getresponse()
        return answer.status, answer.reason, answer.headers, answer.read()

    def _refuse(self, status: int) -> None:
        code = _CODES[str(status)]
        body = f"<Error><Code>{code}</Code><Message>a fault of the test</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
