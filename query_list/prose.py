"""Wikitext to prose: the parser is mwparserfromhell's; here is only what of its stream of tokens is running text.

    wikitext --tokenizer (compiled)--> tokens, balanced --one walk--> prose, names of templates

The tree that `mwparserfromhell.parse` would build from the same tokens costs four times what they do, and
nothing here needs it; the tests hold the walk to the tree.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from typing import Any, cast

from mwparserfromhell.parser import Parser, ParserError, tokens

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
_SOMETHING = " \u2026 "  # something stood here that is no prose: the words around it are no neighbours

_OPENING = (
    *(tokens.TemplateOpen, tokens.ArgumentOpen, tokens.WikilinkOpen, tokens.ExternalLinkOpen),
    *(tokens.HTMLEntityStart, tokens.HeadingStart, tokens.CommentStart, tokens.TagOpenOpen),
)
_CLOSING = (
    *(tokens.TemplateClose, tokens.ArgumentClose, tokens.WikilinkClose, tokens.ExternalLinkClose),
    *(tokens.HTMLEntityEnd, tokens.HeadingEnd, tokens.CommentEnd, tokens.TagCloseClose, tokens.TagCloseSelfclose),
)
_STEP: dict[type, int] = {**dict.fromkeys(_OPENING, 1), **dict.fromkeys(_CLOSING, -1)}
_OPENS_TAG = (tokens.TagAttrStart, tokens.TagCloseOpen, tokens.TagCloseSelfclose)
_ENDS_TAG = (tokens.TagCloseOpen, tokens.TagCloseSelfclose)
_ENDS_NAME = (tokens.TemplateParamSeparator, tokens.TemplateClose)
_ENDS_TITLE = (tokens.WikilinkSeparator, tokens.WikilinkClose)
_ENDS_ADDRESS = (tokens.ExternalLinkSeparator, tokens.ExternalLinkClose)


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
        # The public `Parser.parse` goes on to build the tree.
        stream: Sequence[Any] = cast(Any, Parser)()._tokenizer.tokenize(wikitext, 0, False)
        return _walk(stream, namespaces)
    except (ParserError, RecursionError, IndexError):  # IndexError: what was opened is never closed
        return None


def _walk(stream: Sequence[Any], namespaces: Collection[str]) -> Article:
    prose: list[str] = []
    templates: set[str] = set()
    ends: list[str] = []  # what to write where each of the constructs that are open now ends
    i = 0
    size = len(stream)
    while i < size:
        token = stream[i]
        kind = type(token)
        if kind is tokens.Text:
            prose.append(token["text"])
            i += 1
        elif kind is tokens.TemplateOpen:
            if not ends:
                name, _ = _text(stream, i + 1, _ENDS_NAME)
                templates.add(name.strip().lower().replace("_", " "))
            prose.append(_SOMETHING)  # a template may put words here
            i = _after(stream, i)
        elif kind is tokens.WikilinkOpen:
            title, j = _text(stream, i + 1, _ENDS_TITLE)
            prefix, colon, _ = title.partition(":")
            known = prefix.strip().lower().replace("_", " ")
            if colon and (known in namespaces or known in _EVERYWHERE):
                i = _after(stream, i)
                continue
            if type(stream[j]) is tokens.WikilinkClose:
                prose.append(title)
            else:
                ends.append("")
            i = j + 1
        elif kind is tokens.TagOpenOpen:
            name, j = _text(stream, i + 1, _OPENS_TAG)
            name = name.strip().lower()
            if name in _NOT_PROSE:
                prose.append(_SOMETHING)
                i = _after(stream, i)
                continue
            _, j = _text(stream, j, _ENDS_TAG)
            edge = "\n" if name in _BLOCKS else ""
            prose.append(edge)
            (ends if type(stream[j]) is tokens.TagCloseOpen else prose).append(edge)
            i = j + 1
        elif kind is tokens.TagOpenClose:  # the name of the end tag follows
            _, i = _text(stream, i + 1, (tokens.TagCloseClose,))
        elif kind is tokens.ExternalLinkOpen:
            _, j = _text(stream, i + 1, _ENDS_ADDRESS)
            if token.get("brackets") and type(stream[j]) is tokens.ExternalLinkSeparator:
                ends.append("")
                i = j + 1
            else:
                i = _after(stream, i)
        elif kind is tokens.HTMLEntityStart:
            prose.append(_entity(stream, i + 1))
            i = _after(stream, i)
        elif kind is tokens.HeadingStart:
            prose.append("\n")
            ends.append("\n")
            i += 1
        elif kind in _CLOSING:
            prose.append(ends.pop())
            i += 1
        else:  # comments, and the arguments of templates
            i = _after(stream, i)
    return Article("".join(prose), frozenset(templates))


def _after(stream: Sequence[Any], i: int) -> int:
    """The index behind the construct that opens at `i`."""
    depth = 0
    while True:
        depth += _STEP.get(type(stream[i]), 0)
        i += 1
        if depth <= 0:
            return i


def _text(stream: Sequence[Any], i: int, stops: tuple[type, ...]) -> tuple[str, int]:
    """The plain text from `i` to the first of `stops` that belongs to the same construct, and its index."""
    parts: list[str] = []
    while type(stream[i]) not in stops:
        token = stream[i]
        if type(token) is tokens.Text:
            parts.append(token["text"])
            i += 1
        elif _STEP.get(type(token)) == 1:
            if type(token) is tokens.HTMLEntityStart:
                parts.append(_entity(stream, i + 1))
            i = _after(stream, i)
        else:
            i += 1
    return "".join(parts), i


def _entity(stream: Sequence[Any], i: int) -> str:
    mark = ""
    while type(stream[i]) is not tokens.Text:
        mark += "x" if type(stream[i]) is tokens.HTMLEntityHex else "#"
        i += 1
    return html.unescape(f"&{mark}{stream[i]['text']};")
