"""Blocks of many WARC records in one piece, for compiled code to run over."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_BYTES", "PADDING", "Blocks", "joined"]

PADDING = b"\0" * 64
"""Behind the data: compiled code reads 64 bytes at a time, and stops at a NUL."""
MAX_BYTES = 1 << 20
"""Collect no more than that (but one record, be it larger): it stays in the processor's cache."""


class Blocks(NamedTuple):
    """The blocks of N records of one file, in its order."""

    data: bytes
    """All of them, with other things between. Behind each is a control character."""
    offsets: list[int]
    """N byte offsets of the records (of their compressed members) in the file."""
    starts: npt.NDArray[np.int64]
    """int64[N]: where each block begins in `data`."""
    ends: npt.NDArray[np.int64]
    """int64[N]: and the index behind it."""

    def block(self, i: int) -> bytes:
        """Number `i` of them alone."""
        return self.data[self.starts[i] : self.ends[i]]


def joined(offsets: list[int], blocks: list[bytes]) -> Blocks:
    """Blocks that were read one by one."""
    sizes = np.array([len(block) + 1 for block in blocks], np.int64)
    ends = np.cumsum(sizes) - 1
    return Blocks(b"\0".join([*blocks, PADDING]), offsets, ends - sizes + 1, ends)
