"""Entities and URLs, held to a browser's parser and to urljoin."""

from __future__ import annotations

from html.entities import html5
from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from pipeline.stages.extract.links import directives_of, resolver, unescape_attribute

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


_BASES = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https"]),
    st.sampled_from(["h", "example.com:8080", "user@h", "ä.de"]),
    st.sampled_from(["", "/", "/a", "/a/", "/a/b.html", "/a/../b/", "/./x", "/a//b", "/a;p/b"]),
    st.sampled_from(["", "?q=/x/y", "#f/g", "?a#b"]),
)
_RELATIVE = st.one_of(
    st.text(alphabet="ab./%-_~+,=@?&#!$'()*é", max_size=14),
    st.lists(st.sampled_from(["../", "./", "a", "b.c", "/", "?x=1", "&y", "..", ";", ":", "#f"]), max_size=6).map(
        "".join
    ),
)


@given(_BASES, _RELATIVE)
def test_relative_urls_resolve_as_urljoin_does(base: str, url: str) -> None:
    expected = urljoin(base, url) if url else ""
    assert resolver(base)(url) == expected


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_url_resolves_without_error(base: str, url: str) -> None:
    resolver(base)(url)
    resolver("http://example.com/a")(url)


def test_url_without_base_stays_without_host() -> None:
    assert not resolver("")("/p.jpg").startswith("http")
    assert resolver("")(" https://h/p.jpg\n") == "https://h/p.jpg"


def test_directives_are_words_in_lower_case() -> None:
    assert directives_of(["NoAI,noindex", "bot: noimageai"]) == {"noai", "noindex", "bot", "noimageai"}
