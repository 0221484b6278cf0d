"""URLs and texts as compiled code makes them, held to what Python makes of them."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records.identity import canonical_url
from pipeline.stages.extract.links import unescape_attribute
from pipeline.stages.extract.url_scan import base_parts, canonical, join, unescape
from pipeline.web.urls import resolver

_FRAGMENTS = [
    "http://", "https://", "HTTP://", "//", "/", "a", "b.c", "../", "./", "..", ".", "?", "?q=1", "#", "#f", ":80",
    ":443", ":8080", ":080", "Ex.org", "ex.org", "u@", "[", "]", "{", "|", '"', "<", " ", "\\", "\r", "\n", "\t",
    ":", ";", "=", "+", "%41", "%2e", "%2F", "%c3%bc", "%", "%zz", "é", "\xa0", "\u3000", "狗", "\x7f", "data:",
    "xn--n3h", "☃.", "0x7f", ".1", "|", "^", "`", "'", "%2E",
    "\u00ad", "-", "_", "~", "!", "*", "(", ",", "&", "&amp;", "&b=2", "&copy", "&copy;", "&quot;", "&nbsp;", "&lt;b",
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
            "http://a.b/%7e/%2e",
            "http://a.b/c\\d",
            "http://u:p@a.b:80/x/.",
            "http://1.2/x/",
        ]
    ),
    st.builds("http://{}".format, _pieces),
)


@numba.njit
def _read(text, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Ends of the URL, of its absolute form and of its canonical form behind it, UNSURE from the first that is not
    sure; whether the second is said to be canonical; and both. text[:start] is the base URL."""
    out = np.zeros(10 * text.shape[0], np.uint8)
    decoded = unescape(text, start, end)
    if decoded < 0:
        return decoded, decoded, decoded, False, out
    parts = base_parts(text, np.int64(0), start)
    absolute, is_canonical = join(text, start, decoded, np.int64(0), parts, out, np.int64(0))
    if absolute < 0:
        return decoded, absolute, absolute, False, out
    return decoded, absolute, canonical(out, np.int64(0), absolute, out, absolute), is_canonical, out


def _forms(base: str, url: str) -> list[str | None]:
    """The URL decoded, absolute and canonical; null where compiled code is not sure."""
    first, second = base.encode(), url.encode()
    text = np.frombuffer(first + second + bytes(8), np.uint8).copy()
    decoded, absolute, identity, is_canonical, out = _read(text, len(first), len(first) + len(second))
    forms = [
        text[len(first) : decoded].tobytes().decode() if decoded >= 0 else None,
        out[:absolute].tobytes().decode() if absolute >= 0 else None,
        out[absolute:identity].tobytes().decode() if absolute >= 0 else None,
    ]
    assert not is_canonical or forms[1] == forms[2]
    return forms


@given(_BASES, _URLS)
@settings(max_examples=2000)
def test_what_compiled_code_is_sure_of_is_what_python_makes_of_it(base: str, url: str) -> None:
    decoded, absolute, identity = _forms(base, url)
    if decoded is not None:
        assert decoded == unescape_attribute(url)
    if absolute is not None:
        assert absolute == resolver(base)(decoded or "")
        assert identity == canonical_url(absolute)


@given(_BASES, _URLS)
def test_url_means_the_same_to_its_identity_once_it_is_spelt_as_browsers_do(base: str, url: str) -> None:
    absolute = resolver(base)(url)
    if absolute.startswith(("http://", "https://")):
        assert absolute.isascii()
        assert resolver("")(absolute) == absolute
        canonical_url(absolute)


@pytest.mark.parametrize("code", range(256))
def test_every_character_and_escape_is_canonical_as_python_makes_it(code: int) -> None:
    for piece in (chr(code), f"%{code:02X}", f"%{code:02x}", f"%{code:02x}"[:2]):
        for url in (f"http://a.b/x{piece}y", f"http://a.b/{piece}?{piece}=1", f"http://a.b{piece}"):
            _, absolute, identity = _forms("http://a.b/", url)
            if absolute is not None:
                assert absolute == resolver("http://a.b/")(url)
                assert identity == canonical_url(absolute)


@pytest.mark.parametrize(
    ("url", "absolute", "identity"),
    [
        ("http://Ex.org/a.jpg", "http://ex.org/a.jpg", "http://ex.org/a.jpg"),
        ("https://ex.org?a=1&amp;b=[2]#c", "https://ex.org/?a=1&b=[2]", "https://ex.org/?a=1&b=%5B2%5D"),
        ("http://ex.org:8080/%7ea/%c3%bc%2f", "http://ex.org:8080/%7ea/%c3%bc%2f", "http://ex.org:8080/~a/%C3%BC%2F"),
        (
            "/signed/a%2Db.jpg?X-Sig=%2d%2f",
            "https://a.b/signed/a%2Db.jpg?X-Sig=%2d%2f",
            "https://a.b/signed/a-b.jpg?X-Sig=-%2F",
        ),
        ("//cdn.ex.org/a.png", "https://cdn.ex.org/a.png", "https://cdn.ex.org/a.png"),
        ("/b.png?v=1", "https://a.b/b.png?v=1", "https://a.b/b.png?v=1"),
        ("/b.png?", "https://a.b/b.png?", "https://a.b/b.png"),
        ("b.png", "https://a.b/c/d/b.png", "https://a.b/c/d/b.png"),
        ("b.png?a='b'&c={d}|e", "https://a.b/c/d/b.png?a='b'&c={d}|e", "https://a.b/c/d/b.png?a='b'&c=%7Bd%7D%7Ce"),
        ("../../../b.png", "https://a.b/b.png", "https://a.b/b.png"),
        ("ü/狗.png#x", "https://a.b/c/d/%C3%BC/%E7%8B%97.png", "https://a.b/c/d/%C3%BC/%E7%8B%97.png"),
        ("http://ex.org/ü?é", None, None),  # the end might be white space, which is dropped
        ("http://ex.org/ü.png", "http://ex.org/%C3%BC.png", "http://ex.org/%C3%BC.png"),
        ("http://u@ex.org/", None, None),
        ("http://ex.org/a/../b", None, None),
        ("http://ex.org/a/%2E./b", None, None),
        ("http://10.0.0.1/a", None, None),
        ("http://Xn--n3h.net/a", "http://xn--n3h.net/a", "http://xn--n3h.net/a"),
        ("http://ex.org:443/a", None, None),
        ("http://ex.org./a", None, None),
        ("a b.png", None, None),
        ("a:b.png", None, None),
        ("#a", None, None),
        ("?a", None, None),
        ("a\\b", None, None),
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
