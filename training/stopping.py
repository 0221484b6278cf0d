"""SIGTERM and Ctrl-C: finish the step, save, end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["stop_signals"]


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals | None]]:
    """A cell that holds SIGTERM or SIGINT once it came; the second one acts as usual.

    Outside the main thread, where Python delivers no signals, it stays empty.
    """
    cell: list[signal.Signals | None] = [None]
    if threading.current_thread() is not threading.main_thread():
        yield cell
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: object) -> None:
        cell[0] = signal.Signals(number)
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, handle)
    try:
        yield cell
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
