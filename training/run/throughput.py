"""Means over the steps since the last log line, and how long they waited for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Window"]


class Window:
    """What happened since `take` was last called."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._wait_s = 0.0
        self._loss: list[float] = []
        self._norm: list[float] = []
        self._samples = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        begun = time.perf_counter()
        yield
        self._wait_s += time.perf_counter() - begun

    def add(self, *, loss: float, norm: float, samples: int) -> None:
        """One step."""
        self._loss.append(loss)
        self._norm.append(norm)
        self._samples += samples

    def take(self) -> dict[str, float]:
        """The means, for the log; the next window begins."""
        now = time.perf_counter()
        elapsed = max(now - self._start, 1e-9)
        facts = {
            "loss": _mean(self._loss),
            "gradient_norm": _mean(self._norm),
            "samples_per_s": self._samples / elapsed,
            "data_wait_share": self._wait_s / elapsed,
        }
        self._start, self._wait_s, self._loss, self._norm, self._samples = now, 0.0, [], [], 0
        return facts


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
