"""Host names -> addresses: each looked up once, and known to all tasks of the machine for a while.

    find: memory --> the machine's file (`name_cache.py`) --> None: look_up --system's resolver, or `resolvers`--> ended

libcurl would look names up once in each process, and remember no failures. It is told the addresses instead
(CURLOPT_RESOLVE) and connects to them itself, so the address guard sees every socket as before. Behind a proxy, and for
names that `resolve` gives, nothing is looked up; localhost is libcurl's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import pycurl

from configs.load import ConfigError
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.name_cache import NameCache

__all__ = ["Found", "LookUps", "Names", "check_resolvers"]

_KNOWN_S = 600.0
"""How long addresses are taken for granted: what libcurl's own cache was told before."""
_ABSENT_S = 300.0
"""How long that a name does not exist; RFC 2308, section 5, has one to three hours for the most."""
_FAILED_S = 30.0
"""How long that no resolver could say; RFC 2308, section 7.1, has five minutes for the most."""
_MOST_THREADS = 128
_MOST_CHANNELS = 6
"""Of c-ares, before it is believed that nobody can be asked."""
_GONE = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What became of a name."""

    addresses: tuple[str, ...] = ()
    """In the order in which they should be tried; none where there are none."""
    timed_out: bool = False
    certain: bool = False
    """Whether a resolver gave an answer, be it that there is no such name."""
    holds_s: float = _FAILED_S
    """How long it may be relied on."""


@dataclass(kw_only=True, slots=True)
class LookUps:
    """How often names were looked up."""

    asked: int = 0
    """Names that a resolver was asked for."""
    failed: int = 0
    """Of these, without an address."""
    shared: int = 0
    """Names that another task of the machine had looked up."""


class Names:
    """Of one fetch; one thread uses it."""

    def __init__(self, config: FetchConfig, cache: NameCache | None, counts: LookUps, wake: Callable[[], None]) -> None:
        """`wake` is called from another thread when a look-up has ended."""
        self._config, self._cache, self._counts, self._wake = config, cache, counts, wake
        self._known: dict[str, tuple[float, Found]] = {}
        self._begun: dict[str, float] = {}
        self._ended: SimpleQueue[tuple[str, Found]] = SimpleQueue()
        self._resolver: _Resolver | None = None
        self.answered = False
        """Whether any resolver has given an answer."""
        self._pinned = {":".join(entry.lstrip("+-").split(":")[:2]).lower() for entry in config.resolve}

    def looks_up(self, host: str, port: int) -> bool:
        """Whether libcurl must be told where `host` is."""
        if self._config.proxy or host == "localhost" or host.endswith(".localhost"):
            return False
        if ":" in host or host[-1:].isdigit():  # an address; the URL Standard's "ends in a number"
            return False
        return self._pinned.isdisjoint((f"{host}:{port}", f"*:{port}"))

    def find(self, host: str, now_s: float) -> Found | None:
        """What is known of a name; None where it must be looked up."""
        known = self._known.get(host)
        if known is not None and known[0] > now_s:
            return known[1]
        if host in self._begun or self._cache is None:
            return None
        entry = self._cache.get(host)
        if entry is None:
            return None
        addresses, holds_s = entry
        self._counts.shared += 1
        found = Found(addresses=addresses, holds_s=holds_s)
        self._known[host] = now_s + holds_s, found
        return found

    def look_up(self, host: str, now_s: float) -> None:
        """Have a name looked up, if that is not under way."""
        if host in self._begun:
            return
        self._begun[host] = now_s
        self._counts.asked += 1
        if self._resolver is None:
            threads = min(self._config.concurrency, _MOST_THREADS)
            servers = self._config.resolvers
            self._resolver = _Servers(servers, self._config.connect_timeout_s) if servers else _System(threads)
        self._resolver.start(host, self._tell)

    def _tell(self, host: str, found: Found) -> None:
        """From another thread."""
        if self._cache is not None:
            self._cache.put(host, found.addresses, found.holds_s)
        self._ended.put((host, found))
        self._wake()

    def ended(self, now_s: float) -> Iterator[tuple[str, Found]]:
        """The look-ups that have ended since it was asked last, or have taken too long."""
        while not self._ended.empty():
            host, found = self._ended.get()
            self.answered = self.answered or found.certain
            self._known[host] = now_s + found.holds_s, found
            if self._begun.pop(host, None) is not None:  # else it was given up
                self._counts.failed += not found.addresses
                yield host, found
        late_s = now_s - self._config.connect_timeout_s
        while self._begun:
            host, begun_s = next(iter(self._begun.items()))
            if begun_s > late_s:
                return
            del self._begun[host]
            found = Found(timed_out=True)
            self._known[host] = now_s + found.holds_s, found
            self._counts.failed += 1
            yield host, found

    def close(self) -> None:
        """Wait for no look-up any more."""
        self._wake = lambda: None
        if self._resolver is not None:
            self._resolver.close()


class _Resolver(ABC):
    @abstractmethod
    def start(self, host: str, tell: Callable[[str, Found], None]) -> None:
        """Look up `host`, and `tell` of it from another thread."""

    @abstractmethod
    def close(self) -> None:
        """Begin no look-up any more."""


class _System(_Resolver):
    """getaddrinfo(3), which waits: in threads that nobody waits for."""

    def __init__(self, most_threads: int) -> None:
        self._most = most_threads
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._work: SimpleQueue[tuple[str, Callable[[str, Found], None]] | None] = SimpleQueue()

    def start(self, host: str, tell: Callable[[str, Found], None]) -> None:
        self._work.put((host, tell))
        if not self._idle.acquire(blocking=False) and self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._look_up_always, daemon=True, name="look-ups").start()

    def _look_up_always(self) -> None:
        while (work := self._work.get()) is not None:
            host, tell = work
            tell(host, _ask_system(host))
            self._idle.release()

    def close(self) -> None:
        for _ in range(self._threads):
            self._work.put(None)


def _ask_system(host: str) -> Found:
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return _absent(certain=error.errno in _GONE)
    except (OSError, UnicodeError):  # a label that is too long is a UnicodeError
        return Found()
    return Found(addresses=_distinct(str(where[0]) for *_, where in answers), holds_s=_KNOWN_S, certain=True)


def _absent(*, certain: bool) -> Found:
    return Found(holds_s=_ABSENT_S if certain else _FAILED_S, certain=certain)


class _Servers(_Resolver):
    """The servers that the config names, through c-ares, which has a thread of its own.

    Now and then a new channel of pycares 5.2 refuses every query at once and asks nobody, though its servers answer
    (measured: one of ten to a thousand). Another channel then does.
    """

    def __init__(self, servers: Sequence[str], timeout_s: float) -> None:
        import pycares

        self._codes = pycares.errno
        self._closed = False
        self._make = functools.partial(
            pycares.Channel, servers=servers, lookups="b", timeout=timeout_s / 4, tries=2, rotate=True
        )
        self._lock = threading.Lock()
        self._channels = [self._make()]  # the last one is in use; others have queries under way

    def start(self, host: str, tell: Callable[[str, Found], None]) -> None:
        self._ask(host, tell, _MOST_CHANNELS)

    def _ask(self, host: str, tell: Callable[[str, Found], None], left: int) -> None:
        with self._lock:
            channel = self._channels[-1]

        def ended(result: Any, error: int | None) -> None:
            if self._closed:
                return  # broken off, which says nothing of the name
            if error == self._codes.ARES_ECONNREFUSED and left and self._replaces(channel):
                self._ask(host, tell, left - 1)
                return
            tell(host, self._found(result, error))

        channel.getaddrinfo(host, None, type=socket.SOCK_STREAM, callback=ended)

    def _found(self, result: Any, error: int | None) -> Found:
        if error is not None:
            absent = _absent(certain=error in (self._codes.ARES_ENOTFOUND, self._codes.ARES_ENODATA))
            return dataclasses.replace(absent, timed_out=error == self._codes.ARES_ETIMEOUT)
        addresses = _distinct(_text(node.addr[0]) for node in result.nodes)
        holds_s = min([_KNOWN_S, *(max(float(node.ttl), _FAILED_S) for node in result.nodes)])
        return Found(addresses=addresses, holds_s=holds_s, certain=True)

    def _replaces(self, channel: Any) -> bool:
        """Whether there is another channel than this one, now."""
        with self._lock:
            if self._channels[-1] is channel and len(self._channels) < _MOST_CHANNELS:
                self._channels.append(self._make())
            return self._channels[-1] is not channel

    def close(self) -> None:
        self._closed = True
        for channel in self._channels:
            channel.close()


def _text(address: str | bytes) -> str:
    return address.decode("ascii") if isinstance(address, bytes) else address


def _distinct(addresses: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(addresses))


def check_resolvers(config: FetchConfig) -> None:
    """Raises ConfigError where `resolvers` cannot be asked: libcurl's wheels have no c-ares, so pycares brings it."""
    if not config.resolvers or config.engine != "own":
        return
    with contextlib.suppress(ImportError):
        import pycares  # noqa: F401

        return
    raise ConfigError(
        f"fetch.resolvers: {pycurl.version.split()[1]} comes without c-ares, which asks servers by address; install "
        "openwit[dns] (pycares), or leave resolvers out for the system's"
    )
