"""The case of an article's name: MediaWiki begins every title with a capital, its prose tells which of them are names.

{{DISPLAYTITLE:iPhone}}, {{lowercase title}}, else what the article's own sentences say --> `iPhone`, `ice hockey`
"""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["name_of_article"]

_MAGIC_WORD = re.compile(r"\{\{\s*(\w+)\s*:([^{}]*)\}\}")
_MARKUP = re.compile(r"<[^<>]*>|'{2,}")
_QUALIFIER = re.compile(r"\s+\([^()]*\)\Z")
_OPENING = " \t\u00a0\"'(\u2018\u201c\u00ab"
_SENTENCE_ENDS = "\n.!?:;\u2026\u3002"


def name_of_article(
    title: str,
    prose: str,
    wikitext: str,
    templates: Collection[str],
    *,
    title_words: Collection[str],
    lowercase_templates: Collection[str],
    function_words: Collection[str],
) -> str:
    """The title as the article's readers see it, which differs from it in the case of letters at most.

    The page's own word goes first (DISPLAYTITLE, a template that lowers the first letter). Else the first letter is
    small where the article spells its name so more often than with a capital that begins no sentence. A name that
    goes on with capitals after a function word (The Beatles) keeps it: in a caption it stands as a name.
    """
    small = title[:1].lower() + title[1:]
    if small == title:
        return title
    for word, shown in _MAGIC_WORD.findall(wikitext):
        if word not in title_words:
            continue
        name = " ".join(_MARKUP.sub("", shown.replace("_", " ")).split())
        if name != title and name.casefold() == title.casefold():
            return name
    if any(template in lowercase_templates for template in templates):
        return small
    name = _QUALIFIER.sub("", title)
    first, _, rest = name.partition(" ")
    if first.lower() in function_words and rest != rest.lower():
        return title
    num_small = _count(prose, name[:1].lower() + name[1:], within_sentence=False)
    return small if num_small > _count(prose, name, within_sentence=True) else title


def _count(prose: str, name: str, *, within_sentence: bool) -> int:
    """How often `name` stands in `prose` as words of its own."""
    count = 0
    at = prose.find(name)
    while at >= 0:
        end = at + len(name)
        alone = not prose[at - 1 : at].isalnum() and not prose[end : end + 1].isalnum()
        if alone and within_sentence:
            before = prose[max(0, at - 20) : at].rstrip(_OPENING)
            alone = bool(before) and before[-1] not in _SENTENCE_ENDS
        count += alone
        at = prose.find(name, end)
    return count
