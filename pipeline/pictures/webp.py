"""WebP: where the first frame of an animation lies on its canvas."""

from __future__ import annotations

__all__ = ["first_frame"]


def first_frame(body: bytes) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of the first frame, by its ANMF chunk (RFC 9649, section 2.7.1); None for stills."""
    position = 12
    while position + 24 <= len(body):
        kind, length = body[position : position + 4], int.from_bytes(body[position + 4 : position + 8], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return None
        if kind == b"ANMF":
            x, y, w, h = (int.from_bytes(body[i : i + 3], "little") for i in range(position + 8, position + 20, 3))
            return 2 * x, 2 * y, 2 * x + w + 1, 2 * y + h + 1
        position += 8 + length + length % 2
    return None
