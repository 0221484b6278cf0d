"""X-Robots-Tag: which of an answer's directives forbid the use of a picture.

Read as Google documents it (Robots meta tag specifications, "Using the X-Robots-Tag HTTP header"): comma-separated
directives, optionally after `name:` for one crawler alone, among them `unavailable_after: DATE`. `noai` and
`noimageai` are DeviantArt's addition, which the field has taken up; `noml` says the same elsewhere. Which of them
count is the caller's choice.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterable

from pipeline.web.answers import parse_http_date

__all__ = ["forbidding_directive"]

_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"\s*([A-Za-z0-9_-]+|\*)\s*:(.*)\Z", re.DOTALL)
_WEEKDAY = re.compile(r"\s*(mon|tue|wed|thu|fri|sat|sun)[a-z]*\s*\Z", re.IGNORECASE)


def forbidding_directive(
    values: Iterable[str], *, product: str, respected: Collection[str], now: datetime.datetime | None
) -> str | None:
    """The first directive of X-Robots-Tag header `values` that forbids the use to us, or None.

    `product` is our name in lower case; `respected` the directives that count; `now` (aware) decides whether an
    `unavailable_after` has passed. A date that cannot be read is taken as not yet passed, and so is every one without
    a `now`, unless there is no date at all: so the lines of facts of earlier versions say that it had passed.
    """
    for value in values:
        agent = ""  # everyone, until a name is given; the name holds for the rest of this line
        pieces = value.split(",")
        i = 0
        while i < len(pieces):
            piece = pieces[i]
            i += 1
            match = _AGENT.match(piece)
            if match and match.group(1).lower() not in _VALUED:
                agent, piece = match.group(1).lower(), match.group(2)
                match = _AGENT.match(piece)
            name, argument = piece.strip().lower(), ""
            if match:
                name, argument = match.group(1).lower(), match.group(2)
                if _WEEKDAY.match(argument) and i < len(pieces):
                    argument += "," + pieces[i]  # the comma was the date's own
                    i += 1
            if agent not in ("", "*", product) or name not in respected:
                continue
            if name == "unavailable_after" and not _has_passed(argument, now):
                continue
            return name if not agent else f"{agent}: {name}"
    return None


def _has_passed(argument: str, now: datetime.datetime | None) -> bool:
    if now is None:
        return not argument.strip()
    date = parse_http_date(argument)
    return date is not None and date <= now
