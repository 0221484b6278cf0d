"""E-mail addresses, as they are written: plain, in a mailto: URL, or with (at) and (dot) against those who collect."""

from __future__ import annotations

import re

__all__ = ["MAY_HOLD_EMAIL", "has_email"]

MAY_HOLD_EMAIL = r"@|%40|[\[({] ?[aA][tT] ?[\])}]"
"""RE2 that matches wherever `has_email` finds one."""

_ADDRESS = re.compile(
    r"[\w.%+'&-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(?P<top>xn--[a-z0-9-]{2,59}|[^\W\d_]{2,24})(?![\w@-])"
)
_SPELT_AT = re.compile(r"[\[({] ?at ?[\])}]", re.IGNORECASE)
_SPELT = re.compile(
    r"[\w.+-]{1,64} ?(?:\[ ?at ?\]|\( ?at ?\)|\{ ?at ?\}) ?"
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?(?:\.| ?(?:\[ ?dot ?\]|\( ?dot ?\)|\{ ?dot ?\}) ?)){1,8}[a-z]{2,24}\b",
    re.IGNORECASE,
)
_FILES = frozenset("avif bmp css eps gif htm html ico jpeg jpg js mov mp php png psd svg tif tiff webp".split())  # noqa: SIM905  # easier to read so
"""What a name ends in that is a file's: `logo@2x.png`. None of them is a top-level domain."""
_LONGEST_CAPITAL = 4
"""Who writes `.Stadium` means no domain; `.Com` and `.INFO` are written."""


def has_email(text: str) -> bool:
    """Whether an address stands in `text`."""
    if "%40" in text:
        text = text.replace("%40", "@")
    if "@" in text and any(_is_domain(found["top"]) for found in _ADDRESS.finditer(text)):
        return True
    return _SPELT_AT.search(text) is not None and _SPELT.search(text) is not None


def _is_domain(top: str) -> bool:
    return top.lower() not in _FILES and (len(top) <= _LONGEST_CAPITAL or top.islower() or top.isupper())
