"""Clean: alt text made fit to be a caption, or turned away with a reason.

    alt_text --kernel over the bytes: nothing to do? --yes--> caption = alt_text, or too short or long
                     | not sure
                     `--normalise, rules--> caption or reason

`normalise` and `reason_against` are the definition, one text at a time. The kernel only recognises the
many texts that `normalise` leaves as they are and on which the rules are easily decided; the tests hold it
to them. docs/cleaning.md shows both by examples.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import to_mapping
from pipeline.records.outcome import Outcome, reject
from pipeline.records.schema import CLEANED
from pipeline.stages.clean.config import CleanConfig
from pipeline.stages.clean.keywords import is_keyword_list
from pipeline.stages.clean.markup import CONTINUATIONS, fix_mojibake, has_template, strip_markup
from pipeline.stages.clean.names import CAMERA_WORDS, EXTENSIONS, MAX_NAME_WORDS, is_file_name, words_of_name
from pipeline.stages.stage import Stage

__all__ = ["Clean", "clean", "normalise", "reason_against"]


_DEFAULT = CleanConfig()


def clean(batch: pa.RecordBatch, config: CleanConfig) -> Outcome:
    """Add `caption` to a batch with a column `alt_text`; the unit is a candidate.

    Reasons are those of `reason_against`; the detail is the text.
    """
    from pipeline.stages.clean import scan  # numba takes half a second to import

    texts = batch.column("alt_text")
    verdicts = _scan(texts, config)
    unsure = np.flatnonzero(verdicts == scan.UNSURE)
    normalised = pa.array([normalise(text, config) for text in texts.take(pa.array(unsure)).to_pylist()], pa.string())
    verdicts[unsure] = _scan(normalised, config)  # most only had white space to lose
    still = verdicts[unsure] == scan.UNSURE
    judged = [reason_against(text, config) for text in normalised.filter(pa.array(still)).to_pylist()]
    places = np.where(verdicts == scan.TOO_SHORT, 0, 1)
    by_length = pa.array(["too_short", "too_long"]).take(pa.array(places, mask=verdicts <= scan.PLAIN))
    captions = pc.replace_with_mask(texts, _mask_of(unsure, len(texts)), normalised)
    reasons = pc.replace_with_mask(by_length, _mask_of(unsure[still], len(texts)), pa.array(judged, pa.string()))
    if config.max_words is not None:
        wordy = pc.greater(pc.count_substring(captions, " "), config.max_words - 1)
        reasons = pc.if_else(pc.and_(pc.is_null(reasons), wordy), "too_long", reasons)
    cleaned = pa.RecordBatch.from_arrays(
        [*batch.columns, captions], schema=pa.schema([*batch.schema, CLEANED.field("caption")])
    )
    return reject(cleaned, stage="clean", reasons=reasons, details=captions)


def _scan(texts: pa.StringArray, config: CleanConfig) -> npt.NDArray[np.uint8]:
    from pipeline.stages.clean import scan

    return scan.scan(
        texts,
        min_chars=config.min_chars,
        max_chars=config.max_chars,
        cuts_long_texts=config.long_texts == "cut",
        min_words=config.min_words,
        min_keywords=config.min_keywords,
        max_words_per_keyword=config.max_words_per_keyword,
        max_name_words=MAX_NAME_WORDS,
        extensions=EXTENSIONS,
        camera_words=CAMERA_WORDS,
        max_date_chars=_MAX_DATE_CHARS,
        max_placeholder_chars=_MAX_PLACEHOLDER_CHARS,
        placeholders=_PLACEHOLDERS | _WRITTEN_VALUES,
        openings=_NO_TEXT,
        date_words=_DATE_WORDS | _CLOCK_LETTERS,
        mojibake_tails=CONTINUATIONS if config.fix_mojibake else "",
    )


def _mask_of(rows: npt.NDArray[np.intp], size: int) -> pa.BooleanArray:
    mask = np.zeros(size, np.bool_)
    mask[rows] = True
    return pa.array(mask)


# --- the definition, one text at a time -------------------------------------------------------

_DROPPED = (
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # control characters that are no white space
    "\u00ad\u061c\u180e\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
)
_JOINERS = "\u200c\u200d"
_BESIDE_JOINER = rf"[^\x00-\x7f\s{_JOINERS}]"
_INVISIBLE = re.compile(rf"[{_DROPPED}]|(?<!{_BESIDE_JOINER})[{_JOINERS}]|[{_JOINERS}](?!{_BESIDE_JOINER})")
_ZERO_WIDTH_SPACE = "\u200b"


def normalise(text: str, config: CleanConfig = _DEFAULT) -> str:
    """The caption of a text, fit or not: without mark-up, in plain form, a file name's words, cut to length.

    Plain form is NFC, each run of Unicode white space one space, none at the ends, control and invisible
    characters gone. Case, punctuation and all else stay. The zero-width space is white space (UAX #14: a place to
    break a line). A zero-width joiner or non-joiner stays between two characters beyond ASCII: emoji are built with
    it, and Persian and Indic words spelt.
    """
    # Most have only white space to lose; of what is printable that can only be spaces.
    is_plain = text.isprintable() and "  " not in text and text[:1] != " " and text[-1:] != " "
    plain = text if is_plain else " ".join(text.split())
    if not plain.isascii() or not (is_plain or plain.isprintable()) or "<" in plain or "&" in plain:
        shown = strip_markup(text) if config.strip_markup else text
        if config.fix_mojibake:
            shown = fix_mojibake(shown)
        shown = _visible(shown)
        if shown != text:
            plain = " ".join(shown.split())
            if not plain.isascii():
                plain = unicodedata.normalize("NFC", plain)  # characters that an invisible one kept apart
    text = plain
    if config.read_file_names and (" " not in text or "." in text[-5:]) and is_file_name(text):
        text = words_of_name(text) or text
    if config.long_texts == "cut" and len(text) > config.max_chars:
        text = _cut(text, config.max_chars)
    return text


def _visible(text: str) -> str:
    """NFC, without invisible characters."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.replace(_ZERO_WIDTH_SPACE, " "))
    return text if text.isprintable() else _INVISIBLE.sub("", text)


