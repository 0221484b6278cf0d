"""What the answer to a picture's request says of its use, kept as it was said and judged by any config.

    header lines, redirects' among them --transfer--.
    the body's XMP and C2PA manifest ----body.py-----+--> statements, in the facts --judge--> Refusal

A statement is `name: value`, the name in small letters. Statements are facts: they are noted whether or not they are
honoured, so that another config judges them without a request.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.consent.signals import AnswerSignals
from pipeline.consent.tdm import reserves_tdm
from pipeline.consent.usage import content_signal_forbids, content_usage_forbids
from pipeline.consent.x_robots_tag import forbidding_directive
from pipeline.web.answers import parse_http_date

__all__ = [
    "C2PA",
    "DATA_MINING",
    "HEADERS",
    "REASONS",
    "Refusal",
    "honours",
    "judge",
    "statement_of",
    "when_received",
]

HEADERS = frozenset({"x-robots-tag", "tdm-reservation", "tdm-policy", "content-usage", "content-signal"})
"""Header fields that are noted. `tdm-policy` (the terms under which use may be had) forbids nothing by itself."""
DATA_MINING = "plus:datamining"
"""The statement of a picture's XMP (`data_mining.py`)."""
C2PA = "c2pa"
"""The statements of a picture's manifest (`c2pa_manifest.py`)."""
REASONS = (
    *("x_robots_tag", "tdm_reservation", "content_usage", "content_signal", "data_mining", "c2pa_training"),
    "tdmrep_json",
)
"""Of the ledger: for what an answer says, in the order in which it is looked at; and for its host's file."""
_RECEIVED = "received"
"""When an `unavailable_after` was read: it is judged as of then."""
_MAX_STATEMENT_CHARS = 4000
_PROHIBITED = "DMI-PROHIBITED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a picture may not be used."""

    reason: str
    """Of REASONS."""
    detail: str
    """What was said; for people."""


def statement_of(name: str, value: str) -> str:
    """One statement; what is longer than any real one is cut."""
    return f"{name}: {value}"[:_MAX_STATEMENT_CHARS]


def when_received(statements: Sequence[str], now: datetime.datetime) -> list[str]:
    """The time to note beside `statements` of the same answer: only where one of them depends on it."""
    depends = any("unavailable_after" in each.lower() for each in statements)
    return [statement_of(_RECEIVED, now.isoformat(timespec="seconds"))] if depends else []


def honours(signals: AnswerSignals, reason: str, detail: str) -> bool:
    """Whether a refusal that no noted statement accounts for is one of a signal that is honoured: those of a host's
    files, and img2dataset's, which says that X-Robots-Tag forbade and not by which directive."""
    of_files = {
        "tdmrep_json": signals.tdmrep_json,
        "content_usage": signals.content_usage,  # robots.txt says so
        "content_signal": signals.content_signal,
    }
    if reason in of_files:
        return of_files[reason]
    return reason == "x_robots_tag" and bool(signals.x_robots_directives) and not detail.startswith("X-Robots-Tag: ")


def judge(signals: AnswerSignals, statements: Iterable[str], *, product: str) -> Refusal | None:
    """Why the statements forbid the use, or None. `product` is our name in X-Robots-Tag, in lower case."""
    said: dict[str, list[str]] = {}
    for statement in statements:
        name, _, value = statement.partition(": ")
        said.setdefault(name.lower(), []).append(value)
    if signals.x_robots_directives and "x-robots-tag" in said:
        received = parse_http_date(said[_RECEIVED][-1]) if _RECEIVED in said else None
        respected = signals.x_robots_directives
        found = forbidding_directive(said["x-robots-tag"], product=product, respected=respected, now=received)
        if found is not None:
            return Refusal(reason="x_robots_tag", detail=f"X-Robots-Tag: {found}")
    if signals.tdm_reservation and any(map(reserves_tdm, said.get("tdm-reservation", ()))):
        return Refusal(reason="tdm_reservation", detail="tdm-reservation: 1")
    for value in said.get("content-usage", ()) if signals.content_usage else ():
        if (found := content_usage_forbids(value)) is not None:
            return Refusal(reason="content_usage", detail=f"Content-Usage: {found}")
    for value in said.get("content-signal", ()) if signals.content_signal else ():
        if (found := content_signal_forbids(value)) is not None:
            return Refusal(reason="content_signal", detail=f"Content-Signal: {found}")
    for value in said.get(DATA_MINING, ()) if signals.xmp_data_mining else ():
        if value.upper().startswith(_PROHIBITED):
            return Refusal(reason="data_mining", detail=f"plus:DataMining: {value}")
    for value in said.get(C2PA, ()) if signals.c2pa else ():
        if value.endswith(("=notAllowed", "=constrained")):
            return Refusal(reason="c2pa_training", detail=value)
    return None
