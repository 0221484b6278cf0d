"""What the answer to a request for /robots.txt means (RFC 9309, section 2.3.1), as one text.

"" or what is kept of the file    the rules; "" forbids nothing: so do 4xx, but 429, and a redirect that leads nowhere
> URL                             a redirect, to be looked up in turn
! reason                          it could not be had: 5xx, 429, no answer; nothing may be requested
"""

from __future__ import annotations

from http import HTTPStatus

from pipeline.consent.robots_file import kept_text, read_groups
from pipeline.web.urls import resolver

__all__ = [
    "FAILURE",
    "NO_HOST",
    "UNREACHABLE",
    "host_reason_of",
    "kind_of",
    "license_of",
    "reason_of",
    "target_of",
    "text_of_answer",
    "text_of_failure",
    "unreachable",
]

UNREACHABLE = "robots.txt is unreachable"
"""How the detail of a rejection begins that no rule asked for: the file could not be had, and after `: ` the reason."""
FAILURE = "! "
"""How the text of a robots.txt begins that could not be had."""
_REDIRECT, _NO_HOST = "> ", "!! "
NO_HOST = frozenset({"dns", "connect", "tls", "address_not_allowed"})
"""Reasons of the fetch stage for which a robots.txt could not be had, and which the host's pictures would meet too."""
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


def text_of_failure(reason: str, *, was_redirected: bool) -> str:
    """The text of a request for a robots.txt that ended for `reason`, one of the fetch stage."""
    if reason in ("empty_body", "too_many_redirects") or (
        reason.startswith(("http_3", "http_4")) and reason != "http_429"
    ):
        return ""
    return _NO_HOST + reason if reason in NO_HOST and not was_redirected else unreachable(reason)


def unreachable(reason: str) -> str:
    """The text of a robots.txt that could not be had, for a reason of the fetch stage."""
    return FAILURE + reason


def reason_of(text: str) -> str | None:
    """Why a robots.txt could not be had; None where it could."""
    return text.removeprefix(FAILURE) if text.startswith(FAILURE) else None


def host_reason_of(text: str) -> str | None:
    """Of NO_HOST, why a host cannot be reached; None where it can, or it is not known."""
    return text.removeprefix(_NO_HOST) if text.startswith(_NO_HOST) else None


def target_of(text: str) -> str | None:
    """Where a redirect leads; None for any other text."""
    return text.removeprefix(_REDIRECT) if text.startswith(_REDIRECT) else None


def kind_of(text: str) -> str:
    """For people: rules, nothing (is forbidden), redirect, or unreachable."""
    if not text:
        return "nothing"
    return {">": "redirect", "!": "unreachable"}.get(text[:1], "rules")


def license_of(text: str) -> str | None:
    """The first RSL licence that a file names; None for none."""
    return text.partition("\n")[0].removeprefix(_LICENSE) if text.startswith(_LICENSE) else None
