"""What an HTTP answer says about asking again: the rules of every request that leaves this project."""

from __future__ import annotations

import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

__all__ = ["can_heal", "parse_http_date", "seconds_of_retry_after"]

_HEALING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_PERMANENT_5XX = frozenset({HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED})  # the same tomorrow


def can_heal(status: int) -> bool:
    """Whether another attempt some time after an answer of this status may succeed."""
    return status in _HEALING or (500 <= status < 600 and status not in _PERMANENT_5XX)


def seconds_of_retry_after(value: str) -> float:
    """What a Retry-After header asks for: a number, or a date; 0 if it is neither."""
    digits = value.strip()[:12]
    if digits.isascii() and digits.isdigit():
        return float(digits)
    date = parse_http_date(value)
    return 0.0 if date is None else max(0.0, (date - datetime.datetime.now(datetime.UTC)).total_seconds())


def parse_http_date(text: str) -> datetime.datetime | None:
    """An aware date from RFC 822, RFC 850 or ISO 8601 text (UTC where no zone is given), or None."""
    text = text.strip()
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        try:
            date = datetime.datetime.fromisoformat(text)
        except ValueError:
            return None
    return date if date.tzinfo is not None else date.replace(tzinfo=datetime.UTC)
