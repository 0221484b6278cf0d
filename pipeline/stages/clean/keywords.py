"""Lists of search terms, and the sentences that have as many commas."""

from __future__ import annotations

import re

__all__ = ["is_keyword_list"]

_SEPARATOR = re.compile(r"[,;|]")
_SENTENCE_WORDS = frozenset(
    """a an the this that these those its his her their he she they we you who which is are was were be been has have
    had shows showing titled""".split()  # noqa: SIM905  # easier to read so
)
"""English words that bind a sentence, and that people who list search terms leave out."""
_ENDS = re.compile(r"[.!?\u2026\u3002][\"'\u2019\u201d)\]]*\Z")
_CONJUNCTION = re.compile(r"(?:and|or|et|und|y|e|i)\s", re.IGNORECASE)
_CLAUSE_WORDS = 5


def is_keyword_list(caption: str, *, min_keywords: int, max_words_per_keyword: float) -> bool:
    """Whether so many parts stand between commas, semicolons or bars, with so few words each, and make no sentence."""
    if caption.count(",") + caption.count(";") + caption.count("|") + 1 < min_keywords:
        return False
    parts = [part for part in (piece.split() for piece in _SEPARATOR.split(caption)) if part]
    if len(parts) < min_keywords or sum(map(len, parts)) > max_words_per_keyword * len(parts):
        return False
    return not _is_sentence(caption, parts)


def _is_sentence(caption: str, parts: list[list[str]]) -> bool:
    """Whether a text of many short parts is a sentence that lists things.

    In any language: it begins with a capital, ends with a full stop and one part is a clause. In English: it has a
    word that binds sentences, and either such an end, or an "and" before the last part, or a clause with that word.
    """
    ends = _ENDS.search(caption) is not None
    clauses = [part for part in parts if len(part) >= _CLAUSE_WORDS]
    if ends and clauses and caption[:1].isupper():
        return True
    if not any(word.lower() in _SENTENCE_WORDS for part in parts for word in part):
        return False
    if ends or _CONJUNCTION.match(" ".join(parts[-1])):
        return True
    return any(word.lower() in _SENTENCE_WORDS for clause in clauses for word in clause)
