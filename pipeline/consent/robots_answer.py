"""What the answer to a request for /robots.txt means (RFC 9309, section 2.3.1), as one text.

"" or what is kept of the file    the rules; "" forbids nothing: so do 4xx, but 429, and a redirect that leads nowhere
> URL                             a redirect, to be looked up in turn
! reason                          it could not be had: 5xx, 429, no answer; nothing may be requested
"""

from __future__ import annotations

from http import HTTPStatus

from pipeline.consent.robots_file import kept_text, read_groups
from pipeline.web.urls import resolver

__all__ = ["FAILURE", "UNREACHABLE", "kind_of", "license_of", "reason_of", "target_of", "text_of_answer", "unreachable"]

UNREACHABLE = "robots.txt is unreachable"
"""How the detail of a rejection begins that no rule asked for: the file could not be had, and after `: ` the reason."""
FAILURE = "! "
"""How the text of a robots.txt begins that could not be had."""
_REDIRECT = "> "
_LICENSE = "license: "


def text_of_answer(robots_url: str, status: int, location: str | None, body: bytes, product: str) -> str:
    """The text of a whole answer. `product` is our name in lower case. Never raises."""
    if 200 <= status < 300:
        return kept_text(read_groups(body, product))
    if 300 <= status < 400 and location:
        target = resolver(robots_url)(location)
        return _REDIRECT + target if target.startswith(("http://", "https://")) else ""
    if status == HTTPStatus.TOO_MANY_REQUESTS or not 300 <= status < 500:
        return unreachable(f"http_{status}")
    return ""


def unreachable(reason: str) -> str:
    """The text of a robots.txt that could not be had, for a reason of the fetch stage."""
    return FAILURE + reason


def reason_of(text: str) -> str | None:
    """Why a robots.txt could not be had; None where it could."""
    return text.removeprefix(FAILURE) if text.startswith(FAILURE) else None


def target_of(text: str) -> str | None:
    """Where a redirect leads; None for any other text."""
    return text.removeprefix(_REDIRECT) if text.startswith(_REDIRECT) else None


def kind_of(text: str) -> str:
    """For people: rules, nothing (is forbidden), redirect, or unreachable."""
    if not text:
        return "nothing"
    return {_REDIRECT: "redirect", FAILURE: "unreachable"}.get(text[:2], "rules")


def license_of(text: str) -> str | None:
    """The first RSL licence that a file names; None for none."""
    return text.partition("\n")[0].removeprefix(_LICENSE) if text.startswith(_LICENSE) else None
