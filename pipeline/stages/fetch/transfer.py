"""One HTTP request at a time on a reusable curl handle, its limits, and what its end means."""

from __future__ import annotations

import datetime
import errno
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pycurl

from configs.load import ConfigError
from pipeline.consent.answers import HEADERS, judge, statement_of, when_received
from pipeline.consent.license_link import license_links
from pipeline.consent.robots_file import MAX_ROBOTS_BYTES
from pipeline.consent.signals import AnswerSignals
from pipeline.stages.fetch.address import AddressGuard
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.encodings import TooLargeError, UndecodableError, decoded
from pipeline.stages.fetch.outage import LocalCause
from pipeline.stages.fetch.wire import target_of
from pipeline.web.answers import can_heal

__all__ = ["Answer", "Transfer", "check_authorities"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DISCARD_BYTES = 64 * 1024
"""An error page up to this size is read to its end, so that its connection can be used again."""

_WRITE_ERROR = 23
_TIMED_OUT = 28
# libcurl-errors(3). By number, since pycurl names only some.
_TLS = frozenset({35, 51, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91, 96, 98})
_BROKEN = {
    8: "the answer is not HTTP",
    16: "an error of the HTTP/2 layer",
    18: "the body ended early",
    52: "the server closed the connection without an answer",
    55: "the connection broke while sending",
    56: "the connection broke while receiving",
    92: "the HTTP/2 stream was reset",
}
_HEALING = frozenset({16, 18, 52, 55, 56, 92})
_PROXY_LOGIN = 407
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EPERM})
_KEPT_HEADERS = frozenset({b"content-type", b"retry-after"})
_CONSENT_HEADERS = frozenset(name.encode() for name in HEADERS)
_MAX_STATEMENTS = 32
"""Different ones of one answer: nobody has so much to say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one request came to. Exactly one of body, redirect and reason is not None."""

    body: bytes | None = None
    redirect: bytes | None = None  # the Location, as the server wrote it
    reason: str | None = None
    detail: str | None = None
    http_status: int | None = None
    content_type: str | None = None
    heals: bool = False  # whether trying again may help
    retry_after: str | None = None
    elapsed_s: float = 0.0
    local: LocalCause | None = None  # why the request did not leave this machine, or its proxy
    statements: tuple[str, ...] = ()  # what the header lines say of the use (`pipeline.consent.answers`)


