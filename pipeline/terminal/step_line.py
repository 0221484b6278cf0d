"""A running step in one line, as wide as there is room.

    fetch and check images  3/12  412 URLs/s  31.2 MB/s  92% ok  0:03:05  0:12:40 left

In less room the title is cut, then what matters least goes: bytes, rate, success. Tasks and times stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.watching import Now, TaskNow

__all__ = ["clock_of", "end_line", "plural", "step_line", "stuck_line", "task_line"]

_LEAST_TITLE = 16
_GAP = "  "


def clock_of(seconds: float) -> str:
    """`0:00:07`, or with days `2 d 03:15:00`."""
    whole = int(seconds)
    days, rest = divmod(whole, 86_400)
    hours, minutes = divmod(rest // 60, 60)
    if days:
        return f"{days} d {hours:02}:{minutes:02}:{rest % 60:02}"
    return f"{hours}:{minutes:02}:{rest % 60:02}"


def plural(unit: str) -> str:
    """Of a word that is counted."""
    return f"{unit}s"


def step_line(now: Now, width: int, *, pad: bool = False) -> str:
    """The line, at most `width` characters; `pad` keeps the columns of a line that is drawn again in place."""
    left = f"{clock_of(now.left_s)} left" if now.left_s is not None else ""
    parts = {
        "tasks": f"{now.done:,}/{now.tasks:,}",
        "rate": _rate(now),
        "bytes": _bytes_a_second(now.bytes_per_s) if now.bytes_per_s else "",
        "kept": f"{now.kept_share:.0%} {now.counts.kept_as}" if now.kept_share is not None else "",
        "elapsed": clock_of(now.seconds),
        "left": left,
        "running": f"{now.running:,} running" if now.running > 1 else "",
    }
    title = now.title
    for dropped in ("", "running", "bytes", "rate", "kept", "left"):
        parts.pop(dropped, None)
        rest = _GAP.join(part for part in parts.values() if part)
        room = width - len(rest) - len(_GAP)
        if room >= min(len(title), _LEAST_TITLE):
            break
    return f"{_cut(title, room) if not pad else _cut(title, room).ljust(min(room, 24))}{_GAP}{rest}"[:width]


def _rate(now: Now) -> str:
    if not now.units_per_s:
        return ""
    shown = f"{now.units_per_s:,.0f}" if now.units_per_s >= 10 else f"{now.units_per_s:.1f}"
    return f"{shown} {plural(now.counts.unit)}/s"


def task_line(task: TaskNow, width: int) -> str:
    """A task that runs: its name, what it works on, how far it is, how long it has run."""
    counts = task.counts
    far = ""
    if counts.unit and counts.done:
        of = f" of {counts.total:,}" if counts.total else ""
        far = f", {counts.done:,}{of} {plural(counts.unit)}"
    where = f" ({_cut(task.subject, max(width // 2, 20))})" if task.subject else ""
    return f"{task.task}{where}{far}, {clock_of(task.seconds)}"


def stuck_line(task: TaskNow, width: int) -> str:
    """A task that is stuck: as `task_line`, for how long, and where to look for it."""
    silent = f"nothing for {clock_of(task.quiet_s)}"
    return f"stuck: {task_line(task, width)}, {silent} (key {task.key[:12]}, process {task.process} on {task.node})"


def end_line(now: Now, width: int) -> str:
    """A step that is done: tasks and seconds one below the other, then as much as there is room for."""
    ran, counts = now.done - now.skipped, now.counts
    noun = "task" if ran == 1 else "tasks"
    line = f"  {_cut(now.title, 32):<32} {ran:>6,} {noun:<5} {now.seconds:>8,.1f} s"
    rows = f"{now.rows:,} rows" if now.rows else ""
    more: Sequence[str] = [
        f"{counts.done:,} {plural(counts.unit)}" if counts.kept_as else rows,
        f"{now.kept_share:.0%} {counts.kept_as}" if now.kept_share is not None else "",
        f"{now.skipped:,} already done" if now.skipped else "",
        _rate(now),
        _bytes_a_second(now.bytes_per_s) if now.bytes_per_s else "",
    ]
    for part in more:
        if part and len(line) + len(part) + len(_GAP) <= width:
            line += _GAP + part
    return line


def _bytes_a_second(rate: float) -> str:
    return f"{rate / 1e6:,.1f} MB/s" if rate >= 1e5 else f"{rate / 1e3:,.0f} kB/s"


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: max(room - 1, 0)]}…"
