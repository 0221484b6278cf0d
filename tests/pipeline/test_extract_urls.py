"""URLs and texts as compiled code makes them, held to what Python makes of them."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.identity import canonical_url
from pipeline.stages.extract.links import resolver, unescape_attribute
from pipeline.stages.extract.url_scan import base_parts, canonical, join, unescape

_FRAGMENTS = [
    "http://", "https://", "HTTP://", "//", "/", "a", "b.c", "../", "./", "..", ".", "?", "?q=1", "#", "#f", ":80",
    ":443", ":8080", ":080", "Ex.org", "ex.org", "u@", "[", "]", "{", "|", '"', "<", " ", "\\", "\r", "\n", "\t",
    ":", ";", "=", "+", "%41", "%2e", "%2F", "%c3%bc", "%", "%zz", "é", "\xa0", "\u3000", "狗", "\x7f", "data:",
    "-", "_", "~", "!", "*", "(", ",", "&", "&amp;", "&b=2", "&copy", "&copy;", "&quot;", "&nbsp;", "&lt;b",
    "&#39;", "&#x27;", "&#8217;", "&#128;", "&#0;", "&#x110000;", "&#xD800;", "&#1234567;", "&#", "&#;", "&1;",
    "&amp", "&ampx;",
]  # fmt: skip
_pieces = st.lists(st.sampled_from(_FRAGMENTS), max_size=8).map("".join)
_URLS = st.builds(
    "{}{}".format, st.sampled_from(["http://ex.org/", "https://Ex.org", "/", "//ex.org/", "../", ""]), _pieces
)
_BASES = st.one_of(
    st.sampled_from(
        [
            "http://a.b/c/d.html",
            "https://A.b",
            "http://a.b/x/y/z/?q=/w",
            "",
            "ftp://a/",
            "http://a.b/.x/y",
            "http://a.b/c//d",
        ]
    ),
    st.builds("http://{}".format, _pieces),
)


@numba.njit
def _read(text, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Ends of the URL, of its absolute form and of its canonical form behind it, UNSURE from the first that is not
    sure; text[:start] is the base URL."""
    out = np.zeros(4 * text.shape[0], np.uint8)
    decoded = unescape(text, start, end)
    if decoded < 0:
        return decoded, decoded, decoded, out
    root, folder = base_parts(text, np.int64(0), start)
    absolute = join(text, start, decoded, np.int64(0), root, folder, out, np.int64(0))
    if absolute < 0:
        return decoded, absolute, absolute, out
    return decoded, absolute, canonical(out, np.int64(0), absolute, out, absolute), out


def _forms(base: str, url: str) -> list[str | None]:
    """The URL decoded, absolute and canonical; null where compiled code is not sure."""
    first, second = base.encode(), url.encode()
    text = np.frombuffer(first + second + bytes(8), np.uint8).copy()
    decoded, absolute, identity, out = _read(text, len(first), len(first) + len(second))
    return [
        text[len(first) : decoded].tobytes().decode() if decoded >= 0 else None,
        out[:absolute].tobytes().decode() if absolute >= 0 else None,
        out[absolute:identity].tobytes().decode() if identity >= 0 else None,
    ]


@given(_BASES, _URLS)
@settings(max_examples=2000)
def test_what_compiled_code_is_sure_of_is_what_python_makes_of_it(base: str, url: str) -> None:
    decoded, absolute, identity = _forms(base, url)
    if decoded is not None:
        assert decoded == unescape_attribute(url)
    if absolute is not None:
        assert absolute == resolver(base)(decoded or "")
    if identity is not None:
        assert identity == canonical_url(absolute or "")


@pytest.mark.parametrize("code", range(256))
def test_every_character_and_escape_is_canonical_as_python_makes_it(code: int) -> None:
    for piece in (chr(code), f"%{code:02X}", f"%{code:02x}", f"%{code:02x}"[:2]):
        for url in (f"http://a.b/x{piece}y", f"http://a.b/{piece}?{piece}=1", f"http://a.b{piece}"):
            _, absolute, identity = _forms("http://a.b/", url)
            assert identity is None or identity == canonical_url(absolute or "")


@pytest.mark.parametrize(
    ("url", "absolute", "identity"),
    [
        ("http://Ex.org/a.jpg", "http://Ex.org/a.jpg", "http://ex.org/a.jpg"),
        ("https://ex.org?a=1&amp;b=[2]#c", "https://ex.org?a=1&b=[2]#c", "https://ex.org/?a=1&b=%5B2%5D"),
        ("http://ex.org:8080/%7ea/%c3%bc%2f", "http://ex.org:8080/%7ea/%c3%bc%2f", "http://ex.org:8080/~a/%C3%BC%2F"),
        ("//cdn.ex.org/狗.png".replace("狗", "a"), "https://cdn.ex.org/a.png", "https://cdn.ex.org/a.png"),
        ("/b.png?v=1", "https://a.b/b.png?v=1", "https://a.b/b.png?v=1"),
        ("b.png", "https://a.b/c/d/b.png", "https://a.b/c/d/b.png"),
        ("../../../b.png", "https://a.b/b.png", "https://a.b/b.png"),
        ("http://ex.org/ü?é", "http://ex.org/ü?é", None),  # the end might be white space, which is stripped
        ("http://ex.org/ü.png", "http://ex.org/ü.png", "http://ex.org/%C3%BC.png"),
        ("http://u@ex.org/", "http://u@ex.org/", None),
        ("http://ex.org/a/../b", "http://ex.org/a/../b", None),
        ("a b.png", None, None),
        ("data:image/gif;base64,R0", None, None),
    ],
)
def test_usual_urls_are_sure(url: str, absolute: str | None, identity: str | None) -> None:
    assert _forms("https://a.b/c/d/e.html", url)[1:] == [absolute, identity]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Tom &amp; Jerry&#8217;s &quot;x&quot; &#x1F600;", 'Tom & Jerry\u2019s "x" \U0001f600'),
        ("?a=1&copy=2&b", None),
        ("?a=1&copy=2", "?a=1&copy=2"),
        ("AT&T", None),
        ("a & b &1 &", "a & b &1 &"),
        ("&copy;", None),
        ("&#150;", None),
        ("a\r\nb", None),
    ],
)
def test_usual_entities_are_sure(raw: str, text: str | None) -> None:
    assert _forms("", raw)[0] == text
