"""What a run shows while it runs, and who else is told: a line drawn again on a terminal, plain lines elsewhere.

    engine --> StepWatch --now, once a second--> the line;  every 30 s a plain line;  listeners (log, metrics)

A thread looks; the run itself waits for none of it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.terminal.step_line import end_line, step_line, stuck_line
from pipeline.watching import Now, StepWatch

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Listener", "Progress"]

_LOOK_EVERY_S = 1.0
_PLAIN_EVERY_S = 30.0
_STUCK_SHOWN = 3
_STOP_S = 10.0
"""How long the end of a run waits for a listener that hangs."""


class Listener(Protocol):
    """Who is told what happens: a log, a file of metrics. Slow ones are slow in `tick` alone."""

    def tell(self, event: str, about: Mapping[str, Any]) -> None:
        """Something happened. From any thread."""

    def tick(self, now: Now | None) -> None:
        """A second has passed; None where no step runs. Always from the same thread."""


class Progress:
    """Shows how far a run is. `quiet` shows nothing (tests, Python); listeners are told all the same."""

    def __init__(self, console: Console | None = None, *, quiet: bool | None = None) -> None:
        from pipeline.terminal.console import PrintableConsole

        self.console = console or PrintableConsole(stderr=True)
        self.quiet = console is None if quiet is None else quiet
        self._listeners: list[Listener] = []
        self._watch: StepWatch | None = None
        self._live: Any = None
        self._looking = threading.RLock()
        self._over: threading.Event | None = None
        self._plain_at = 0.0
        self._stuck: set[str] = set()

    @property
    def is_watched(self) -> bool:
        """Whether anybody is shown or told what runs."""
        return not self.quiet or bool(self._listeners)

    def say(self, line: str) -> None:
        """Print a line for people, unless quiet."""
        self.tell("said", {"text": line})
        self._print(line)

    def tell(self, event: str, about: Mapping[str, Any]) -> None:
        """Tell the listeners."""
        for listener in self._listeners:
            with contextlib.suppress(Exception):  # as in the thread: who listens ends nothing
                listener.tell(event, about)

    @contextmanager
    def listened_to(self, *listeners: Listener) -> Iterator[None]:
        """These are told what happens in the block."""
        self._listeners += listeners
        try:
            with self._looked_at():
                yield
        finally:
            for listener in listeners:
                self._listeners.remove(listener)

    @contextmanager
    def step(self, name: str, title: str, *, tasks: int, skipped: int) -> Iterator[StepWatch]:
        """A step of so many tasks, `skipped` of them done before; what runs is told to the result."""
        watch = StepWatch(step=name, title=title, tasks=tasks, skipped=skipped)
        if not self.is_watched:
            yield watch
            return
        self.tell("step_start", {"step": name, "title": title, "tasks": tasks, "skipped": skipped})
        with self._drawn(), self._looked_at():
            with self._looking:
                self._watch, self._plain_at = watch, time.monotonic() + _PLAIN_EVERY_S
                self._stuck.clear()
            try:
                yield watch
            finally:
                with self._looking:
                    self._watch = None
        now = self._look_at(watch).at_end()
        self.tell("step_end", now.plain())
        self._print(end_line(now, self.console.width))

    # --- the thread that looks -------------------------------------------------------------------

    @contextmanager
    def _looked_at(self) -> Iterator[None]:
        """The thread runs for the block, whoever else asks for it within."""
        if self._over is not None:
            yield
            return
        self._over = over = threading.Event()
        thread = threading.Thread(target=self._look_always, args=(over,), daemon=True, name="progress")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=_STOP_S)
            self._over = None

    def _look_always(self, over: threading.Event) -> None:
        while not over.wait(_LOOK_EVERY_S):
            now = None
            with contextlib.suppress(Exception), self._looking:  # what is shown must never end what is done
                if self._watch is not None:
                    now = self._look_at(self._watch)
                    self._draw(now)
            for listener in list(self._listeners):
                with contextlib.suppress(Exception):
                    listener.tick(now)

    def _look_at(self, watch: StepWatch) -> Now:
        if watch.look is not None:
            watch.look()
        now = watch.now()
        for task, why in watch.take_retries():
            self.tell("task_retried", {"step": watch.step, "task": task, "why": why})
            self._print(f"{watch.title}: {task} began again: {why}")
        self._name_stuck(now)
        return now

    def _name_stuck(self, now: Now) -> None:
        """Once a task, and again when it has moved meanwhile."""
        for task in now.stuck:
            if task.task not in self._stuck:
                self.tell("task_stuck", {"step": now.step, **task.plain()})
                self._print(f"{now.title}: {stuck_line(task, 80)}")
        self._stuck = {task.task for task in now.stuck}

    # --- what is shown ---------------------------------------------------------------------------

    @contextmanager
    def _drawn(self) -> Iterator[None]:
        if self.quiet or not self.console.is_terminal:
            yield
            return
        from rich.live import Live

        with Live(console=self.console, auto_refresh=False, transient=True) as self._live:
            try:
                yield
            finally:
                with self._looking:
                    self._live = None

    def _draw(self, now: Now) -> None:
        if self.quiet:
            return
        if self._live is not None:
            from rich.text import Text

            width = self.console.width
            lines = [step_line(now, width, pad=True)]
            lines += [f"  {stuck_line(task, 80)}"[:width] for task in now.stuck[:_STUCK_SHOWN]]
            self._live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)
        elif time.monotonic() >= self._plain_at:
            self._plain_at = time.monotonic() + _PLAIN_EVERY_S
            self._print(f"  {step_line(now, max(self.console.width, 120))}")

    def _print(self, line: str) -> None:
        if not self.quiet:
            self.console.print(line, soft_wrap=True, markup=False, highlight=False)
