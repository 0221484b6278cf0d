"""Text files that users bring: UTF-8, one thing a line."""

from __future__ import annotations

from pipeline.errors import InputError
from pipeline.storage.place import Place, place_of

__all__ = ["decode_text", "read_lines"]


def read_lines(path: str | Place) -> list[str]:
    r"""The lines of a text file, without their ends (\n, \r\n or \r, and nothing else: U+2028 or a form feed stands
    inside a line; `str.splitlines` would cut there).

    Raises InputError where it is not UTF-8, with the line, and OSError where it cannot be read.
    """
    return decode_text(place_of(path).read_bytes(), path).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def decode_text(data: bytes, path: str | Place) -> str:
    """`data`, the content of `path`, as text. Raises InputError where it is not UTF-8, with the line."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line} is not UTF-8; save the file in that encoding") from error
