"""What a word is: one class and one folded form for every Unicode code point.

The text normal form of matching by words: NFC; letters and numbers in their plain form (the option
`compatibility_forms`); format characters and variation selectors removed. Then the maximal runs of letters,
marks and numbers are the words, and everything else only separates them. In scripts that are written without
spaces every letter is a word of its own (with the marks that follow it), so that a query of several letters is
found inside a longer run of them.

The tables come from Python's own Unicode data: `unicodedata.unidata_version` belongs to every fingerprint
of something made with them.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "BOUNDARY",
    "COMPATIBLE",
    "IGNORED",
    "KIND",
    "MARK",
    "NUM_CODE_POINTS",
    "SINGLE",
    "UNSETTLED",
    "WORD",
    "CharacterTables",
    "character_tables",
    "fold_case",
    "has_capital",
    "settled",
    "word_spans",
    "words",
]

BOUNDARY, WORD, SINGLE, MARK, IGNORED = 0, 1, 2, 3, 4
"""Separates; part of a word; a word of its own; extends the word before it; as if it were not there."""
KIND = 7
"""Mask of the kinds above within a class byte."""
UNSETTLED = 8
"""Class bit: text with this character may not be in NFC. Without any such character it certainly is."""

COMPATIBLE = 16
"""Class bit: a letter or number that is only another form of others (NFKC): wide, a ligature, raised."""

NUM_CODE_POINTS = 0x110000
_SPACELESS = (
    "CJK UNIFIED IDEOGRAPH",
    "CJK COMPATIBILITY IDEOGRAPH",
    "IDEOGRAPHIC",
    "HIRAGANA",
    "KATAKANA",
    "HALFWIDTH KATAKANA",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
)
"""First words of the character names of scripts that put no spaces between words."""
_ZERO_WIDTH_SPACE = 0x200B  # a format character by category, but it does separate words
_VARIATION_SELECTORS = (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
_ASCII_WORDS = re.compile(r"[0-9A-Za-z]+")


@dataclass(frozen=True, kw_only=True)
class CharacterTables:
    """Read-only tables with one entry per code point."""

    classes: npt.NDArray[np.uint8]
    """uint8[0x110000]: a kind, and perhaps UNSETTLED and COMPATIBLE."""
    folds: npt.NDArray[np.int32]
    """int32[0x110000]: the code point after simple case folding."""


@functools.lru_cache(maxsize=1)
def character_tables() -> CharacterTables:
    """The tables of this Python's Unicode version; made once per process, in under a second."""
    classes = np.zeros(NUM_CODE_POINTS, np.uint8)
    folds = np.arange(NUM_CODE_POINTS, dtype=np.int32)
    for point in range(NUM_CODE_POINTS):
        if 0x34000 <= point < 0xE0000 or point >= 0xE0200 or 0xAC00 <= point <= 0xDFFF:
            continue  # unassigned, private, surrogates; Hangul syllables are set below
        character = chr(point)
        category = unicodedata.category(character)
        if category == "Cn":
            continue
        classes[point] = _kind(character, category)
        folds[point] = ord(_fold_character(character))
        if unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character):
            classes[point] |= UNSETTLED
        canonical = unicodedata.decomposition(character)
        if canonical and not canonical.startswith("<"):
            # The second half of a pair can join what stands before it.
            for half in canonical.split()[1:]:
                classes[int(half, 16)] |= UNSETTLED
    classes[list(map(ord, _plain_forms()))] |= COMPATIBLE
    classes[0xAC00:0xD7A4] = WORD
    classes[0x1161:0x1176] |= UNSETTLED  # Hangul vowels and final consonants join into syllables
    classes[0x11A8:0x11C3] |= UNSETTLED
    classes.flags.writeable = False
    folds.flags.writeable = False
    return CharacterTables(classes=classes, folds=folds)


def fold_case(text: str) -> str:
    """Simple case folding, code point by code point: the length never changes."""
    if text.isascii():
        return text.lower()
    return "".join(map(_fold_character, text))


def has_capital(text: str) -> bool:
    """Whether a letter is written as a capital. Letters that only fold are none: a final sigma, a long s."""
    if text.isascii():
        return text != text.lower()
    return any(c.lower() != c and _fold_character(c) != c for c in text)


