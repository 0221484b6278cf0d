"""Entities, held to a browser's parser."""

from __future__ import annotations

from html.entities import html5

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from pipeline.stages.extract.links import unescape_attribute

_NAMES = st.sampled_from(sorted(html5))
_PIECES = st.one_of(
    st.builds("&{}".format, _NAMES),
    st.builds("&{}{}".format, _NAMES, st.sampled_from(["=", "x", "1", ";", " "])),
    st.builds("&#{};".format, st.integers(0, 0x120000)),
    st.builds("&#x{:x}".format, st.integers(0, 0x120000)),
    st.sampled_from(
        [
            "&",
            "&#",
            "&#x",
            "&#;",
            "&#xg;",
            "\r\n",
            "\r",
            "\n",
            "\0",
            "é",
            "a",
            "=",
            "&#0000000000065;",
            "&#99999999999;",
        ]
    ),
    st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters='"'), max_size=5),
)


@given(st.lists(_PIECES, max_size=8).map("".join))
def test_entities_are_decoded_as_the_browser_parser_does(raw: str) -> None:
    node = LexborHTMLParser(f'<img alt="x{raw}">').css_first("img")
    assert "x" + unescape_attribute(raw) == node.attributes["alt"]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("?a=1&copy=2&reg=3&amp;b", "?a=1&copy=2&reg=3&b"),
        ("&copy 2020 &copy; &notit; &ampx", "© 2020 © &notit; &ampx"),
        ("&#x27;&#39;&quot;&nbsp;", "''\"\xa0"),
        ("&#150;&#x80;", "–€"),
        ("&#0;&#xD800;&#x110000;", "\ufffd\ufffd\ufffd"),
    ],
)
def test_entities_in_attributes(raw: str, text: str) -> None:
    assert unescape_attribute(raw) == text