_BREAKS = " \u3001\u3002\uff0c\uff01\uff1f\uff1b\uff1a"
"""A caption may end at a space, or behind a mark of the scripts that put none after it."""


def _cut(text: str, max_chars: int) -> str:
    """The words that fit, if they fill half the room; else the whole text."""
    end = max(max(text.rfind(" ", 0, max_chars + 1), text.rfind(mark, 0, max_chars) + 1) for mark in _BREAKS)
    return text[:end].rstrip(" ,;:([{|/&-\u2013\u2014") if end > max_chars // 2 else text


_MAX_DATE_CHARS = 60
_DATE_WORDS = frozenset(
    """january february march april may june july august september october november december
    jan feb mar apr jun jul aug sep sept oct nov dec
    monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur thurs fri sat sun
    st nd rd th of at the am pm utc gmt bc ad bce ce""".split()  # noqa: SIM905  # easier to read so
)
_CLOCK_LETTERS = frozenset("apmtz")
_HALF_DAY = re.compile(r"(?<=[\d\s])([ap])\.?\s?(m)\b\.?", re.IGNORECASE | re.ASCII)
_ISO_TIME = re.compile(r"(?<=\d)T(?=\d\d:?\d\d)|(?<=\d)Z\Z", re.IGNORECASE | re.ASCII)
"""Where lone letters belong to a time: `10:30 p.m.`, `2019-05-12T10:22Z`; in `M16` and `p2p` they do not."""
_DIGIT = re.compile("[0-9]")
_LETTERS = re.compile(r"[^\W\d_]+")
_NUMBERS_AND_MARKS = re.compile(r"[0-9\s.,:;/\\()\[\]+\-\u2010-\u2015'\u2019#\u2116%$\u20ac\u00a3\u00a5]*\Z")

_PLACEHOLDER_WORDS = """
    image images img imgs photo photos photograph picture pictures pic pics untitled unnamed thumbnail thumb file
    noimage noimageavailable noimagefound imagenotavailable imagenotfound imageplaceholder placeholder
    placeholderimage defaultimage default spacer blank alt alttext noalt noalttext alternatetext null undefined
    none na nophoto nophotoavailable nopicture nopictureavailable photonotavailable imagecomingsoon comingsoon
    loading loadingimage imageloading featuredimage coverimage coverphoto mainimage heroimage headerimage
    backgroundimage background slide slideimage slider galleryimage imagegallery productimage productphoto
    articleimage postimage blogimage postthumbnail userimage profileimage imagedescription description
    imagetitle title notitle noname clicktoenlarge clickheretoenlarge enlarge enlargeimage viewlargerimage
    viewimage viewfullimage seeimage fullsizeimage largeimage stockphoto
    nophotodescriptionavailable nodescriptionavailable nodescription imageunavailable imagepreview previewimage
    profilepicture profilephoto objectobject
    foto fotos bild bilder imagen imagens imagem immagine afbeelding billede kuva obraz obrazek zdjęcie
    фото изображение картинка 图片 画像 圖片 图像
"""
_PLACEHOLDERS = frozenset(_PLACEHOLDER_WORDS.split())
"""Letters only, in lower case; what a text is compared with after digits, marks and spaces are gone."""
_WRITTEN_VALUES = frozenset({"nan", "NaN", "NaT", "<NA>", "true", "false"})
"""What programs write for a value that is no text (pandas, JSON). Nan is a name, and a bread."""
_NO_TEXT = (
    "no alternative text description",
    "no automatic alt text available",
    "this image has an empty alt attribute",
)
"""How the texts begin, in lower case, that sites put where they have none."""
_NOT_LETTERS = re.compile(r"[\W\d_]+")
_MAX_PLACEHOLDER_CHARS = 40

