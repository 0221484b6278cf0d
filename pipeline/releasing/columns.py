"""Which columns of a sample go out, decided one by one, with the reason: docs/release.md shows this very table.

A column that nobody has decided about, such as one that a later version adds, stays in.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from configs.load import ConfigError
from configs.near import did_you_mean

__all__ = ["COLUMNS", "Column", "columns_of", "undecided"]

When = Literal["always", "with pictures", "when asked for", "never"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column, and whether it is published."""

    name: str
    when: When
    says: str
    """What it is, for who reads the release; in Croissant too."""
    why: str
    """Why it goes out, or stays."""


def _column(name: str, when: When, says: str, why: str) -> Column:
    return Column(name=name, when=when, says=says, why=why)


COLUMNS: tuple[Column, ...] = (
    _column("uid", "always", "identity of URL, text source and source text, 32 hex digits", "deltas name rows by it"),
    _column("url", "always", "where the picture was requested", "the link itself"),
    _column("caption", "always", "the text to train on", "the other half of the pair"),
    _column("caption_source", "always", "web, or the model that wrote the caption", "says what a caption is"),
    _column("caption_score", "always", "how well the caption fits the picture, by a model", "filters by it"),
    _column("alt_text_score", "always", "how well the page's text fits the picture, by a model", "filters by it"),
    _column("text_source", "always", "where the page had the text: alt, title or figcaption", "says what a caption is"),
    _column(
        "page_url", "always", "the page of the picture, where the source names it", "licence and removal go by page"
    ),
    _column("license", "always", "the page's rel=license link, if any", "who uses the picture needs it"),
    _column("rsl_license", "always", "the RSL terms that the host's robots.txt names", "who uses the picture needs it"),
    _column(
        "consent",
        "always",
        "what the answer and the picture say of their use, a line each",
        "who uses the picture can judge it by other rules",
    ),
    _column("pii", "always", "kinds of personal data found in the caption", "who uses the caption needs it"),
    _column("lang", "always", "language that the caption was kept as", "the filter's answer"),
    _column("p_en", "always", "probability of the first target language, 0 to 1", "the filter's score"),
    _column("lang_by", "always", "what told the language: model or lexicon", "the filter's answer"),
    _column("query_ids", "always", "queries that the caption contains, rows of queries.parquet", "the balance"),
    _column("selected_by", "always", "those of them that chose the pair", "the balance"),
    _column("sha256", "always", "of the picture as served, 64 hex digits", "who downloads it tells what has changed"),
    _column("phash", "always", "64-bit perceptual hash of the picture", "duplicates are found without the picture"),
    _column("original_width", "always", "pixels, upright, as served", "filters by size"),
    _column("original_height", "always", "pixels, upright, as served", "filters by size"),
    _column("original_format", "always", "JPEG, PNG, WEBP ...", "filters by format"),
    _column("original_bytes", "always", "of the picture as served", "filters by size, plans of a download"),
    _column("key", "with pictures", "of the sample in its tar", "joins a row to its picture"),
    _column("shard", "with pictures", "number of the tar", "joins a row to its picture"),
    _column("width", "with pictures", "pixels, as stored", "of the stored picture"),
    _column("height", "with pictures", "pixels, as stored", "of the stored picture"),
    _column("tar_offset", "with pictures", "of the picture's bytes in the tar", "reads one picture alone"),
    _column("num_bytes", "with pictures", "of the picture as stored", "reads one picture alone"),
    _column("stored_xxh3", "with pictures", "xxh3-128 of the picture as stored, 32 hex digits", "checks one picture"),
    _column("alt_text", "when asked for", "what the page said, before cleaning", "a caption that is mended leaves it"),
    _column("source", "when asked for", "the input file", "may be a path of the machine; of a crawl it is its archive"),
    _column("record", "when asked for", "where in the input file", "means something beside `source` alone"),
    _column("link", "when asked for", "which link of the record", "means something beside `source` alone"),
    _column("extra", "when asked for", "JSON of other columns of the source", "nobody but you knows what they hold"),
    _column("exif", "when asked for", "JSON of tags of the picture", "may name people and places"),
    _column("url_id", "when asked for", "identity of the URL alone, 32 hex digits", "follows from the URL"),
    _column("order", "when asked for", "keyed hash by which the rows stand", "the rows stand in it"),
    _column("status", "never", "success", "the same in every row"),
    _column("error_message", "never", "null", "the same in every row"),
)
"""What an earlier version did not write is left out."""

_BY_NAME = {column.name: column for column in COLUMNS}
_NEEDED = ("uid", "url")


def columns_of(there: Collection[str], *, pictures: bool, asked: str | None) -> list[Column]:
    """The columns of a release of a set that has those in `there`, in the order of COLUMNS.

    `asked` is a list of names, or of changes (+more, -less). Raises ConfigError for a name that is not there, or none
    that is ever published, and where uid or url would be missing.
    """
    whens = ("always", "with pictures") if pictures else ("always",)
    chosen = {column.name for column in COLUMNS if column.when in whens}
    words = [word.strip() for word in (asked or "").split(",") if word.strip()]
    signed = [word[0] in "+-" for word in words]
    if any(signed) and not all(signed):
        raise ConfigError(f"columns: {asked!r} mixes a list with changes; write name,name or +name,-name")
    if words and not any(signed):
        chosen, words = set(), [f"+{word}" for word in words]
    for word in words:
        name = word[1:]
        if name not in there or name not in _BY_NAME:
            raise ConfigError(
                f"columns: the set has no column {name!r} to publish; {did_you_mean(name, _known(there))}"
            )
        if word[0] == "-":
            chosen.discard(name)
        elif _BY_NAME[name].when == "never" or (_BY_NAME[name].when == "with pictures" and not pictures):
            raise ConfigError(f"columns: {name} is not published{'' if pictures else ' without pictures'}")
        else:
            chosen.add(name)
    for name in _NEEDED:
        if name not in chosen:
            raise ConfigError(f"columns: {name} must be among them, or no row could be told from another")
    return [column for column in COLUMNS if column.name in chosen and column.name in there]


def undecided(there: Sequence[str]) -> list[str]:
    """The columns of a set that nobody has decided about: they stay in."""
    return [name for name in there if name not in _BY_NAME]


def _known(there: Collection[str]) -> list[str]:
    return [column.name for column in COLUMNS if column.name in there and column.when != "never"]
