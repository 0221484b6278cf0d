"""GIF: its first frame alone, before Pillow sees it.

Pillow fills what a frame leaves open with entry 0 of the palette, or with the transparent one. So a frame is
handed to it with a fill of ours, which shows what the frame did not write.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Gif", "read_gif"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gif:
    """The first frame of a GIF."""

    transparent: int | None
    """The palette's entry that lets the background through."""
    interlaced: bool
    head: bytes
    """Header and palette of the file."""
    frame: bytes
    """Image descriptor, palette and data of the first frame."""

    def filled_with(self, index: int) -> bytes:
        """The frame as a GIF by itself; Pillow gives pixels that it does not write this `index`."""
        return self.head + b"!\xf9\x04\x01\0\0" + bytes([index]) + b"\0" + self.frame

    def last_row(self, top: int, bottom: int) -> int:
        """The row between `top` and `bottom` that is written last (GIF 89a specification, appendix E)."""
        return bottom - 2 if self.interlaced and (bottom - top) % 2 == 1 and bottom - top > 1 else bottom - 1


def read_gif(body: bytes) -> Gif | None:
    """Walk the blocks up to the first frame's end (GIF 89a specification); None if there is no frame."""
    if len(body) < 13:
        return None
    position = 13 + _palette_bytes(body[10])
    head = body[:position]
    transparent: int | None = None
    while position < len(body):
        kind = body[position]
        if kind == 0x21 and position + 2 < len(body):  # an extension
            if body[position + 1] == 0xF9 and body[position + 2] >= 4 and position + 7 <= len(body):
                transparent = body[position + 6] if body[position + 3] & 1 else None
            end = _end_of_blocks(body, position + 2)
        elif kind == 0x2C and position + 10 <= len(body):  # a frame
            flags = body[position + 9]
            end = _end_of_blocks(body, position + 10 + _palette_bytes(flags) + 1)
            # A chain that is cut may hold all pixels nevertheless; that is for the decoder to say.
            return Gif(
                transparent=transparent, interlaced=bool(flags & 0x40), head=head, frame=body[position : end or None]
            )
        elif kind == 0x3B:
            return None
        else:
            end = position + 1  # stray bytes between blocks are passed over, as Pillow and browsers do
        if end is None:
            return None
        position = end
    return None


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _end_of_blocks(body: bytes, position: int) -> int | None:
    """Where the chain of sub-blocks at `position` ends; None if the file ends before."""
    while position < len(body):
        length = body[position]
        position += 1 + length
        if length == 0:
            return position
    return None
