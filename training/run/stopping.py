"""SIGTERM and Ctrl-C: finish the step, save, end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.place import Place

__all__ = ["Stop", "stop_file", "stop_signals"]

_LOOK_EVERY_S = 0.5
_ASK_EVERY_S = 3.0
"""The same of a bucket, where each look is a request."""


@dataclass
class Stop:
    """Whether this process was told to stop."""

    signal: signal.Signals | None = None
    """By what; None until then."""


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Told by SIGTERM or SIGINT to this process; the second one acts as usual.

    Outside the main thread, where Python delivers no signals, it is never told.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: object) -> None:
        stop.signal = signal.Signals(number)
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def stop_file(path: Place) -> Iterator[Stop]:
    """Told by the number of a signal in the file `path`: for a process that no signal reaches."""
    stop = Stop()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            with suppress(OSError, ValueError):  # not there, or not whole yet
                stop.signal = signal.Signals(int(path.read_text()))
                return
            over.wait(_LOOK_EVERY_S if isinstance(path, Path) else _ASK_EVERY_S)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        over.set()
        thread.join()
