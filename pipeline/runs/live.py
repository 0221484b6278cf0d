"""What `status` says of the run that began last, from its log (`last_run.py`): whether it lives, and what it is at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pipeline.runs.last_run import LastRun
from pipeline.terminal.step_line import clock_of, step_line, stuck_line, task_line
from pipeline.watching import Counts, Now, TaskNow

__all__ = ["lines_of"]

_SLOWEST = 3
_LIST_SLOW_FROM_S = 60.0


def lines_of(last: LastRun, width: int) -> list[str]:
    """Lines for people, of a running step as wide as there is room."""
    start, heard = last.start, last.heard
    run = f"run {start.get('run')}"
    who = f"process {start.get('process')} on {start.get('host')}"
    if last.end is not None:
        error = f": {last.end['error']}" if last.end.get("error") else ""
        took = clock_of(float(last.end.get("seconds", 0)))
        return [f"{run}: {last.end.get('status')} at {_clock(heard)} after {took}{error}"]
    if last.lives is False:
        return [f"{run}: {who} is gone, and was last heard of at {_clock(heard)} (killed?); run again to go on"]
    since = f"since {_clock(start)}, last heard of {clock_of(last.age_s)} ago"
    lines = [f"{run}: {who} runs {since}"]
    if last.lives is None:
        lines = [f"{run}: {who} has not been heard of for {clock_of(last.age_s)}; it may be gone"]
    if last.progress is not None:
        now = _now_of(last.progress)
        lines.append(f"  {step_line(now, width - 2)}")
        slow = [task for task in now.slowest if task.seconds >= _LIST_SLOW_FROM_S]
        lines += [f"  slow: {task_line(task, width)}" for task in slow[:_SLOWEST] if task not in now.stuck]
        lines += [f"  {stuck_line(task, width)}" for task in now.stuck]
    elif last.step is not None:
        lines.append(f"  {last.step.get('title')}: begun")
    else:
        lines.append("  between two steps: looking at what there is to do")
    return lines


def _clock(event: Mapping[str, Any]) -> str:
    return f"{datetime.fromisoformat(str(event['at'])):%Y-%m-%d %H:%M:%S} UTC"


def _now_of(plain: Mapping[str, Any]) -> Now:
    """`Now.plain` undone; what an earlier version did not write is as if nobody knew."""
    counts = Counts(
        unit=plain.get("unit") or "",
        done=int(plain.get("units", 0)),
        kept=int(plain.get("kept") or 0),
        kept_as=plain.get("kept_as") or "",
        num_bytes=int(plain.get("bytes", 0)),
    )
    return Now(
        step=str(plain.get("step")),
        title=str(plain.get("title")),
        tasks=int(plain.get("tasks", 0)),
        done=int(plain.get("done", 0)),
        skipped=int(plain.get("skipped", 0)),
        running=int(plain.get("running", 0)),
        rows=int(plain.get("rows", 0)),
        seconds=float(plain.get("seconds", 0)),
        counts=counts,
        units_per_s=plain.get("units_per_s"),
        bytes_per_s=plain.get("bytes_per_s"),
        left_s=plain.get("left_s"),
        slowest=_tasks_of(plain.get("slowest", ())),
        stuck=_tasks_of(plain.get("stuck", ())),
        retried=int(plain.get("retried", 0)),
    )


def _tasks_of(plain: Sequence[Mapping[str, Any]]) -> list[TaskNow]:
    return [
        TaskNow(
            task=str(each["task"]),
            key=str(each["key"]),
            subject=str(each["subject"]),
            node=str(each["node"]),
            process=int(each["process"]),
            seconds=float(each["seconds"]),
            quiet_s=float(each["quiet_s"]),
            counts=Counts(unit=each["unit"], done=int(each["units"]), total=int(each["units_total"] or 0)),
        )
        for each in plain
    ]
