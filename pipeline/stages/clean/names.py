"""File names: what is one, and which of them are a caption once the extension and the underscores are gone."""

from __future__ import annotations

import re

__all__ = ["CAMERA_WORDS", "EXTENSIONS", "MAX_NAME_WORDS", "is_file_name", "words_of_name"]

MAX_NAME_WORDS = 8
"""Longer texts are prose, even if they end in ".jpg"."""
EXTENSIONS = frozenset(
    """jpg jpeg jpe jfif png gif webp avif bmp svg tif tiff heic heif ico psd eps raw cr2 nef pdf mp4 mov avi
    webm""".split()  # noqa: SIM905  # easier to read so
)
_BEFORE_NUMBERS = """img imag dsc dscn dscf dcim mvi pict pxl vid gopr cimg sam wp kif screenshot photo image picture
    file unknown""".split()  # noqa: SIM905  # easier to read so
_CAMERA = re.compile(
    rf"(?:(?:{'|'.join(_BEFORE_NUMBERS)})[-_]?\d{{3,}}\S*|P\d{{7}}|[A-Z]{{2,4}}_\d{{3,}}\S*|\d{{8}}_\d{{4,6}}\S*)\Z",
    re.IGNORECASE | re.ASCII,
)
CAMERA_WORDS = frozenset({*_BEFORE_NUMBERS, "p"})
"""The letters, in lower case, with which the names of `_CAMERA` begin that have no underscore."""
_UNDERSCORED = re.compile(r"\S*\w_\w\S*\Z")
_HEX_ID = re.compile(
    r"(?=\S*\d)(?:[0-9a-f]{16,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z", re.IGNORECASE | re.ASCII
)


def is_file_name(caption: str) -> bool:
    """Whether a normalised text is a file name and nothing else."""
    num_spaces = caption.count(" ")
    if num_spaces >= MAX_NAME_WORDS or (num_spaces and "." not in caption[-5:]):
        return False
    if _before_extension(caption) is not None and "://" not in caption and not caption.startswith("www."):
        return True
    if num_spaces or "://" in caption or "@" in caption:
        return False
    is_underscored = "_" in caption and _UNDERSCORED.match(caption)
    return bool(is_underscored or _CAMERA.match(caption) or _HEX_ID.match(caption))


def _before_extension(caption: str) -> str | None:
    """What stands before the dot of a usual extension; in `Convert your photos to .webp` that is no name."""
    stem, _, extension = caption.rpartition(".")
    return stem if extension.lower() in EXTENSIONS and stem and stem[-1] not in " ." else None


_MACHINE_MADE = re.compile(r"\d{5}|[a-wyz]\d|\d[a-wyz]", re.IGNORECASE | re.ASCII)
"""Long numbers, and digits beside letters but in a size (800x600)."""
_LEADING = re.compile(r"(?:file|image):", re.IGNORECASE | re.ASCII)
_COUNTER = re.compile(r"(?:\s*\(\d{1,3}\)|\s+\d{1,2}|[\s-]+\d{2,4}\s?x\s?\d{2,4}(?:px)?)\Z", re.IGNORECASE | re.ASCII)
_COUNTER_ENDS = frozenset(")0123456789xX")
"""How a counter ends; the search for where it begins is dear."""
_VERSIONS = frozenset("copy final scaled resized cropped edited thumb thumbnail hires lowres preview min web".split())  # noqa: SIM905  # easier to read so
"""Last words of names that say how the file was made."""
_PAGE_PARTS = frozenset(
    """alt art avatar background banner bg blank btn button carousel cover data default display empty favicon featured
    file footer gallery header hero home icon icons image images img imgs layout lightbox logo logos main menu nav new
    page photo photos pic pics picture pictures pixel placeholder post poster product profile site slide slider spacer
    sprite src temp test text thumb thumbnail title tmp untitled upload user video widget""".split()  # noqa: SIM905  # easier to read so
)
"""Words for parts of pages: a name of nothing else describes nothing."""
_NEVER_READ = frozenset("bg btn display favicon img imgs lightbox nav pixel spacer sprite src tmp untitled".split())  # noqa: SIM905  # easier to read so
"""Words of names that only machines read."""
_PARTS = re.compile(r"[^-()\[\]'\"’“”,.;:!?&\s]+")
_CASED = re.compile(r"[a-z]+|[A-Z][a-z]+|[A-Z]{2,20}|[A-Z]?[a-z]{0,3}[A-Z][a-z]{2,}|[AaIO]", re.ASCII)
"""Lower, Title and UPPER case, and names such as iPhone and McDonald. What mixes them further is an id."""
_VOWEL = re.compile(r"[aeiouy]", re.IGNORECASE)
_SHORT_WORDS = frozenset("mr mrs ms st dr vs jr sr nd rd th hd tv pc dj".split())  # noqa: SIM905  # easier to read so
_MAX_WORD_CHARS = 20
_MAX_NAME_CHARS = 255
"""Of a name on usual file systems."""


def words_of_name(caption: str) -> str | None:
    """The words of a file name that a person gave, for a person to read: `sleeping_cat` is `sleeping cat`; null if
    it is another one.

    Folder, extension, a counter and words for the file's making (`copy`, `scaled`) go, underscores become spaces, and
    where there are neither spaces nor underscores hyphens do. What is left must be words: letters in a usual mix of
    case, in ASCII with a vowel; days and small numbers beside two words, years beside four. One word alone needs an
    extension to be a name.
    """
    if len(caption) > _MAX_NAME_CHARS:
        return None
    stem = caption
    while shorter := _before_extension(stem):  # cat.jpg.webp, as converters leave it
        stem = shorter
    if _MACHINE_MADE.search(stem):
        return None
    if ":" in stem:
        stem = _LEADING.sub("", stem, count=1)
    stem = stem.replace("%20", " ")
    if " " not in stem:
        stem = stem.replace("\\", "/").rpartition("/")[2]
    spaced = stem.replace("_", " ").replace("+", " ")
    if " " not in spaced.strip():
        spaced = spaced.replace("-", " ")
    spaced = " ".join(spaced.split())
    while spaced[-1:] in _COUNTER_ENDS and (counter := _COUNTER.search(spaced)):
        spaced = spaced[: counter.start()].rstrip(" -")
    words = spaced.split()
    while len(words) > 2 and words[-1].lower() in _VERSIONS:
        words.pop()
    parts = _PARTS.findall(" ".join(words))
    lowered = {part.lower() for part in parts}
    if lowered <= _PAGE_PARTS or not lowered.isdisjoint(_NEVER_READ):
        return None
    letters = [part for part in parts if not (part.isascii() and part.isdecimal())]
    if not all(map(_is_word, letters)) or all(part.isascii() and len(part) < 3 for part in letters):
        return None
    for number in set(parts).difference(letters):
        is_year = len(number) == 4 and number[:2] in ("18", "19", "20")
        if not (len(number) <= 2 and len(letters) >= 2) and not (is_year and len(letters) >= 4):
            return None
    return " ".join(words)


def _is_word(part: str) -> bool:
    if len(part) > _MAX_WORD_CHARS:
        return False
    if not part.isascii():
        return not any(character.isdecimal() or character == "\ufffd" for character in part)
    if _CASED.fullmatch(part) is None:
        return False
    return bool(_VOWEL.search(part)) or part.lower() in _SHORT_WORDS or (part.isupper() and len(part) <= 5)
