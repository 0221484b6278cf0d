r"""Text from outside as a terminal may show it: what would steer the terminal, or the eye, is spelt out instead.

    "\x1b]0;owned\x07"  is shown as  \x1b]0;owned\x07        "\u202egpj.exe"  as  \u202egpj.exe

Captions, URLs, file names and servers' messages are other people's: printed raw they can rename the window, write to
the clipboard, hide lines, or turn the order of letters around (CVE-2021-42574, "Trojan Source"). Every line of every
command goes through here, and every table (`console.py`). Files (`--to`) and what another program reads keep the text
as it is.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

__all__ = ["printable", "printable_json", "say"]

_STEERING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f"  # C0 but tab and line feed, and DEL (ECMA-48)
    "\x80-\x9f"  # C1: a terminal may take 0x9b for ESC [
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, embeddings, overrides and isolates of UAX 9
    "\u2028\u2029"  # separators of lines and paragraphs
    "\ufff9-\ufffb"  # annotations between lines
    "\ud800-\udfff"  # lone surrogates, which no stream can encode
    "\U000e0000-\U000e007f"  # tags: text that nobody sees
    "]"
)


def printable(text: str, *, one_line: bool = False) -> str:
    r"""`text` with each character that steers a terminal as its escape; with `one_line`, \n and \t as well."""
    text = _STEERING.sub(lambda match: _escape(match.group()), text)
    return text.replace("\n", "\\n").replace("\t", "\\t") if one_line else text


def printable_json(text: str) -> str:
    """The same for JSON text, whose value stays what it was."""
    return _STEERING.sub(lambda match: _json_escape(ord(match.group())), text)


def say(line: str = "", *, to: TextIO | None = None, flush: bool = False) -> None:
    """Print one line, and one only, to stdout or `to`."""
    print(printable(line, one_line=True), file=to or sys.stdout, flush=flush)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(code: int) -> str:
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000  # a pair of surrogates, RFC 8259 section 7
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
