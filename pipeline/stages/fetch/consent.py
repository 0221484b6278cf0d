"""What an answer's headers say about the use of a picture: X-Robots-Tag and tdm-reservation.

X-Robots-Tag is read as Google documents it (Robots meta tag specifications, "Using the X-Robots-Tag HTTP
header"): comma-separated directives, optionally after `name:` for one crawler alone, among them
`unavailable_after: DATE`. `noai` and `noimageai` are DeviantArt's addition, which the field has taken up; `noml` says
the same elsewhere. Which of them count is the caller's choice.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Sequence

from pipeline.web.answers import parse_http_date

__all__ = ["forbidding_directive", "reserves_tdm"]

_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"\s*([A-Za-z0-9_-]+|\*)\s*:(.*)\Z", re.DOTALL)
_WEEKDAY = re.compile(r"\s*(mon|tue|wed|thu|fri|sat|sun)[a-z]*\s*\Z", re.IGNORECASE)


def forbidding_directive(
    values: Sequence[str], *, product: str, respected: Collection[str], now: datetime.datetime
) -> str | None:
    """The first directive of X-Robots-Tag header `values` that forbids the use to us, or None.

    `product` is our name in lower case; `respected` the directives that count; `now` (aware) decides
    whether an `unavailable_after` has passed. A date that cannot be read is taken as not yet passed.
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
            if name == "unavailable_after":
                date = parse_http_date(argument)
                if date is None or date > now:
                    continue
            return name if not agent else f"{agent}: {name}"
    return None


def reserves_tdm(value: str) -> bool:
    """Whether a `tdm-reservation` header reserves the rights to text and data mining (TDMRep, W3C 2024).

    Of several values, as repeated headers give them, one that reserves is enough.
    """
    return any(each.strip() == "1" for each in value.split(","))
