"""What runs, as a file of Prometheus metrics, for node_exporter's textfile collector, or anything that serves files.

    Progress --tell, tick--> MetricsFile --every 15 s, written whole--> PATH

The text format is Prometheus' exposition format 0.0.4. docs/watching.md lists the metrics.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from configs.load import ConfigError
from pipeline.errors import OutputError
from pipeline.storage.atomic import write_bytes
from pipeline.watching import Now

__all__ = ["MetricsFile"]

_EVERY_S = 15.0


class _Metric(NamedTuple):
    kind: str
    says: str


_METRICS = {
    "openwit_running": _Metric("gauge", "1 while the run lives, 0 once it has ended."),
    "openwit_last_written_seconds": _Metric("gauge", "When this was written, in seconds since 1970."),
    "openwit_step_tasks": _Metric("gauge", "Tasks of the step."),
    "openwit_step_tasks_done": _Metric("gauge", "Tasks that are done, those of earlier runs too."),
    "openwit_step_tasks_running": _Metric("gauge", "Tasks that are known to run."),
    "openwit_step_tasks_stuck": _Metric("gauge", "Tasks that have counted nothing for too long."),
    "openwit_step_tasks_retried_total": _Metric("counter", "Tasks that began again after their process died."),
    "openwit_step_units_total": _Metric("counter", "What the tasks of this run have counted, by unit."),
    "openwit_step_kept_total": _Metric("counter", "Of these what was kept, or arrived."),
    "openwit_step_bytes_total": _Metric("counter", "Bytes that came in."),
    "openwit_step_seconds": _Metric("gauge", "Since the step began."),
    "openwit_step_left_seconds": _Metric("gauge", "That it will still take; absent where that cannot be told."),
}


class MetricsFile:
    """Writes PATH while the run lives, and once more at its end. A listener of `Progress`."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where the file cannot be written."""
        self._path = path
        self._due = 0.0
        self._last: Now | None = None
        try:
            self._write(running=True)
        except OutputError as error:
            raise ConfigError(f"--metrics-file: {error}") from error

    def tell(self, event: str, about: Mapping[str, Any]) -> None:
        """Events are no metrics."""

    def tick(self, now: Now | None) -> None:
        self._last = now or self._last
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _EVERY_S
            with contextlib.suppress(OutputError):  # a full disk, or a directory that is gone, ends no run
                self._write(running=True)

    def end(self) -> None:
        """The run is over."""
        with contextlib.suppress(OutputError):
            self._write(running=False)

    def _write(self, *, running: bool) -> None:
        lines: list[str] = []
        values = list(_values(self._last, running=running))
        for name, metric in _METRICS.items():
            found = [f"{name}{labels} {value:.17g}" for each, labels, value in values if each == name]
            if found:
                lines += [f"# HELP {name} {metric.says}", f"# TYPE {name} {metric.kind}", *found]
        write_bytes(self._path, "".join(line + "\n" for line in lines).encode())


def _values(now: Now | None, *, running: bool) -> Iterator[tuple[str, str, float]]:
    yield "openwit_running", "", float(running)
    yield "openwit_last_written_seconds", "", time.time()
    if now is None:
        return
    step = _labels(step=now.step)
    yield "openwit_step_tasks", step, now.tasks
    yield "openwit_step_tasks_done", step, now.done
    yield "openwit_step_tasks_running", step, now.running if running else 0
    yield "openwit_step_tasks_stuck", step, len(now.stuck) if running else 0
    yield "openwit_step_tasks_retried_total", step, now.retried
    yield "openwit_step_seconds", step, now.seconds
    if now.counts.unit:
        yield "openwit_step_units_total", _labels(step=now.step, unit=now.counts.unit), now.counts.done
    if now.counts.kept_as:
        yield "openwit_step_kept_total", step, now.counts.kept
    if now.counts.num_bytes:
        yield "openwit_step_bytes_total", step, now.counts.num_bytes
    if now.left_s is not None and running:
        yield "openwit_step_left_seconds", step, now.left_s


def _labels(**labels: str) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items()) + "}"
