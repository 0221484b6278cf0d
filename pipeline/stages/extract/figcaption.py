"""The text of a figure's caption, as a reader sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["Figcaptions"]

_UNSEEN = frozenset({"script", "style", "noscript", "template", "-comment"})
_BREAKS = frozenset(
    {
        "address", "article", "aside", "blockquote", "br", "center", "dd", "details", "dialog", "dir", "div", "dl",
        "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header",
        "hgroup", "hr", "legend", "li", "listing", "main", "menu", "nav", "ol", "option", "p", "pre", "search",
        "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
    }
)  # fmt: skip
"""Elements that stand apart from what is before and behind them (HTML Standard, sections 15.3.3 to 15.3.10)."""


class Figcaptions:
    """The captions of one page's figures, each read once."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def of(self, node: Any) -> str:
        """The text of the caption of the figure around a node; "" if there is none.

        White space stands where an element breaks the line; scripts, styles, `noscript` and `template` are left out.
        """
        figure = _figure_around(node)
        if figure is None:
            return ""
        if figure.mem_id not in self._known:
            self._known[figure.mem_id] = _caption_of(figure)
        return self._known[figure.mem_id]


def _caption_of(figure: Any) -> str:
    caption = next((each for each in figure.css("figcaption") if _is_same(_figure_around(each), figure)), None)
    if caption is None:
        return ""
    pieces: list[str] = []
    may_break = False
    for text in _texts(caption):
        if text is None:
            may_break = True
        elif text:
            if may_break and pieces and not pieces[-1][-1].isspace() and not text[0].isspace():
                pieces.append(" ")
            pieces.append(text)
            may_break = False
    return "".join(pieces).strip()


def _figure_around(node: Any) -> Any:
    parent = node.parent
    while parent is not None and parent.tag != "figure":
        parent = parent.parent
    return parent


def _is_same(node: Any, other: Any) -> bool:
    return node is not None and node.mem_id == other.mem_id  # == would compare their HTML


def _texts(top: Any) -> Iterator[str | None]:
    """The texts in a node, and null where there is a break. Without recursion: pages nest as deep as they like."""
    node, depth = top.child, 0
    while node is not None:
        tag = node.tag
        if tag == "-text":
            yield node.text_content
        elif tag in _BREAKS:
            yield None
        if tag not in _UNSEEN and node.child is not None:
            node, depth = node.child, depth + 1
            continue
        while node.next is None and depth:
            node, depth = node.parent, depth - 1
            if node.tag in _BREAKS:
                yield None
        if tag in _BREAKS:
            yield None
        node = node.next
