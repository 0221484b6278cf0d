"""The log of a run, for programs: OUT/log/RUN.NNN.jsonl, a line an event, from its first task to its end.

    Progress --tell, tick--> RunLog --> a line        on a disk at once; a torn last line, of a kill, is read over
                                    --> 256 KB of them in a bucket now and then, where nothing can be appended

docs/watching.md has the fields. A run that has nothing to do leaves no log. What cannot be written is not: a log never
ends a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pipeline.errors import EmptyError
from pipeline.runs.metrics import MetricsFile
from pipeline.storage.bucket import BucketPath
from pipeline.storage.place import Place
from pipeline.storage.scratch import owner_record
from pipeline.terminal.progress import Progress
from pipeline.watching import Now

__all__ = ["LOG_FORMAT", "MOST_EVERY_S", "SEGMENT_BYTES", "RunLog", "logged", "segments_in"]

LOG_FORMAT = 1
"""Rises when a field changes its meaning; new fields and events do not raise it."""
_KEPT_RUNS = 20
_LEAST_EVERY_S, MOST_EVERY_S = 10.0, 60.0
"""Between two events `progress`: a hundredth of the time that the run has taken, within these."""
_FIRST_S = 2.0
"""From a step's start to its first event `progress`."""
_PUT_EVERY_S = 60.0
SEGMENT_BYTES = 1 << 18
"""Of an object of the log in a bucket."""
_SHOWN_STUCK = 20
_OPENING = ("step_start", "said", "run_end")
"""Events that a log begins with: planning is none."""
_USER_INFO = re.compile(r"(?<=://)[^/\s@]*@")
_QUERY = re.compile(r"(://[^\s?#]*)\?[^\s;,)'\"]*")


@contextmanager
def logged(
    progress: Progress, output: Place, about: Mapping[str, Any], metrics_file: Path | None = None
) -> Iterator[None]:
    """The run in the block is written down as `progress` is told of it; `about` goes into the first line. Raises
    ConfigError where the `metrics_file` that is asked for cannot be written."""
    log = RunLog(output, about)
    metrics = [] if metrics_file is None else [MetricsFile(metrics_file)]
    with progress.listened_to(log, *metrics):
        try:
            yield
        except BaseException as error:
            log.end(_status_of(error), error)
            raise
        else:
            log.end("finished", None)
        finally:
            for each in metrics:
                each.end()


def _status_of(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    return "empty" if isinstance(error, EmptyError) else "failed"


class RunLog:
    """Writes what it is told of one run. A listener of `Progress`."""

    def __init__(self, output: Place, about: Mapping[str, Any]) -> None:
        """`about` the run goes into its first line."""
        self._directory = output / "log"
        self._about = dict(about)
        self._began = self._due = time.monotonic()
        self._run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
        self._to: _Lines | None = None
        self._lock = threading.RLock()
        self._off = False

    def tell(self, event: str, about: Mapping[str, Any]) -> None:
        with self._lock:
            if self._to is None and event in _OPENING and not self._off:
                self._open()
            if event == "step_start":
                self._due = time.monotonic() + _FIRST_S
            self._write(event, about)

    def tick(self, now: Now | None) -> None:
        since = time.monotonic() - self._began
        every_s = min(max(since / 100, _LEAST_EVERY_S), MOST_EVERY_S)
        if self._to is None:
            return
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + every_s
            promise = {"next_s": max(every_s, self._to.every_s)}
            if now is None:
                self.tell("planning", promise)
            else:
                tasks = {"slowest": now.slowest, "stuck": now.stuck[:_SHOWN_STUCK]}
                running = {name: [task.plain() for task in some] for name, some in tasks.items()}
                self.tell("progress", {**now.plain(), **running, "num_stuck": len(now.stuck), **promise})
        with contextlib.suppress(OSError):
            self._to.flush(is_end=False)

    def end(self, status: str, error: BaseException | None) -> None:
        """The run's last event; `status` as in runs.jsonl. A run that did nothing, and had nothing to do, has none."""
        told = str(error) or type(error).__name__ if error is not None else None
        if self._to is not None or status != "finished":
            self.tell("run_end", {"status": status, "error": told, "seconds": round(time.monotonic() - self._began, 1)})
        if self._to is not None:
            with contextlib.suppress(OSError):
                self._to.flush(is_end=True)
            self._to.close()

    def _open(self) -> None:
        try:
            self._to = (
                _InBucket(self._directory, self._run)
                if isinstance(self._directory, BucketPath)
                else _OnDisk(self._directory, self._run)
            )
            _remove_old(self._directory)
        except OSError:
            self._to, self._off = None, True
            return
        said = {"format": LOG_FORMAT, "run": self._run, **self._about}
        self._write("run_start", {**said, "owner": owner_record() | {"user": os.geteuid()}})

    def _write(self, event: str, about: Mapping[str, Any]) -> None:
        if self._to is None:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"at": at, "event": event, **_clean(dict(about))}, ensure_ascii=False)
        try:
            self._to.add(line)
        except OSError:
            self._to, self._off = None, True


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _without_secrets(value)
    if isinstance(value, dict):
        return {name: _clean(each) for name, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, list) else value


def _without_secrets(text: str) -> str:
    """The text, its URLs without user info and query, where keys and signatures stand."""
    return _QUERY.sub(r"\1?...", _USER_INFO.sub("", text))


# --- where the lines go ---------------------------------------------------------------------------


class _OnDisk:
    every_s = 0.0

    def __init__(self, directory: Path, run: str) -> None:
        directory.mkdir(exist_ok=True)
        self._file: TextIO = (directory / f"{run}.000.jsonl").open("a", encoding="utf-8")

    def add(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()

    def flush(self, *, is_end: bool) -> None:
        """Every line is there already."""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


class _InBucket:
    """The last segment is put anew as it grows; when it is full another is begun."""

    every_s = _PUT_EVERY_S

    def __init__(self, directory: BucketPath, run: str) -> None:
        self._directory, self._run = directory, run
        self._number = 0
        self._lines: list[str] = []
        self._num_bytes = self._num_put = 0
        self._put_at = 0.0
        self._failed = False
        self._adding, self._putting = threading.Lock(), threading.Lock()

    def add(self, line: str) -> None:
        with self._adding:
            self._lines.append(line)

    def flush(self, *, is_end: bool) -> None:
        if not is_end and time.monotonic() - self._put_at < _PUT_EVERY_S:
            return
        if is_end and self._failed:
            return  # the store that did not answer will not be waited for
        with self._putting:
            with self._adding:
                lines = list(self._lines)
            if len(lines) == self._num_put:
                return
            data = "".join(line + "\n" for line in lines).encode()
            self._put_at, self._failed = time.monotonic(), True
            (self._directory / f"{self._run}.{self._number:03d}.jsonl").put(data)
            self._failed, self._num_put = False, len(lines)
            if len(data) >= SEGMENT_BYTES:
                with self._adding:
                    self._lines = self._lines[len(lines) :]
                self._number, self._num_put = self._number + 1, 0

    def close(self) -> None:
        """Nothing is open."""


_Lines = _OnDisk | _InBucket


def segments_in(directory: Place) -> list[Place]:
    """The files of all logs, in order of time."""
    return sorted(directory.glob("*.jsonl"), key=lambda path: path.name)


def _remove_old(directory: Place) -> None:
    """Logs of runs before the last ones."""
    segments = segments_in(directory)
    runs = sorted({path.name.partition(".")[0] for path in segments})
    for path in segments:
        if path.name.partition(".")[0] in runs[:-_KEPT_RUNS]:
            path.unlink(missing_ok=True)
