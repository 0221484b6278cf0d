"""Alt texts of named pictures: names and tags in the frames that pages use, other languages, junk, wrong ones."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.from_pictures.read import Picture
from pipeline.sample_web.junk import JUNK_COUNTS, junk_text
from pipeline.sample_web.plan import TextKind
from pipeline.sample_web.web_phrases import NAMES, unmatched_text

__all__ = ["TEMPLATES", "AltText", "alt_text", "true_caption", "words_of"]

TEMPLATES = ("{c}", "a drawing of {c}", "picture of {c}", "{c} icon", "{c} emoji", "clip art of {c}", "{c} symbol")
"""Of the evaluation, in CLIP_benchmark's form."""

_SHARES = (
    ("unmatched", 0.4),
    ("caption", 0.33),
    ("foreign", 0.09),
    ("junk", 0.07),
    ("general", 0.06),
    ("wrong", 0.03),
    ("keywords", 0.02),
)
"""Half of the English texts contain no query, as published (MetaCLIP, arXiv 2309.16671, section 3)."""
_FRAMES = (
    # {n} the name, {t} a tag
    "{n}",
    "{n}",
    "{n}",
    "{n} icon",
    "{n} emoji",
    "{n} clip art",
    "a drawing of {n}",
    "picture of {n}",
    "{n} symbol",
    "{n} sticker, free download",
    "{n} vector image",
    "icon of {n}",
    "cute {n} illustration",
    "{n} on a plain background",
    "this is a picture of {n}",
    "{n} ({t})",
    "{n}, {t}",
    "{t} icon: {n}",
    "{n} and {t}",
    "{t} picture",
    "{n} for your {t} page",
)
_GENERAL = (
    "free icon",
    "icon",
    "emoji",
    "vector image",
    "free vector image for download",
    "clip art",
    "picture of the day",
    "a new icon for your page",
    "download this picture",
    "symbol",
)
_DESCRIPTION_CHARS = 200
_FEWEST_KEYWORDS = 8
_FUNCTION_WORDS = frozenset((
    "all", "and", "are", "but", "can", "for", "from", "had", "has", "have", "her", "him", "his", "how", "into",
    "its", "may", "not", "off", "one", "our", "out", "over", "she", "than", "that", "the", "them", "then", "they",
    "this", "under", "was", "what", "when", "where", "which", "while", "who", "will", "with", "you", "your",
))  # fmt: skip
"""They say nothing about a picture (as `query_list` passes over near stop words)."""
_WORD = re.compile(r"[^\W\d_]{3,}")
_LETTERS = re.compile(r"[^\W\d_]{2}")
_LEAST_COUNT = 2
_MOST_WORDS = 4
_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class AltText:
    """One alt text."""

    text: str | None
    kind: TextKind
    language: str = "en"
    fate: str | None = None
    """stage/reason, where that is sure."""


def alt_text(dice: Dice, picture: Picture, other: Picture, queries: Container[str]) -> AltText:
    """An alt text for `picture`; a wrong one is of `other`; `queries` in lower case, for those that contain none."""
    sort = dice.weighted(_SHARES)
    if sort == "foreign" and picture.foreign:
        language, text = dice.choice(picture.foreign)
        return AltText(text=text, kind="foreign", language=language)
    if sort == "general":
        return AltText(text=dice.choice(_GENERAL), kind="general")
    if sort == "junk":
        fate = dice.weighted(list(JUNK_COUNTS.items()))
        return AltText(text=junk_text(dice, fate), kind="junk", fate=fate)
    if sort == "unmatched":
        return AltText(text=_without_query(dice, queries), kind="unmatched")
    if sort == "wrong":
        return AltText(text=true_caption(dice, other), kind="wrong")
    if sort == "keywords" and len(picture.tags) >= _FEWEST_KEYWORDS:
        return AltText(text=", ".join(picture.tags), kind="junk")
    return AltText(text=true_caption(dice, picture), kind="caption")


def true_caption(dice: Dice, picture: Picture) -> str:
    """A text that tells of the picture."""
    if dice.chance(0.07):
        words = re.sub(r"\W+", dice.choice(("-", "_")), picture.title.lower()).strip("-_")
        return f"{words}.{dice.choice(('png', 'jpg'))}"
    if picture.descriptions and dice.chance(0.25):
        return dice.choice(picture.descriptions)[:_DESCRIPTION_CHARS]
    frame = dice.choice(_FRAMES)
    if "{t}" in frame and not picture.tags:
        frame = "{n}"
    name = dice.choice(picture.names) if picture.names else picture.title
    text = frame.format(n=name, t=dice.choice(picture.tags) if picture.tags else "")
    return text[0].upper() + text[1:] if dice.chance(0.3) else text


def _without_query(dice: Dice, queries: Container[str]) -> str:
    """English that tells of nothing here: real words where the pictures' texts leave some, else names of no place."""
    for _ in range(_TRIES):
        text = unmatched_text(dice)
        words = text.lower().split()
        ends = ((i, j) for i in range(len(words)) for j in range(i + 1, min(i + _MOST_WORDS, len(words)) + 1))
        if not any(" ".join(words[i:j]) in queries for i, j in ends):
            return text
    return f"from {dice.choice(NAMES)} and {dice.choice(NAMES)} with all of them"


def words_of(pictures: list[Picture]) -> list[str]:
    """What a query list of these pictures holds: names, tags, and the words that occur more than once in all texts."""
    counts: dict[str, int] = {}
    phrases: set[str] = set()
    for picture in pictures:
        names = [*picture.names, *picture.tags]
        # Signs and single letters match nothing, or everything.
        phrases.update(
            text.strip(" .,;:!?") for text in names if len(text.split()) <= _MOST_WORDS and _LETTERS.search(text)
        )
        for text in (*names, *picture.descriptions, *_GENERAL):
            for word in _WORD.findall(text.lower()):
                counts[word] = counts.get(word, 0) + 1
    words = {word for word, count in counts.items() if count >= _LEAST_COUNT and word not in _FUNCTION_WORDS}
    return sorted(words | phrases)
