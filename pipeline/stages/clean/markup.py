"""What a caption must not keep of the page's machinery: entities, tags, and letters decoded by the wrong table."""

from __future__ import annotations

import html
import re
from html.entities import html5

__all__ = ["CONTINUATIONS", "fix_mojibake", "has_template", "strip_markup"]

# --- entities and tags --------------------------------------------------------------------------

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_INLINE = frozenset(
    """a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark nobr q s samp small span
    strike strong sub sup time tt u var""".split()  # noqa: SIM905  # easier to read so
)
"""Elements inside a line of text: nothing stands where their tags stood."""
_BLOCKS = frozenset(
    """address article aside blockquote br button caption center dd div dl dt embed figcaption figure footer form h1 h2
    h3 h4 h5 h6 header hr iframe img input li link main meta nav noscript object ol option p picture pre section
    select source svg table tbody td tfoot th thead tr ul video wbr""".split()  # noqa: SIM905  # easier to read so
)
"""The others: a space stands where their tags stood."""
_LONE = frozenset("br hr img input p li div span font nobr wbr link meta source embed td tr".split())  # noqa: SIM905  # easier to read so
"""Elements whose tag is one without an end tag or an attribute: HTML lets the end tag away, or authors do. Of
the others such a tag is a word: "the <table> element"."""
_ELEMENTS = _INLINE | _BLOCKS
_TAG = re.compile(r"<(?P<end>/?)(?P<name>[a-z][a-z0-9]*+)(?P<rest>[\s/][^<>]*+)?>", re.IGNORECASE | re.ASCII)
"""Of any element; `_shown` asks which."""
_MAY_BE_UNSEEN = re.compile("<(?:!--|script|style)", re.IGNORECASE)
_UNSEEN = (
    (re.compile("<!--"), re.compile("-->")),
    (re.compile(r"<script\b", re.IGNORECASE), re.compile(r"</script\s*+>", re.IGNORECASE)),
    (re.compile(r"<style\b", re.IGNORECASE), re.compile(r"</style\s*+>", re.IGNORECASE)),
)
"""Where what no reader sees begins, and where it ends."""


def strip_markup(text: str) -> str:
    """Entities decoded, once, and the tags of HTML's elements gone.

    The page's own entities are decoded by whoever read the page: one that is still there was escaped twice, or
    stood in a table. Without its semicolon it is none (`AT&T`, `?a=1&copy=2`).
    """
    if "&" in text and ";" in text:
        text = _ENTITY.sub(_decoded, text)
    if "<" in text:
        if _MAY_BE_UNSEEN.search(text):
            for begins, ends in _UNSEEN:
                text = _without(text, begins, ends)
        ended = {tag["name"].lower() for tag in _TAG.finditer(text) if tag["end"]}
        text = _TAG.sub(lambda tag: _shown(tag, ended), text)
    return text


def _without(text: str, begins: re.Pattern[str], ends: re.Pattern[str]) -> str:
    """`text` with a space for each such part; one pass, however hostile the text."""
    parts: list[str] = []
    at = 0
    while (begin := begins.search(text, at)) and (end := ends.search(text, begin.end())):
        parts += text[at : begin.start()], " "
        at = end.end()
    return "".join(parts) + text[at:]


def _decoded(entity: re.Match[str]) -> str:
    name = entity.group()[1:]
    return html.unescape(entity.group()) if name.startswith("#") or name in html5 else entity.group()


def _shown(tag: re.Match[str], ended: set[str]) -> str:
    name = tag["name"].lower()
    if name not in _ELEMENTS:
        return tag.group()
    if name not in ended and name not in _LONE and "=" not in (tag["rest"] or ""):
        return tag.group()
    return "" if name in _INLINE else " "


_TEMPLATE = re.compile(
    r"\{\{[^{}]+\}\}|\{%[^{}]+%\}|[$#]\{[\w.]+\}|<%[^<>]*%>|<\?(?:php|=)|\[object [A-Z]\w+\]", re.ASCII
)


def has_template(caption: str) -> bool:
    """Whether a place for a text stands there unfilled: `{{ product.title }}`, `[object Object]`."""
    if "{" not in caption and "<" not in caption and "[" not in caption:
        return False
    return "\\" not in caption and _TEMPLATE.search(caption) is not None  # formulas in TeX nest their braces


# --- mojibake -----------------------------------------------------------------------------------

_LEADS = {"\u00c2-\u00df": 1, "\u00e0-\u00ef": 2, "\u00f0-\u00f4": 3}
"""The bytes that begin a character in UTF-8, as Latin-1 and Windows-1252 show them, and how many must follow."""
CONTINUATIONS = "".join(sorted({*map(chr, range(0x80, 0xC0)), *bytes(range(0x80, 0xC0)).decode("cp1252", "ignore")}))
"""The bytes that go on with one, as either shows them."""
_LEADS_IN_UTF_8 = b"\xc3"
"""How every one of them begins in our own UTF-8: a search for one byte spares most texts the others."""
_PAIR = re.compile(f"[\u00c2-\u00f4][{re.escape(CONTINUATIONS)}]")
_MAYBE_MOJIBAKE = re.compile(
    "|".join(f"[{leads}][{re.escape(CONTINUATIONS)}]{{{count}}}" for leads, count in _LEADS.items())
)
_RIGHT = re.compile(
    r"(?<=[A-Z])[\u00c2-\u00df][\u2122\xae\xa9\u2019\u201d\xbb\u2026\u2013\u2014](?!\w)|(?<![^\W\d_])\xc5[\xb2\xb3](?!\w)"
)
"""Pairs that are rightly there: a mark behind a word in capitals (MANHÃ™), square angstroms."""


def fix_mojibake(text: str) -> str:
    """`text` as it was before its UTF-8 was read as Latin-1 or Windows-1252, where ftfy is sure of that.

    ftfy (Robyn Speer, "ftfy: fixes text for you") asks whether the letters are less odd when decoded anew; most texts
    have no run of characters that could be one of UTF-8, and are not asked about.
    """
    if text.isascii() or _LEADS_IN_UTF_8 not in text.encode("utf-8", "surrogatepass"):
        return text
    if not _PAIR.search(text) or not _MAYBE_MOJIBAKE.search(_RIGHT.sub("", text)):
        return text
    import ftfy

    return ftfy.fix_encoding(text)