def settled(text: str, *, compatibility_forms: bool) -> str:
    """NFC, with the plain forms of letters and numbers: `ＤＯＧ`, `ﬁ` and `m²` are `DOG`, `fi` and `m2`."""
    text = unicodedata.normalize("NFC", text)
    if not compatibility_forms or text.isascii():
        return text
    forms = _plain_forms()
    for character in forms.keys() & set(text):  # `str.translate` asks for every character of the text
        text = text.replace(character, forms[character])
    return unicodedata.normalize("NFC", text)


def words(text: str, *, compatibility_forms: bool = True) -> list[str]:
    """The words of `text` in its normal form (see above), case kept."""
    if text.isascii():
        return _ASCII_WORDS.findall(text)
    text, starts, ends = word_spans(text, compatibility_forms=compatibility_forms)
    return [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def word_spans(
    text: str, *, compatibility_forms: bool = True
) -> tuple[str, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """`text` in normal form, with the starts and ends (int64[W], in code points) of its words."""
    tables = character_tables()
    text = settled(text, compatibility_forms=compatibility_forms)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = tables.classes[points] & KIND
    ignored = kinds == IGNORED
    if ignored.any():
        # What a removed character kept apart may now compose; the kernel's text is not composed again.
        points = points[~ignored]
        kinds = kinds[~ignored]
        text = points.tobytes().decode("utf-32-le", "surrogatepass")
    if not len(points):
        return text, np.zeros(0, np.int64), np.zeros(0, np.int64)
    inside = kinds != BOUNDARY
    before = np.concatenate(([False], inside[:-1]))
    # The kind that opened or last continued the word: marks look through to what they follow.
    base = np.maximum.accumulate(np.where(kinds == MARK, 0, np.arange(len(kinds))))
    kind_before = np.concatenate(([BOUNDARY], kinds[base[:-1]]))
    opens = inside & (~before | (kinds == SINGLE) | ((kinds == WORD) & (kind_before == SINGLE)))
    after_opens = np.concatenate((opens[1:], [True]))
    after_inside = np.concatenate((inside[1:], [False]))
    closes = inside & (~after_inside | after_opens)
    return text, np.flatnonzero(opens), np.flatnonzero(closes) + 1


def _kind(character: str, category: str) -> int:
    point = ord(character)
    if point in _VARIATION_SELECTORS or (category == "Cf" and point != _ZERO_WIDTH_SPACE):
        return IGNORED
    if category[0] == "M":
        return MARK
    if category[0] in "LN":
        return SINGLE if unicodedata.name(character, "").startswith(_SPACELESS) else WORD
    return BOUNDARY


@functools.lru_cache(maxsize=1)
def _plain_forms() -> dict[str, str]:
    """What each COMPATIBLE character is a form of: some thousands, found in a twentieth of a second."""
    found: dict[str, str] = {}
    for point in (*range(0x80, 0xD800), *range(0xE000, 0x34000)):
        character = chr(point)
        if not unicodedata.is_normalized("NFKC", character):
            plain = _plain_form(character, unicodedata.category(character))
            if plain is not None:
                found[character] = plain
    return found


def _plain_form(character: str, category: str) -> str | None:
    """The NFKC form of a letter or number, if it is letters, numbers and marks alone.

    Symbols stay marks between words (the trade mark sign is no TM), and so does what would bring in some: one half
    would make eleven of 1½.
    """
    if category[0] not in "LN":
        return None
    plain = unicodedata.normalize("NFKC", character)
    if plain == unicodedata.normalize("NFC", character):
        return None
    return plain if all(unicodedata.category(c)[0] in "LNM" for c in plain) else None


def _fold_character(character: str) -> str:
    """Full folding where it is one character (ẞ -> ß, not ss), else the lower-case form, else itself.

    Only letters and letter numbers fold: U+0345, a mark, would turn into a letter.
    """
    category = unicodedata.category(character)
    if category[0] != "L" and category != "Nl":
        return character
    for folded in (character.casefold(), character.lower()):
        if len(folded) == 1:
            return folded
    return character
