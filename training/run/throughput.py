"""Means over the steps since the last log line, and how long they waited for data."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

__all__ = ["Window"]


class Window:
    """What happened since `take` was last called."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._wait_s = 0.0
        self._terms: dict[str, list[float]] = {}
        self._norm: list[float] = []
        self._samples = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        begun = time.perf_counter()
        yield
        self._wait_s += time.perf_counter() - begun

    def add(self, *, terms: Mapping[str, Tensor], norm: Tensor, samples: int) -> None:
        """One step: the terms of its loss (scalars), the length of its gradient."""
        for name, value in terms.items():
            self._terms.setdefault(name, []).append(float(value))
        self._norm.append(float(norm))
        self._samples += samples

    def take(self) -> dict[str, float]:
        """The means, for the log; the next window begins."""
        now = time.perf_counter()
        elapsed = max(now - self._start, 1e-9)
        terms = {name: _mean(values) for name, values in self._terms.items()}
        facts = {
            "loss": sum(terms.values()) if terms else math.nan,
            "gradient_norm": _mean(self._norm),
            "samples_per_s": self._samples / elapsed,
            "data_wait_share": self._wait_s / elapsed,
        }
        if len(terms) > 1:
            facts |= {f"loss_{name}": value for name, value in terms.items()}
        self._start, self._wait_s, self._terms, self._norm, self._samples = now, 0.0, {}, [], 0
        return facts


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
