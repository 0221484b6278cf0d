"""What the newest log (`run_log.py`) tells of its run: whether it lives, and what it was at when it was last heard."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.runs.run_log import MOST_EVERY_S, SEGMENT_BYTES, segments_in
from pipeline.storage.bucket import BucketPath
from pipeline.storage.place import Place
from pipeline.storage.scratch import is_dead, owner_record

__all__ = ["LastRun", "last_run"]

_LATE = 3.0
"""How many times the promised silence makes a run that nobody can look at one that is not known to live."""


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """What the log tells of the run that began last."""

    start: Mapping[str, Any]
    """Its `run_start`."""
    progress: Mapping[str, Any] | None
    """The last event `progress` of the step that it is at; None where there is none yet."""
    step: Mapping[str, Any] | None
    """The `step_start` of that step; None between steps."""
    heard: Mapping[str, Any]
    """Its last event."""
    end: Mapping[str, Any] | None
    """Its `run_end`."""
    age_s: float
    """Since the last event, by this machine's clock."""

    @property
    def lives(self) -> bool | None:
        """Whether it runs; None where that cannot be told: it is on another machine, and silent for longer than it
        said."""
        if self.end is not None:
            return False
        owner, mine = self.start.get("owner"), owner_record()
        if isinstance(owner, dict) and owner.get("user") == os.geteuid() and owner.get("node") == mine["node"]:
            if is_dead(owner):
                return False
            if owner.get("among") == mine["among"]:  # else of a container, whose processes are not seen here
                return True
        return True if self.age_s <= _LATE * float(self.heard.get("next_s", MOST_EVERY_S)) else None


def last_run(output: Place) -> LastRun | None:
    """What the newest log tells; None where there is none. Reads only. Raises StoreError."""
    directory = output / "log"
    segments = segments_in(directory) if directory.is_dir() else []
    if not segments:
        return None
    run = segments[-1].name.partition(".")[0]
    first = next(path for path in segments if path.name.partition(".")[0] == run)
    start = next(_events(_head(first)), None)
    if start is None or start.get("event") != "run_start":
        return None
    events = list(_events(_tail(segments[-1]))) or [start]
    step, progress = None, None
    for event in events:
        if event["event"] in ("step_start", "step_end"):
            step, progress = event if event["event"] == "step_start" else None, None
        elif event["event"] == "progress":
            progress = event
    if progress is not None and step is None:
        step = {name: progress[name] for name in ("step", "title", "tasks") if name in progress}
    return LastRun(
        start=start,
        progress=progress,
        step=step,
        heard=events[-1],
        end=events[-1] if events[-1]["event"] == "run_end" else None,
        age_s=max((datetime.now(UTC) - _time_of(events[-1])).total_seconds(), 0.0),
    )


def _time_of(event: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(str(event["at"]))


def _head(path: Place) -> bytes:
    if isinstance(path, BucketPath):
        return path.read_bytes()
    with path.open("rb") as file:
        return file.read(SEGMENT_BYTES)


def _tail(path: Place) -> bytes:
    if isinstance(path, BucketPath):
        return path.read_bytes()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - SEGMENT_BYTES, 0))
        return file.read()


def _events(data: bytes) -> Iterator[dict[str, Any]]:
    """Of whole lines; those that a kill tore, or that begin before `data`, are passed over."""
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and {"at", "event"} <= event.keys():
                yield event
