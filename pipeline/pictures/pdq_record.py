"""The PDQ of a picture, as it is handed on; `pdq.py` takes it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NUM_BYTES", "Pdq"]

NUM_BYTES = 32
"""Of a hash."""


@dataclass(frozen=True, kw_only=True)
class Pdq:
    """The hashes of a picture."""

    hashes: bytes
    """Eight of 32 bytes: of the picture as it lies, and turned and mirrored in the seven other ways. Each as its hex
    form is written."""
    quality: int
    """0 to 100; a picture without much in it is like too many others. The document advises 50 at least."""
