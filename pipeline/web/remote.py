"""remote: a file on a web server, brought to this machine before it is read.

    http(s) URL --curl; after a break, the rest--> a temporary file without a name

An archive is read for minutes, at the reader's pace, and the servers of crawls shed load (Common Crawl answers 503 and
asks clients to slow down). So the bytes come first, as fast as they can, and what failed is asked for again from where
it broke. A kill leaves nothing behind.
"""

from __future__ import annotations

import random
import tempfile
import time
from http import HTTPStatus
from typing import BinaryIO, cast

import pycurl

from pipeline.errors import InputError
from pipeline.web.answers import can_heal, seconds_of_retry_after

__all__ = ["is_web", "open_download"]

USER_AGENT = "openwit"
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_PROGRESS_BYTES = 1 << 20
_CONNECT_S = 30
_LOW_SPEED_BYTES, _LOW_SPEED_S = 1000, 60
_STRANGER_S = 8
_STRANGER_TRIES = 3
"""A server that never answered this process: somebody waits to hear that its name is wrong, or that nobody serves it.
Three times 8 seconds and the waits between them are under half a minute."""
_SILENT_S = 60.0
"""For so long its other files are not asked for."""
_WANTED = {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}
_FINAL = {pycurl.E_URL_MALFORMAT, pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_UNSUPPORTED_PROTOCOL}


def is_web(path: str) -> bool:
    """Whether `path` is a plain http or https URL."""
    return path.startswith(("http://", "https://"))


def open_download(url: str, *, tries: int = 8) -> BinaryIO:
    """The whole file behind an http(s) URL, in a temporary file (in TMPDIR) that goes when it is closed; at its start.

    Broken connections and answers that can heal (`answers.py`) are tried again, after waits that double up to a minute,
    or as long as the server asks for within that; `tries` in a row that bring less than 1 MiB are the end. A server
    that never answered this process is given up after half a minute. Raises InputError, and OSError where there is no
    room.
    """
    file = cast(BinaryIO, tempfile.TemporaryFile(prefix="openwit-"))  # noqa: SIM115 - the caller closes it
    try:
        _download(url, file, tries)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


_answered: set[str] = set()
"""Hosts that answered this process, whatever it was."""
_silent: dict[str, tuple[float, str]] = {}
"""Hosts that were given up without an answer: when (monotonic), and why."""


def _download(url: str, file: BinaryIO, tries: int) -> None:
    host = url.partition("://")[2].partition("/")[0]
    since, why = _silent.get(host, (-_SILENT_S, ""))
    if time.monotonic() - since < _SILENT_S:
        raise InputError(f"{url}: cannot be fetched ({why}, a moment ago); run again later, what is done is kept")
    failures = 0
    validator = ""  # of the file that was begun
    most = 0  # bytes that were ever here
    while True:
        answer = _Answer(file)
        answer.perform(url, validator, is_stranger=host not in _answered)
        if answer.status:
            _answered.add(host)
        if answer.is_whole:
            return
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            answer.start_over()  # the file there is shorter than the one that was begun
        elif not answer.may_heal:
            raise _failure(url, answer)
        if answer.status == HTTPStatus.OK:
            validator = answer.validator
        failures = 0 if file.tell() - most >= _PROGRESS_BYTES else failures + 1
        most = max(most, file.tell())
        if host not in _answered and failures >= _STRANGER_TRIES:
            _silent[host] = (time.monotonic(), answer.error)
            raise _failure(url, answer)
        if failures >= tries:
            raise _failure(url, answer)
        wait_s = min(max(_FIRST_WAIT_S * 2.0 ** max(failures - 1, 0), answer.asked_wait_s), _LONGEST_WAIT_S)
        time.sleep(wait_s * random.uniform(1.0, 1.25))  # workers that failed together come back apart


class _Answer:
    """One request for what `file` lacks, and what came."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._headers: dict[str, str] = {}
        self._fault: OSError | None = None
        self._begun = False
        self._is_final = False
        self.status = 0
        self.error = ""

    @property
    def is_whole(self) -> bool:
        return not self.error and self.status in _WANTED

    @property
    def may_heal(self) -> bool:
        broke = bool(self.error) and not self._is_final and (not self.status or self.status in _WANTED)
        return broke or can_heal(self.status)

    @property
    def validator(self) -> str:
        """What If-Range takes: a strong ETag, else the date."""
        etag = self._headers.get("etag", "")
        return etag if etag.startswith('"') else self._headers.get("last-modified", "")

    @property
    def asked_wait_s(self) -> float:
        return seconds_of_retry_after(self._headers.get("retry-after", ""))

    def start_over(self) -> None:
        self._file.seek(0)
        self._file.truncate()

    def perform(self, url: str, validator: str, *, is_stranger: bool = False) -> None:
        """Ask for the file from where the temporary one ends. Raises OSError where there is no room."""
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.USERAGENT, USER_AGENT)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.FOLLOWLOCATION, True)
        curl.setopt(pycurl.MAXREDIRS, 5)
        curl.setopt(pycurl.CONNECTTIMEOUT, _STRANGER_S if is_stranger else _CONNECT_S)
        curl.setopt(pycurl.LOW_SPEED_LIMIT, _LOW_SPEED_BYTES)
        curl.setopt(pycurl.LOW_SPEED_TIME, _STRANGER_S if is_stranger else _LOW_SPEED_S)
        curl.setopt(pycurl.NOSIGNAL, True)
        curl.setopt(pycurl.HEADERFUNCTION, self._read_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._write)
        if begun := self._file.tell():
            curl.setopt(pycurl.RANGE, f"{begun}-")
            if validator:
                curl.setopt(pycurl.HTTPHEADER, [f"If-Range: {validator}".encode("latin-1")])
        try:
            curl.perform()
        except pycurl.error as error:
            self.error = str(error.args[-1]) or f"curl error {error.args[0]}"
            self._is_final = error.args[0] in _FINAL
        finally:
            curl.close()
        if self._fault is not None:
            raise self._fault
        if self.is_whole and not self._begun:
            self.start_over()  # it is empty now

    def _read_header(self, line: bytes) -> None:
        text = line.decode("latin-1").strip()
        if text.startswith("HTTP/"):
            self.status, self._headers = int(text.split()[1]), {}
        elif text:
            name, _, value = text.partition(":")
            self._headers[name.strip().lower()] = value.strip()

    def _fits(self) -> bool:
        """Whether the body goes on where the file ends. Asked at its first byte, since a proxy's headers come first."""
        span = self._headers.get("content-range", "")
        return self.status == HTTPStatus.PARTIAL_CONTENT and span.startswith(f"bytes {self._file.tell()}-")

    def _write(self, data: bytes) -> int:
        if self.status in _WANTED:
            try:
                if not self._begun and not self._fits():
                    self.start_over()
                    if self.status != HTTPStatus.OK:
                        return 0
                self._begun = True
                self._file.write(data)
            except OSError as error:  # no room: curl would only say that writing failed
                self._fault = error
                return 0
        return len(data)


def _failure(url: str, answer: _Answer) -> InputError:
    if answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return InputError(f"{url}: no such file; check the URL in the config")
    what = f"HTTP {answer.status}" if answer.status and answer.status not in _WANTED else answer.error
    if answer.may_heal:
        return InputError(f"{url}: cannot be fetched ({what}); run again later, what is done is kept")
    return InputError(f"{url}: cannot be fetched ({what}); check the URL and the access to it")