class Transfer:
    """A curl handle and the state of its request. Not thread-safe; callbacks run inside libcurl's calls."""

    def __init__(
        self,
        config: FetchConfig,
        signals: AnswerSignals,
        guard: AddressGuard,
        share: Any,
        now: Callable[[], datetime.datetime],
    ):
        self.job: Any = None
        self._config = config
        self._signals = signals
        self._guard = guard
        self._now = now
        self._body = bytearray()
        self._start_state()
        curl = self.curl = pycurl.Curl()
        curl.setopt(pycurl.SHARE, share)
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.FOLLOWLOCATION, 0)  # redirects are followed by the loop, one judged request each
        curl.setopt(pycurl.PROXY, config.proxy)  # the empty string also switches the environment's off
        curl.setopt(pycurl.NOPROXY, "")
        self._asks_http_proxy = bool(config.proxy) and not config.proxy.lower().startswith("socks")
        curl.setopt(pycurl.USERAGENT, config.user_agent)
        # Pictures are compressed already. What arrives encoded anyway is decoded by `encodings`, under the same limit;
        # libcurl, asked to, would refuse codings that it does not know.
        curl.setopt(pycurl.HTTPHEADER, ["Accept: image/*,*/*;q=0.1", "Accept-Encoding: identity"])
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, round(config.connect_timeout_s * 1000)))
        if config.low_speed_bytes and config.low_speed_time_s:
            curl.setopt(pycurl.LOW_SPEED_LIMIT, config.low_speed_bytes)
            curl.setopt(pycurl.LOW_SPEED_TIME, config.low_speed_time_s)
        curl.setopt(pycurl.MAXFILESIZE_LARGE, config.max_bytes)
        curl.setopt(pycurl.BUFFERSIZE, 256 * 1024)
        curl.setopt(pycurl.DNS_CACHE_TIMEOUT, 600)
        http_version = pycurl.CURL_HTTP_VERSION_2TLS if config.http2 else pycurl.CURL_HTTP_VERSION_1_1
        curl.setopt(pycurl.HTTP_VERSION, http_version)
        if config.http2:
            curl.setopt(pycurl.PIPEWAIT, 1)  # rather a stream of a connection than a connection of one's own
        if config.verify_certificates:
            authorities = config.ca_file or _system_authorities()
            if authorities:
                curl.setopt(pycurl.CAINFO, authorities)
        else:
            curl.setopt(pycurl.SSL_VERIFYPEER, 0)
            curl.setopt(pycurl.SSL_VERIFYHOST, 0)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._on_body)

    def start(
        self, url: str, job: Any, *, timeout_s: float, is_robots: bool, closes: bool, addresses: Sequence[str]
    ) -> None:
        """Get ready to request `url` (`wire.py`), with `addresses` as CURLOPT_RESOLVE has them. Raises ValueError or
        pycurl.error if it cannot be."""
        self._start_state()
        self._is_robots = is_robots
        self.curl.setopt(pycurl.URL, url.encode("ascii"))
        # Left to itself, libcurl writes the path's escapes in upper case. A proxy for http wants the whole URL.
        whole = self._asks_http_proxy and url.startswith("http:")
        self.curl.setopt(pycurl.REQUEST_TARGET, (url if whole else target_of(url)).encode("ascii"))
        self.curl.setopt(pycurl.FORBID_REUSE, closes)
        if resolved := [*self._config.resolve, *addresses]:
            self.curl.setopt(pycurl.RESOLVE, resolved)
        self.curl.setopt(pycurl.TIMEOUT_MS, max(1, round(timeout_s * 1000)))
        self.job = job

    def _start_state(self) -> None:
        self._status = 0
        self._location: bytes | None = None
        self._headers: dict[str, str] = {}
        self._statements: list[str] = []
        self._header_bytes = 0
        self._headers_done = False
        self._body = bytearray()
        self._discarded = 0
        self._refused = ""
        self._tried = False
        self._stopped: tuple[str, str] | None = None
        self._is_robots = False

    def answer(self, code: int, message: str) -> Answer:
        """Judge the request's end. `code` is libcurl's (0 for success), `message` its text for it."""
        elapsed_s = float(self.curl.getinfo(pycurl.TOTAL_TIME))
        reason, detail, heals = self._fault(code, message)
        status = self._status or None
        if reason is None and status in _REDIRECTS and self._location is not None:
            return Answer(
                redirect=self._location, http_status=status, elapsed_s=elapsed_s, statements=tuple(self._statements)
            )
        content_type = self._headers.get("content-type")
        retry_after = None
        if reason is None and not (200 <= self._status < 300 and self._status != 206):
            reason = f"http_{self._status:03d}"
            heals = can_heal(self._status)
            retry_after = self._headers.get("retry-after")
        if reason is None and not self._body:
            reason = "empty_body"
        body = b""
        if reason is None:
            body, reason, detail = self._decoded()
        if reason is not None:
            return Answer(
                local=self._local_cause(code, reason),
                reason=reason,
                detail=detail,
                http_status=status,
                content_type=content_type,
                heals=heals,
                retry_after=retry_after,
                elapsed_s=elapsed_s,
                statements=tuple(self._statements),
            )
        return Answer(
            body=body,
            http_status=status,
            content_type=content_type,
            elapsed_s=elapsed_s,
            statements=tuple(self._statements),
        )

    def _decoded(self) -> tuple[bytes, str | None, str | None]:
        """(body, None, None), or (b"", reason, detail)."""
        body, self._body = bytes(self._body), bytearray()
        encodings = self._headers.get("content-encoding")
        if encodings is None:
            return body, None, None
        limit = self._config.max_bytes
        try:
            return decoded(body, encodings, limit), None, None
        except TooLargeError:
            return b"", "too_large", f"more than {limit} bytes"
        except UndecodableError:
            return b"", "transfer", "the body cannot be decoded"

    def _fault(self, code: int, message: str) -> tuple[str | None, str | None, bool]:
        """(reason, detail, heals) of a request that did not end as HTTP means it to; (None, None, False) else."""
        if self._stopped is not None:
            return (*self._stopped, False)
        if code == 0:
            return None, None, False
        if self._refused and not self._tried and code == 7:  # an allowed address that did not answer is the fault
            return "address_not_allowed", f"would connect to {self._refused}", False
        if self._headers_done and not 200 <= self._status < 300:
            return None, None, False  # the status says enough, whatever became of the error page
        if code == _WRITE_ERROR and self._is_robots and len(self._body) >= MAX_ROBOTS_BYTES:
            return None, None, False  # we ended it: that much of a robots.txt is read
        if code == _TIMED_OUT:
            return (*self._kind_of_timeout(message), False)
        if code in (5, 6):
            return "dns", None, False
        if code == 7:
            return "connect", "refused or unreachable", False
        if code in _TLS:
            return "tls", "the certificate is not valid" if code == 60 else "the handshake failed", False
        if code == 63:
            return "too_large", f"more than {self._config.max_bytes} bytes", False
        if code == 100:
            return "too_large", "header lines", False
        if code in (1, 3) and not self.curl.getinfo(pycurl.REQUEST_SIZE):
            return "bad_url", None, False
        return "transfer", _BROKEN.get(code, f"libcurl error {code}"), code in _HEALING

    def _local_cause(self, code: int, reason: str) -> LocalCause | None:
        """What kept the request from reaching any host, by libcurl's `code` and the `reason` that was given."""
        if reason == "address_not_allowed":
            return LocalCause.ADDRESS
        if self._config.proxy:
            refused = code == 7 and self.curl.getinfo(pycurl.HTTP_CONNECTCODE) in (0, _PROXY_LOGIN)
            return LocalCause.PROXY if code == 5 or refused or self._status == _PROXY_LOGIN else None
        if reason == "dns":
            return LocalCause.RESOLVER  # as far as one can see; `outage` looks again
        if code == 7 and self.curl.getinfo(pycurl.OS_ERRNO) in _NO_ROUTE:
            return LocalCause.NETWORK
        return None

    def _kind_of_timeout(self, message: str) -> tuple[str, str]:
        if "too slow" in message:
            limit = f"under {self._config.low_speed_bytes} bytes a second for {self._config.low_speed_time_s} s"
            return "too_slow", limit
        if self.curl.getinfo(pycurl.REQUEST_SIZE):  # not the phases' times: a reused connection has none
            return "timeout", f"over {self._config.timeout_s:g} s"
        if "esolving timed out" in message:
            return "dns", "timed out"
        if not self.curl.getinfo(pycurl.CONNECT_TIME):
            return "connect", "timed out"
        return "tls", "timed out"

    def _open_socket(self, purpose: int, address: Any) -> Any:
        family, kind, protocol, where = address
        host = where[0].decode() if isinstance(where[0], bytes) else str(where[0])
        port = int(where[1])
        # With a proxy the peer is the proxy, which the user named; the target was looked at before.
        if not self._config.proxy and not self._guard.permits(host, port):
            self._refused = self._refused or f"{host} port {port}"
            return pycurl.SOCKET_BAD
        self._tried = True
        try:
            return _Descriptor(socket.socket(family, kind, protocol).detach())
        except OSError:
            return pycurl.SOCKET_BAD  # for example no IPv6 here; libcurl tries the next address

    def _on_header(self, line: bytes) -> int | None:
        self._header_bytes += len(line)
        if self._header_bytes > self._config.max_header_bytes:
            self._stopped = ("too_large", f"more than {self._config.max_header_bytes} bytes of header lines")
            return 0
        if line.startswith(b"HTTP/"):
            words = line.split(None, 2)
            self._status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
            self._location, self._headers, self._statements, self._headers_done = None, {}, [], False
            return None
        if line in (b"\r\n", b"\n"):
            if self._status >= 200 and not self._headers_done:
                self._headers_done = True
                return self._consider_consent()
            return None
        name, _, value = line.partition(b":")
        name = name.strip().lower()
        value = value.strip()
        if self._headers_done:  # a trailer
            return None
        if name == b"location":
            self._location = value if self._location is None else self._location
        elif name in _CONSENT_HEADERS:
            self._note(name.decode(), _text(value))
        elif name == b"link":
            for url in license_links(_text(value)):
                self._note("link", f'<{url}>; rel="license"')
        elif name == b"content-encoding":  # one list, however many lines it takes (RFC 9110, section 5.3)
            known = self._headers.get(name.decode())
            self._headers[name.decode()] = _text(value) if known is None else f"{known},{_text(value)}"
        elif name in _KEPT_HEADERS:
            self._headers.setdefault(name.decode(), _text(value))
        return None

    def _note(self, name: str, value: str) -> None:
        statement = statement_of(name, value)
        if statement not in self._statements and len(self._statements) < _MAX_STATEMENTS:
            self._statements.append(statement)

    def _consider_consent(self) -> int | None:
        """Stop before the body if the owner forbids the use. A redirect's word counts too."""
        if self._is_robots or not (200 <= self._status < 300 or self._status in _REDIRECTS):
            self._statements = []
            return None
        if not self._statements:
            return None
        self._statements += when_received(self._statements, self._now())
        refusal = judge(self._signals, self._statements, product=self._config.product)
        if refusal is None:
            return None
        self._stopped = (refusal.reason, refusal.detail)
        return 0

    def _on_body(self, chunk: bytes) -> int | None:
        if not 200 <= self._status < 300:
            self._discarded += len(chunk)
            return 0 if self._discarded > _DISCARD_BYTES else None
        self._body += chunk
        limit = MAX_ROBOTS_BYTES if self._is_robots else self._config.max_bytes
        if len(self._body) > limit:
            if not self._is_robots:
                self._stopped = ("too_large", f"more than {limit} bytes")
                self._body = bytearray()
            return 0
        return None


class _Descriptor:
    """A socket on its way to libcurl: pycurl asks for its number, duplicates that, and drops this object."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def __del__(self) -> None:
        os.close(self._number)


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def check_authorities(config: FetchConfig) -> None:
    """Raises ConfigError where `ca_file` is no file of authorities: else every https URL would fail, one by one."""
    if config.ca_file and config.verify_certificates:
        try:
            ssl.create_default_context(cafile=config.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"ca_file: cannot read {config.ca_file} ({error}); give a PEM file, or none") from error


def _system_authorities() -> str:
    """The system's file of trusted authorities; libcurl's own default is the path of the machine it was built on."""
    return ssl.get_default_verify_paths().cafile or ""
