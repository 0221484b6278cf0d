"""Wikitext to prose: the parser is mwparserfromhell's; here is only what of its tree is running text."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Tag, Template, Text, Wikilink
from mwparserfromhell.parser import ParserError

__all__ = ["Article", "read_article"]

_NOT_PROSE = frozenset(
    {
        *("ref", "references", "table", "math", "chem", "ce", "code", "pre", "source", "syntaxhighlight", "score"),
        *("gallery", "imagemap", "timeline", "graph", "mapframe", "maplink", "templatedata", "hiero", "nowiki"),
        *("style", "script", "inputbox", "categorytree", "section", "includeonly", "noinclude", "onlyinclude"),
    }
)
_BLOCKS = frozenset({"br", "li", "dd", "dt", "dl", "ul", "ol", "p", "div", "hr", "blockquote", "center", "td", "tr"})
_EVERYWHERE = frozenset({"file", "image", "category", "media"})  # MediaWiki knows these names on every wiki


class Article:
    """An article's prose, and the names of the templates at its top level (lower case, no underscores)."""

    def __init__(self, prose: str, templates: frozenset[str]) -> None:
        self.prose = prose
        self.templates = templates


def read_article(wikitext: str, namespaces: Collection[str]) -> Article | None:
    """The article's prose, or None where the parser gives up.

    Templates, tables, references, formulas, comments and links into `namespaces` (lower case: pictures,
    categories, other projects) are left out. A line break stands where one block of text ends.
    """
    try:
        code = mwparserfromhell.parse(wikitext)
    except (ParserError, RecursionError):
        return None
    templates = frozenset(
        str(node.name).strip().lower().replace("_", " ") for node in code.nodes if isinstance(node, Template)
    )
    try:
        return Article("".join(_prose(code, namespaces)), templates)
    except RecursionError:
        return None


def _prose(code: object, namespaces: Collection[str]) -> Iterator[str]:
    for node in code.nodes:  # type: ignore[attr-defined]  # the parser ships no types
        if isinstance(node, Text):
            yield node.value
        elif isinstance(node, Wikilink):
            title = str(node.title)
            prefix, colon, _ = title.partition(":")
            known = prefix.strip().lower().replace("_", " ")
            if colon and (known in namespaces or known in _EVERYWHERE):
                continue
            if node.text is None:
                yield title
            else:
                yield from _prose(node.text, namespaces)
        elif isinstance(node, Tag):
            name = str(node.tag).strip().lower()
            if name in _NOT_PROSE:
                yield " \u2026 "  # something stood here: the words around it are no neighbours
                continue
            if name in _BLOCKS:
                yield "\n"
            if node.contents is not None:
                yield from _prose(node.contents, namespaces)
            if name in _BLOCKS:
                yield "\n"
        elif isinstance(node, HTMLEntity):
            yield node.normalize() or " "
        elif isinstance(node, ExternalLink):
            if node.brackets and node.title is not None:
                yield from _prose(node.title, namespaces)
        elif isinstance(node, Heading):
            yield "\n"
            yield from _prose(node.title, namespaces)
            yield "\n"
        elif isinstance(node, Template):
            yield " \u2026 "  # a template may put words here