_ADDRESS = re.compile(
    r"(?:[a-z][a-z0-9+.-]{1,20}://\S+|www\.\S+\.\S+|(?:mailto:)?[^\s@]+@[^\s@]+\.[^\s@]+"
    r"|(?:[\w-]+\.)+(?:com|org|net|edu|gov|mil|int|info|biz|io|co|eu|uk|de|fr|nl|it|es|pl|ru|cn|jp|in|br|au|ca|ch|at|be|se|us|me|tv)"
    r"(?::\d+)?(?:/\S*)?)\Z",
    re.IGNORECASE | re.ASCII,
)
_NET_PRODUCT = re.compile(r"(?:[A-Z]{1,4}|\w*[a-z]\w*)\.NET\Z", re.ASCII)
"""ASP.NET, Paint.NET: who writes a host's name so writes all of it in capitals."""
_WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]")


def reason_against(caption: str, config: CleanConfig) -> str | None:
    """Why a normalised text is not fit to be a caption; null if it is. The first of:

    empty, too_short, too_long (in characters), file_name, date, placeholder, keyword_list, web_address, too_long (in
    words).
    """
    if not caption:
        return "empty"
    num_spaces = caption.count(" ")
    if num_spaces + 1 < config.min_words:
        return "too_short"
    if len(caption) < config.min_chars and len(caption) + len(_WIDE.findall(caption)) < config.min_chars:
        return "too_short"
    if len(caption) > config.max_chars:
        return "too_long"
    if config.drop_file_names and is_file_name(caption):
        return "file_name"
    if config.drop_dates and len(caption) <= _MAX_DATE_CHARS and _is_date(caption):
        return "date"
    if config.drop_placeholders and _is_placeholder(caption):
        return "placeholder"
    if config.drop_keyword_lists and is_keyword_list(
        caption, min_keywords=config.min_keywords, max_words_per_keyword=config.max_words_per_keyword
    ):
        return "keyword_list"
    if config.drop_web_addresses and num_spaces == 0 and _ADDRESS.match(caption) and not _NET_PRODUCT.match(caption):
        return "web_address"
    if config.max_words is not None and num_spaces + 1 > config.max_words:
        return "too_long"
    return None


def _is_date(caption: str) -> bool:
    if not _DIGIT.search(caption):
        return False
    has_clock_letters = False
    for word in _LETTERS.findall(caption):
        lowered = word.lower()
        if lowered not in _DATE_WORDS:
            if lowered not in _CLOCK_LETTERS:
                return False
            has_clock_letters = True
    if has_clock_letters:
        caption = _ISO_TIME.sub(" ", _HALF_DAY.sub(r" \1\2", caption))
        if any(word.lower() not in _DATE_WORDS for word in _LETTERS.findall(caption)):
            return False
    return _NUMBERS_AND_MARKS.match(_LETTERS.sub("", caption)) is not None


def _is_placeholder(caption: str) -> bool:
    if len(caption) <= _MAX_PLACEHOLDER_CHARS and (
        _NOT_LETTERS.sub("", caption).lower() in _PLACEHOLDERS or caption in _WRITTEN_VALUES
    ):
        return True
    return has_template(caption) or (caption[0] in "nNtT" and caption.lower().startswith(_NO_TEXT))


@dataclass(frozen=True, kw_only=True)
class Clean(Stage):
    """`clean` as a stage of the page."""

    config: CleanConfig

    name: ClassVar[str] = "clean"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("alt_text",)
    adds: ClassVar[tuple[str, ...]] = ("caption",)
    reasons: ClassVar[Mapping[str, str]] = {
        "empty": "nothing is left after white space and control characters are gone",
        "too_short": "fewer characters or words than the limit",
        "too_long": "more characters than the limit and no word's end to cut at, or more words than the limit",
        "file_name": "the text is a file name without words",
        "date": "the text is a date, a time or a number",
        "placeholder": "the text says only that there is a picture or no text: image, untitled, nan, {{ title }}",
        "keyword_list": "a list of search terms, not a description",
        "web_address": "the text is a URL or an e-mail address",
    }

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return clean(batch, self.config)

    def key_parts(self) -> Any:
        name, version, fields = super().key_parts()
        if self.config.max_words is None:  # as it was before there was the option
            config = to_mapping(self.config)
            del config["max_words"]
            fields["config"] = config
        return [name, version, fields]
