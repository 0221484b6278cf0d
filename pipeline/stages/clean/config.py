"""The options of `clean`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds

__all__ = ["CleanConfig"]


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """What a text must be to become a caption."""

    strip_markup: bool = True
    """Decode entities that were escaped twice, and take tags away: `<b>Red car</b>` becomes `Red car`."""
    fix_mojibake: bool = True
    """Undo UTF-8 that was read as Latin-1 or Windows-1252: `cafÃ©` becomes `café`."""
    read_file_names: bool = True
    """Take the words out of file names that have words: `isle_of_man.jpg` becomes `isle of man`."""
    min_chars: Annotated[int, Bounds(least=1)] = 2
    """Fewer characters are `too_short`; an ideograph, kana or Hangul syllable counts as two."""
    min_words: Annotated[int, Bounds(least=1)] = 1
    """Fewer words (runs without white space) are `too_short`."""
    max_words: Annotated[int, Bounds(least=1)] | None = None
    """More words are `too_long`; null for no limit."""
    max_chars: Annotated[int, Bounds(least=1)] = 1000
    """Longest caption."""
    long_texts: Literal["cut", "reject"] = "cut"
    """cut: end a longer text behind the last word that fits; reject it, if that is not in its second half, and with
    `reject` always, as `too_long`."""
    drop_file_names: bool = True
    """Reject what is a file name without words: IMG_1234, banner_left_2x.png."""
    drop_dates: bool = True
    """Reject what is only a date, a time, a number or a price."""
    drop_placeholders: bool = True
    """Reject what only says that there is a picture (image, photo 3, untitled), that there is no text (null, No photo
    description available), or where a template was not filled in ({{ product.title }})."""
    drop_keyword_lists: bool = True
    """Reject lists of search terms: see the next two."""
    min_keywords: Annotated[int, Bounds(least=2)] = 8
    """At least so many parts between commas, semicolons or bars make a list of search terms ..."""
    max_words_per_keyword: Annotated[float, Bounds(least=0)] = 2.5
    """... if they have at most so many words each on average, and are no sentence that lists things."""
    drop_web_addresses: bool = True
    """Reject what is only a URL, a host name or an e-mail address."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.max_words is not None and self.max_words < self.min_words:
            raise ConfigError("max_words must not be less than min_words")
        if self.max_chars < self.min_chars:
            raise ConfigError("max_chars must not be less than min_chars")
