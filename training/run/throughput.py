"""What became of the steps: means since the last log line, how long they waited for data, which were skipped.

On a GPU a step's numbers are read while the next one runs: a host that asked at once would wait for the step that it
has just queued, and the GPU then for the host. So it runs one step ahead, and no further.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from training.errors import NonFiniteError

__all__ = ["Window"]


class Window:
    """What happened since `take` was last called, and how many steps were skipped."""

    def __init__(self, *, max_skipped_in_a_row: int) -> None:
        """`max_skipped_in_a_row`: with more, a run ends."""
        self._most = max_skipped_in_a_row
        self._in_a_row = 0
        self._skipped = 0
        self._unread: deque[_Step] = deque()
        self._begin()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        begun = time.perf_counter()
        yield
        self._wait_s += time.perf_counter() - begun

    def add(self, *, terms: Mapping[str, Tensor], norm: Tensor, is_finite: Tensor, name: str, samples: int) -> None:
        """The step `name`: the terms of its loss (scalars), the length of its gradient, and whether it was taken.
        Raises NonFiniteError, on a GPU for the step before."""
        self._samples += samples
        self._unread.append(_Step(terms, norm, is_finite, name))
        self._read(leave=1 if norm.device.type == "cuda" else 0)

    def num_skipped(self) -> int:
        """Steps skipped since this was last asked; waits for the last one. Raises NonFiniteError."""
        self._read(leave=0)
        skipped, self._skipped = self._skipped, 0
        return skipped

    def take(self) -> dict[str, float]:
        """The means, for the log; the next window begins. Waits for the last step. Raises NonFiniteError."""
        self._read(leave=0)
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        terms = {name: _mean(values) for name, values in self._terms.items()}
        facts = {
            "loss": sum(terms.values()) if terms else math.nan,
            "gradient_norm": _mean(self._norm),
            "samples_per_s": self._samples / elapsed,
            "data_wait_share": self._wait_s / elapsed,
        }
        if len(terms) > 1:
            facts |= {f"loss_{name}": value for name, value in terms.items()}
        self._begin()
        return facts

    def _begin(self) -> None:
        self._start = time.perf_counter()
        self._wait_s = 0.0
        self._terms: dict[str, list[float]] = {}
        self._norm: list[float] = []
        self._samples = 0

    def _read(self, *, leave: int) -> None:
        """All steps but the last `leave`."""
        while len(self._unread) > leave:
            step = self._unread.popleft()
            *terms, norm, is_finite = step.read()
            for name, value in zip(step.terms, terms, strict=True):
                self._terms.setdefault(name, []).append(value)
            self._norm.append(norm)
            self._in_a_row = 0 if is_finite else self._in_a_row + 1
            self._skipped += not is_finite
            if self._in_a_row > self._most:
                raise NonFiniteError(
                    f"{step.name}: loss {sum(terms)}, gradient norm {norm}; "
                    "lower optimiser.learning_rate or set --precision fp32, "
                    "then run again from the last checkpoint"
                )


class _Step:
    """Numbers on their way to the host."""

    def __init__(self, terms: Mapping[str, Tensor], norm: Tensor, is_finite: Tensor, name: str) -> None:
        self.terms, self.name = tuple(terms), name
        values = torch.stack([value.double() for value in (*terms.values(), norm, is_finite)])
        self._event: Any = None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.current_stream(values.device).record_event()
        else:
            self._values = values

    def read(self) -> list[float]:
        """Terms, norm, whether it was taken."""
        if self._event is not None:
            self._event.synchronize()
        return list(self._values.tolist())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
