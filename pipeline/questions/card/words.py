"""Plain words for what the catalog names in short: stages, figures."""

from __future__ import annotations

from http import HTTPStatus

__all__ = ["answer_in_words", "explained_figure", "explained_stage"]

_STAGES: dict[str, str] = {
    "extract": "have a text and a web address",
    "clean": "have a text that is fit for a caption",
    "language": "are in the set's language",
    "match": "contain a query of the list",
    "privacy": "have a caption that the rule on personal data lets pass",
    "dedup": "are no duplicates",
    "captions": "have a caption within the limits over the whole set",
    "robots_archives": "are of an archive of robots.txt files that can be read",
    "robots": "are not forbidden by a robots.txt that the crawl captured",
    "balance": "are selected by one of their queries",
    "fetch": "have a picture that arrived",
    "check_image": "have a picture that is whole and fits",
    "filters": "pass the filters",
    "decontaminate": "are not of an evaluation set",
    "image_dedup": "have a picture of their own",
    "final_balance": "are still needed by a query",
    "subset": "were taken into this subset",
}
"""Stage -> what those that it keeps are; after "links that"."""

_FIGURES: dict[str, tuple[str, str]] = {
    "matches a text": ("Queries a caption contains", "mean over all distinct pairs, before balancing"),
    "matches in head queries, %": (
        "Matches of head queries",
        "share of all matches; a head query has more than it selects",
    ),
    "head queries, %": ("Head queries", "share of the list"),
    "pairs kept, %": ("Pairs kept by balancing", "share of the distinct pairs"),
    "selections a kept pair": ("Queries that select a kept pair", "mean; a pair stays when one does"),
    "queries without a match, %": ("Queries without a match", "share of the list that no caption contains"),
}
"""Figure of `balance_summary` -> (in plain words, what is counted)."""


def explained_stage(stage: str) -> str:
    """What those that a stage keeps are; of a stage of one's own, that they passed it."""
    return _STAGES.get(stage, f"pass {stage}")


def explained_figure(figure: str) -> tuple[str, str, str]:
    """(in plain words, what is counted, unit)."""
    name, _, unit = figure.partition(", ")
    words, note = _FIGURES.get(figure, (name, ""))
    return words, note, unit


def answer_in_words(reason: str) -> str:
    """What `http_404` and its like mean (RFC 9110 and its registry of status codes); nothing for other reasons."""
    status = reason.removeprefix("http_")
    if status == reason or not status.isdigit():
        return ""
    try:
        return f"the server's answer: {HTTPStatus(int(status)).phrase}"
    except ValueError:
        return f"the server's answer: a status {status}, which no standard knows"
