"""Word lists: what the identifier does not know of short texts.

    builtin (package pyspellchecker), files --lower case, runs of letters--> Lexicon

A text is known to a lexicon where each of its words with letters is: `The dogs' 2 beds` asks for the, dogs and beds.
What a word is made of is defined here, once for the lists and for the texts; the kernel does the same to bytes, and
the tests hold it to `count_words`.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import json
import re
import unicodedata
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError

__all__ = [
    "BUILTIN",
    "BUILTIN_LANGUAGES",
    "Lexicon",
    "count_words",
    "is_letter",
    "lexicon_fingerprint",
    "load_lexicon",
]

BUILTIN = "builtin"
BUILTIN_LANGUAGES = ("ar", "de", "en", "es", "eu", "fa", "fr", "it", "lv", "nl", "pt", "ru")
"""Languages for which the installed package pyspellchecker (MIT) carries a list: words of film subtitles, checked
against dictionaries."""

_WHITE = re.compile("[ \t\n\v\f\r\0]+")
"""What separates words for fastText (`dictionary.cc`, readWord)."""
_END_OF_TEXT = "</s>"
_FIRST_IDEOGRAPH, _FIRST_NO_LETTER = 0x20000, 0x40000


@dataclass(frozen=True, kw_only=True, eq=False)
class Lexicon:
    """The words of one or several lists, in lower case."""

    words: frozenset[str]


def is_letter(character: str) -> bool:
    """Whether a character is part of a word: letters, and the marks that stand on them."""
    if ord(character) >= _FIRST_IDEOGRAPH:
        return ord(character) < _FIRST_NO_LETTER
    return character.isalpha() or unicodedata.category(character)[0] == "M"


def count_words(text: str, lexicon: Collection[str]) -> tuple[int, bool]:
    """How many words of `text` have letters, and whether there are such and `lexicon` has all their runs of letters."""
    with_letters, known = 0, True
    for word in _WHITE.split(text.lower()):
        if word == _END_OF_TEXT:
            break
        runs = list(_runs(word))
        with_letters += bool(runs)
        known = known and all(run in lexicon for run in runs)
    return with_letters, known and with_letters > 0


def load_lexicon(language: str, sources: tuple[str, ...]) -> Lexicon:
    """The words of all `sources`: `builtin`, or files of one word or phrase a line (UTF-8, may be .gz).

    Kept by the process until a file changes. Raises InputError for a file that is missing or cannot be read.
    """
    return _load(tuple(_stamp(_path_of(language, source)) for source in sources))


def lexicon_fingerprint(language: str, sources: tuple[str, ...]) -> str:
    """64 hex digits over the bytes of all `sources`. Raises InputError as `load_lexicon` does."""
    return _fingerprint(tuple(_stamp(_path_of(language, source)) for source in sources))


_Stamp = tuple[Path, int, int]
_OF_THE_PACKAGE = ".json.gz"


@functools.lru_cache(maxsize=64)
def _load(stamps: tuple[_Stamp, ...]) -> Lexicon:
    words = frozenset(run for path, _, _ in stamps for entry in _entries(path) for run in _runs(entry.lower()))
    return Lexicon(words=words)


@functools.lru_cache(maxsize=64)
def _fingerprint(stamps: tuple[_Stamp, ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in stamps:
        digest.update(hashlib.sha256(_read(path)).digest())
        if not path.name.endswith(_OF_THE_PACKAGE):  # takes 40 ms to read, at every plan and status
            next(_entries(path), None)  # a list that cannot be read must not wait for the first worker to be seen
    return digest.hexdigest()


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return path, status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=64)
def _path_of(language: str, source: str) -> Path:
    """Where a list is; pyspellchecker itself is not imported."""
    if source != BUILTIN:
        return Path(source)
    found = importlib.util.find_spec("spellchecker")
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        path = Path(folder) / "resources" / f"{language}.json.gz"
        if path.is_file():
            return path
    raise InputError(
        f"language.lexicons: no built-in list for {language}: the package pyspellchecker, which carries it, is not "
        f"installed; install it, or set lexicons: {{{language}: []}}"
    )


def _entries(path: Path) -> Iterator[str]:
    """A list's words and phrases, as they are written. What cannot be read shows before the first of them."""
    data = _read(path)
    try:
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
        yield from json.loads(text) if path.name.endswith(_OF_THE_PACKAGE) else text.splitlines()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise _unreadable(path, error) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return InputError(
        f"{path}: cannot read the word list ({reason}); language.lexicons takes files of one word a line, in UTF-8"
    )


def _runs(word: str) -> Iterator[str]:
    """The runs of letters of a word in lower case."""
    if word.isalpha() and word.isascii():
        yield word
        return
    run = ""
    for character in word:
        if is_letter(character):
            run += character
        elif run:
            yield run
            run = ""
    if run:
        yield run
