"""What a run tells: RUN/log.jsonl, TensorBoard in RUN/tensorboard, a progress bar, a table at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipeline.storage.place import Place
from pipeline.terminal.console import PrintableConsole
from training.config import LogConfig
from training.evaluation.metrics import Metric
from training.run.directory import write_whole

__all__ = ["RunLog", "metrics_table", "show_metrics", "write_metrics"]


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
    ) -> None:
        """`resumed_at`: samples seen at the checkpoint that the run goes on from."""
        self.console = console or PrintableConsole(stderr=True)
        self._path = directory / "log.jsonl"
        if self._path.is_file():
            lines = [line for line in self._path.read_text(encoding="utf-8").splitlines() if _seen(line) <= resumed_at]
            write_whole(self._path, "".join(line + "\n" for line in lines if _seen(line) > 0).encode())
        self._file = self._path.open("a", encoding="utf-8")
        self._board: Any = None
        if config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional

            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=resumed_at + 1)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=False,
        )
        self._task = self._bar.add_task("", total=total_samples, completed=resumed_at, facts="")

    def __enter__(self) -> RunLog:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def advance(self, samples_seen: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=samples_seen)

    def step(self, samples_seen: int, facts: dict[str, float]) -> None:
        """Write figures of the last steps."""
        self._write({"samples_seen": samples_seen, **facts})
        shown = (
            f"loss {facts['loss']:.3f}  {facts['samples_per_s']:.0f} samples/s  "
            f"data wait {facts['data_wait_share']:.1%}"
        )
        self._bar.update(self._task, completed=samples_seen, facts=shown)
        if not self.console.is_terminal:
            self.console.print(f"{samples_seen:>12,} samples  {shown}", highlight=False)
        self._scalars("train", samples_seen, facts)

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

    def _write(self, facts: dict[str, float]) -> None:
        self._file.write(json.dumps(facts) + "\n")
        self._file.flush()

    def _scalars(self, group: str, samples_seen: int, facts: dict[str, float]) -> None:
        if self._board is not None:
            for name, value in facts.items():
                self._board.add_scalar(f"{group}/{name}", value, samples_seen)


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
