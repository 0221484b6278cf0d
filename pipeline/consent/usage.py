"""Content-Usage (IETF AIPREF) and Content-Signal: whether a value of either disallows training.

Read on 2026-11-29: draft-ietf-aipref-vocab and -attach as of 2026-08-19, and the earlier ones, whose labels sites
still write; contentsignals.org. Where they differ, the stricter reading holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["content_signal_forbids", "content_usage_forbids"]

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"?|:[A-Za-z0-9+/=]*:|\([^)]*\)?')
"""Strings, byte sequences and inner lists of RFC 9651: none is a `y` or an `n`, and a comma in one parts nothing."""
_TRAINING = ("train-ai", "train-genai", "genai")
"""What is training by name. The later drafts' `train-ai` means generative models, as the earlier `train-genai` does; a
data set of pictures with captions serves both kinds."""
_WIDER = ("ai", "tdm", "bots", "all")
"""Categories of earlier drafts that held training (2025-05 to 2025-10), each giving way to what is said of it alone."""


def content_usage_forbids(value: str) -> str | None:
    """What of a Content-Usage `value`, a Dictionary (RFC 9651, section 3.2), disallows training; or None.

    `n` counts wherever it stands: of a key that is given twice the drafts take the last, and nothing from a field that
    is not well formed.
    """
    said = list(_members(value, ","))
    for label in _TRAINING:
        if (label, "n") in said:
            return f"{label}=n"
    if any(label == "train-ai" for label, _ in said):
        return None
    return next((f"{label}=n" for label in _WIDER if (label, "n") in said), None)


def content_signal_forbids(value: str) -> str | None:
    """`ai-train=no` where a Content-Signal `value` says that (in any case, white space anywhere); or None."""
    said = ((label.lower(), what.lower()) for label, what in _members(value, ",;"))
    return "ai-train=no" if ("ai-train", "no") in said else None


def _members(value: str, separators: str) -> Iterator[tuple[str, str]]:
    """(key, value without parameters) of each member; white space around either is forgiven."""
    for member in re.split(f"[{separators}]", _QUOTED.sub('""', value)):
        key, _, said = member.partition("=")
        yield key.strip(), said.partition(";")[0].strip()
