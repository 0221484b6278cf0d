"""What a run tells: RUN/log.jsonl, the sinks of `log.sinks`, a line that is drawn again, a table at the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.storage.place import Place
from pipeline.terminal.console import PrintableConsole
from pipeline.terminal.live_line import LiveLine
from pipeline.terminal.step_line import clock_of
from training.config import LogConfig
from training.evaluation.metrics import Metric
from training.run.directory import write_whole
from training.run.sinks import open_sinks

__all__ = ["RunLog", "metrics_table", "show_metrics", "training_line", "write_metrics"]

_GAP = "  "


class RunLog:
    """The log of one run; a resumed run continues it from its checkpoint, dropping what came after."""

    def __init__(
        self,
        directory: Path,
        *,
        config: LogConfig,
        resumed_at: int,
        total_samples: int,
        console: Console | None = None,
        name: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """`resumed_at`: samples seen at the checkpoint that the run goes on from. `name`, `settings`: for the sinks.

        Raises OutputError.
        """
        self.console = console or PrintableConsole(stderr=True)
        self._sinks = open_sinks(
            directory, config, resumed_at=resumed_at, name=name or directory.name, settings=settings or {}
        )
        self._path = directory / "log.jsonl"
        if self._path.is_file():
            lines = [line for line in self._path.read_text(encoding="utf-8").splitlines() if _seen(line) <= resumed_at]
            write_whole(self._path, "".join(line + "\n" for line in lines if _seen(line) > 0).encode())
        self._file = self._path.open("a", encoding="utf-8")
        self._total = total_samples
        self._seen = resumed_at
        self._began = time.monotonic()
        self._paced: tuple[float, int] | None = None
        """When the first figures came, and the samples that were seen then: what is before is no pace."""
        self._left_s: float | None = None
        self._facts: dict[str, float] = {}
        self._live = LiveLine(self.console)

    def __enter__(self) -> RunLog:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)
        self._file.close()
        for sink in self._sinks:
            sink.close()

    def advance(self, samples_seen: int) -> None:
        """So many have been seen; drawn now and then."""
        self._seen = samples_seen
        if self._live.is_drawn:
            self._live.show(self._line)

    def step(self, samples_seen: int, facts: dict[str, float]) -> None:
        """Write figures of the last steps."""
        now, self._seen, self._facts = time.monotonic(), samples_seen, facts
        is_first = self._paced is None
        if self._paced is None:
            self._paced = now, samples_seen
        elif samples_seen > self._paced[1]:
            since, before = self._paced
            self._left_s = (self._total - samples_seen) * (now - since) / (samples_seen - before)
        self._write({"samples_seen": samples_seen, **facts, "left_s": self._left_s})
        self._live.show(self._line, at_once=is_first or samples_seen >= self._total)  # the last one stays
        self._scalars("train", samples_seen, facts)

    def _line(self) -> str:
        width = self.console.width if self._live.is_drawn else max(self.console.width, 120)
        elapsed_s = time.monotonic() - self._began
        return training_line(self._seen, self._total, self._facts, width, elapsed_s=elapsed_s, left_s=self._left_s)

    def metrics(self, samples_seen: int, metrics: Sequence[Metric]) -> None:
        """Write an evaluation."""
        facts = {metric.name: metric.value for metric in metrics}
        self._write({"samples_seen": samples_seen, **facts})
        self._scalars("evaluation", samples_seen, facts)
        shown = "  ".join(f"{m.name} {m.value:.1%}" for m in metrics if m.name.endswith(("class", "at_1")))
        self.console.print(f"{samples_seen:>12,} samples  {shown}", highlight=False)

    def warn(self, text: str) -> None:
        """One line for the user."""
        self.console.print(f"warning: {text}", style="yellow", highlight=False)

    def _write(self, facts: Mapping[str, float | None]) -> None:
        self._file.write(json.dumps(facts) + "\n")
        self._file.flush()

    def _scalars(self, group: str, samples_seen: int, facts: dict[str, float]) -> None:
        for sink in self._sinks:
            sink.scalars(group, samples_seen, facts)


def training_line(
    seen: int, total: int, facts: Mapping[str, float], width: int, *, elapsed_s: float, left_s: float | None
) -> str:
    """How far the training is, at most `width` characters: what matters least goes first. `facts` as in the log, none
    before the first."""
    left = f"{clock_of(left_s)} left" if left_s is not None else ""
    parts = {
        "what": "training",
        "seen": f"{seen:,}/{total:,}",
        "share": f"{seen / max(total, 1):.1%}",
        "loss": f"loss {facts['loss']:.3f}" if facts else "",
        "rate": f"{facts['samples_per_s']:,.0f} samples/s" if facts else "",
        "wait": f"data wait {facts['data_wait_share']:.1%}" if facts else "",
        "elapsed": clock_of(elapsed_s),
        "left": left,
    }
    line = _GAP.join(part for part in parts.values() if part)
    for dropped in ("share", "what", "wait", "elapsed", "rate", "left"):
        if len(line) <= width:
            break
        del parts[dropped]
        line = _GAP.join(part for part in parts.values() if part)
    return line[:width]


def metrics_table(metrics: Sequence[Metric], *, title: str) -> Table:
    """Each metric beside what guessing scores."""
    table = Table(title=title)
    table.add_column("metric")
    table.add_column("result", justify="right")
    table.add_column("chance", justify="right")
    for metric in metrics:
        table.add_row(metric.name.replace("_", " "), f"{metric.value:.2%}", f"{metric.chance:.2%}")
    return table


def write_metrics(path: Place, metrics: Sequence[Metric], *, samples_seen: int, model: str) -> None:
    """RUN/metrics.json, written whole."""
    content = {
        "model": model,
        "samples_seen": samples_seen,
        "metrics": {m.name: {"value": m.value, "chance": m.chance} for m in metrics},
    }
    write_whole(path, f"{json.dumps(content, indent=2)}\n".encode())


def show_metrics(metrics: Sequence[Metric], *, title: str) -> None:
    """Print the table to standard output."""
    PrintableConsole(file=sys.stdout).print(metrics_table(metrics, title=title))


def _seen(line: str) -> int:
    try:
        return int(json.loads(line)["samples_seen"])
    except (ValueError, KeyError, TypeError):
        return -1  # a line cut short by a kill
