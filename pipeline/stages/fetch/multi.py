"""Many transfers at once: libcurl's multi interface and the sockets that it waits for.

    start --> in flight --wait--> ended

One thread at a time uses it; only `wake`, which ends a `wait`, may be called from another meanwhile.
"""

from __future__ import annotations

import contextlib
import datetime
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import pycurl

from pipeline.consent.signals import AnswerSignals
from pipeline.stages.fetch.address import AddressGuard
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.transfer import Answer, Transfer

__all__ = ["Multi"]

Job = TypeVar("Job")


class Multi(Generic[Job]):
    """Transfers in flight, each with its job. They share names, TLS sessions and connections."""

    def __init__(self, config: FetchConfig, signals: AnswerSignals, guard: AddressGuard) -> None:
        self._config, self._signals, self._guard = config, signals, guard
        self._active: set[Transfer] = set()
        self._idle: list[Transfer] = []
        self._curl_wake_s: float | None = None
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._share = pycurl.CurlShare()
        self._share.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_DNS)
        self._share.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_SSL_SESSION)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, config.concurrency)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        if config.http2:
            self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)

    def __len__(self) -> int:
        """Transfers in flight."""
        return len(self._active)

    def jobs(self) -> list[Job]:
        """Of the transfers in flight."""
        return [transfer.job for transfer in self._active]

    def start(
        self,
        url: str,
        job: Job,
        *,
        timeout_s: float,
        is_robots: bool,
        closes: bool = False,
        addresses: Sequence[str] = (),
    ) -> bool:
        """Request `url` (`wire.py`); False, with nothing done, where libcurl does not take it. A request that `closes`
        leaves no connection behind; `addresses` are entries of CURLOPT_RESOLVE."""
        transfer = self._idle.pop() if self._idle else self._new_transfer()
        try:
            transfer.start(url, job, timeout_s=timeout_s, is_robots=is_robots, closes=closes, addresses=addresses)
            self._multi.add_handle(transfer.curl)
        except (pycurl.error, ValueError):
            self._idle.append(transfer)
            return False
        self._active.add(transfer)
        return True

    def _new_transfer(self) -> Transfer:
        transfer = Transfer(self._config, self._signals, self._guard, self._share, _utc_now)
        transfer.curl.transfer = transfer
        return transfer

    def wait(self, most_s: float) -> None:
        """Serve the transfers' sockets until one had something to do or somebody called `wake`, `most_s` at most."""
        if self._curl_wake_s is not None:
            most_s = min(most_s, self._curl_wake_s - time.monotonic())
        for key, events in self._selector.select(max(0.0, most_s)):
            if key.fileobj is self._wake_reader:
                self._drain_wakes()
                continue
            mask = (pycurl.CSELECT_IN if events & selectors.EVENT_READ else 0) | (
                pycurl.CSELECT_OUT if events & selectors.EVENT_WRITE else 0
            )
            self._multi.socket_action(key.fd, mask)
        if self._curl_wake_s is not None and time.monotonic() >= self._curl_wake_s:
            self._curl_wake_s = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def ended(self) -> Iterator[tuple[Job, Answer]]:
        """The transfers that have ended since the last call, no longer in flight when they are given."""
        while True:
            left, succeeded, failed = self._multi.info_read()
            for curl, code, message in [*((curl, 0, "") for curl in succeeded), *failed]:
                transfer: Transfer = curl.transfer
                self._multi.remove_handle(curl)
                self._active.discard(transfer)
                job: Job = transfer.job
                transfer.job = None
                answer = transfer.answer(code, message)
                self._idle.append(transfer)
                yield job, answer
            if not left:
                return

    def wake(self) -> None:
        """End the `wait` under way, or the next one."""
        with contextlib.suppress(OSError):  # full: it is awake already
            self._wake_writer.send(b"\0")

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                pass

    def close(self) -> None:
        """Break off what is in flight."""
        for transfer in self._active:
            self._multi.remove_handle(transfer.curl)
        for transfer in [*self._active, *self._idle]:
            transfer.curl.close()
        self._multi.close()
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    # --- libcurl's callbacks ---------------------------------------------------------------------

    def _on_socket(self, what: int, fd: int, multi: Any, data: Any) -> None:
        if what == pycurl.POLL_REMOVE:
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
            return
        events = (selectors.EVENT_READ if what & pycurl.POLL_IN else 0) | (
            selectors.EVENT_WRITE if what & pycurl.POLL_OUT else 0
        )
        if not events:
            return
        if fd in self._selector.get_map():
            self._selector.modify(fd, events)
        else:
            self._selector.register(fd, events)

    def _on_timer(self, timeout_ms: int) -> None:
        self._curl_wake_s = None if timeout_ms < 0 else time.monotonic() + timeout_ms / 1000


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
