"""URLs as browsers read them, and that identities do not change by it. The compiled reader is held to the same rules in
`test_extract_urls.py`, so that two independent readers agree."""

from __future__ import annotations

from urllib.parse import urljoin

import idna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records.identity import canonical_url
from pipeline.web.urls import _resolve, base_url, resolver, without_user_info

_PAGE = "https://ex.org/d/page.html?q#f"


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("a.jpg", "https://ex.org/d/a.jpg"),
        ("../../a.jpg", "https://ex.org/a.jpg"),
        ("?i=1", "https://ex.org/d/page.html?i=1"),
        ("//cdn.org", "https://cdn.org/"),
        (" a\n.j\tpg\x00", "https://ex.org/d/a.jpg"),
        ("..\\a.jpg", "https://ex.org/a.jpg"),
        ("https:a.jpg", "https://ex.org/d/a.jpg"),
        ("http:a.jpg", "http://a.jpg/"),
        ("https:\\/h.org/a", "https://h.org/a"),
        ("HTTP://H.org:80/a//../b", "http://h.org/a/b"),
        ("x//y.jpg", "https://ex.org/d/x//y.jpg"),
        ("/%2e%2E/a.jpg", "https://ex.org/a.jpg"),
        ("/100%/ü |^.jpg", "https://ex.org/100%/%C3%BC%20|%5E.jpg"),
        ("/a?ü \"'<>`{}|\\^[]", "https://ex.org/a?%C3%BC%20%22'%3C%3E`{}|\\^[]"),
        ("/a?", "https://ex.org/a?"),
        # Signatures are over the spelling: no escape is touched.
        ("/signed/a%2Db%7E.jpg?X-Sig=%2d%2f%7e", "https://ex.org/signed/a%2Db%7E.jpg?X-Sig=%2d%2f%7e"),
        ("a.jpg#x", "https://ex.org/d/a.jpg"),
        ("a.jpg\xa0\u3000", "https://ex.org/d/a.jpg"),
        ("\ud83d.jpg", "https://ex.org/d/%EF%BF%BD.jpg"),
        ("http://1.2.3/a", "http://1.2.0.3/a"),
        ("http://[::1]:8080/a", "http://[::1]:8080/a"),
        ("http://ex%61mple.org/a", "http://example.org/a"),
        ("data:,x", "data:,x"),
        ("javascript:void(0)", "javascript:void(0)"),
        ("about:blank", "about:blank"),
    ],
)
def test_url_is_read_as_browsers_do(url: str, absolute: str) -> None:
    assert resolver(_PAGE)(url) == absolute


@pytest.mark.parametrize(
    "url",
    [
        "", " ", "#", "#top", "//:0", "//", "http://", "http:///", "http://[x", "http://a b/", "http://a%20b/",
        "http://a<b/", "http://a%00b/", "http://1.2.3.400/", "http://1.2.3.4.5/", "http://a:99999/", "http://a:x/",
        "http://\xad/", "http://a\u200db.org/", "http://xn--a.ü.org/", "http://a^b/",
    ],
)  # fmt: skip
def test_what_browsers_do_not_request_has_no_url(url: str) -> None:
    assert resolver(_PAGE)(url) == ""


@pytest.mark.parametrize(
    ("host", "ascii_host"),
    [
        ("☃.net", "xn--n3h.net"),
        ("i❤.ws", "xn--i-7iq.ws"),
        ("büro_1.example", "xn--bro_1-kva.example"),
        ("ex-ämple-.com", "xn--ex-mple--2za.com"),
        ("ab--ü.de", "xn--ab---3ra.de"),
        ("-ü.de", "xn----eha.de"),
        ("ü..de", "xn--tda..de"),
        ("m%C3%BCnchen.de", "xn--mnchen-3ya.de"),
        ("MÜNCHEN。de", "xn--mnchen-3ya.de"),
        ("faß.de", "xn--fa-hia.de"),
        ("xn--n3h.net", "xn--n3h.net"),
        ("XN--FA-HIA.de", "xn--fa-hia.de"),
        ("xn--a.org", "xn--a.org"),  # no Punycode, but ASCII names pass as they are, by the standard of today
        ("my_host-.a.b", "my_host-.a.b"),
    ],
)
def test_international_hosts_are_named_as_browsers_do(host: str, ascii_host: str) -> None:
    absolute = resolver("")(f"http://{host}/a.jpg")
    assert absolute == f"http://{ascii_host}/a.jpg"
    assert canonical_url(absolute) == absolute
    if "%" not in host:
        assert canonical_url(f"http://{host}/a.jpg") == absolute


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("http://user:pass@h.org/a@b", "http://h.org/a@b"),
        ("http://@h.org/", "http://h.org/"),
        ("http://a@b@h.org/", "http://h.org/"),
        ("//u@h.org/", "//h.org/"),
        ("http:\\\\u@h.org/", "http:\\\\h.org/"),
        ("ftp://u:p@h.org/x", "ftp://h.org/x"),
        ("https://medium.com/@user", "https://medium.com/@user"),
        ("http://h.org?a=//u@h", "http://h.org?a=//u@h"),
        ("mailto:a@b.org", "mailto:a@b.org"),
        ("a/b//u@h", "a/b//u@h"),
    ],
)
def test_user_info_is_taken_from_urls_and_nothing_else(url: str, bare: str) -> None:
    assert without_user_info(url) == bare


def test_user_info_is_no_part_of_what_is_requested() -> None:
    assert resolver("")("http://u:p@h.org/a.jpg") == "http://h.org/a.jpg"
    assert resolver("http://u:p@h.org/d/")("a.jpg") == "http://h.org/d/a.jpg"
    assert base_url("http://h.org/", "//u:p@b.org/") == "http://b.org/"


@pytest.mark.parametrize(
    ("href", "url"),
    [
        ("/x/", "https://ex.org/x/a.jpg"),
        ("?v=1", "https://ex.org/d/a.jpg"),
        ("//b.org", "https://b.org/a.jpg"),
        ("", "https://ex.org/d/a.jpg"),
        ("#x", "https://ex.org/d/a.jpg"),
        ("javascript:", "https://ex.org/d/a.jpg"),
        (" Java\nScript:void(0)", "https://ex.org/d/a.jpg"),
        ("data:text/html,x", "https://ex.org/d/a.jpg"),
        ("http://", "https://ex.org/d/a.jpg"),
        ("http://[bad", "https://ex.org/d/a.jpg"),
        ("http://a b/", "https://ex.org/d/a.jpg"),
        ("mailto:a@b.org", ""),
        ("file:///C:/site/", "file:///C:/site/a.jpg"),
    ],
)
def test_base_that_is_no_base_counts_for_nothing(href: str, url: str) -> None:
    assert resolver(base_url(_PAGE, href))("a.jpg") == url
    assert resolver(base_url(_PAGE, href))("http://h.org/b.jpg") == "http://h.org/b.jpg"


def test_url_without_base_has_none() -> None:
    assert resolver("")("/p.jpg") == ""
    assert resolver("dns:h.org")("p.jpg") == ""
    assert resolver("")(" https://h/p.jpg\n") == "https://h/p.jpg"


_PIECES = st.lists(
    st.sampled_from(
        ["a", "B.c", "/", ".", "..", "?", "#", ":", ":80", "@", "%41", "%2e", "%", "é", "'", " ", "|", "\\", "xn--n3h"]
    ),
    max_size=8,
).map("".join)


@given(
    st.sampled_from(["http://", "https://", "http://a.b", "http://a.b/", "/", "", "//", "../", "../../", "../../../a"]),
    _PIECES,
    st.sampled_from(
        [
            "",
            "http://a.b",
            "http://a.b:80/%2e/x",
            "http://a.b:8080/c/d",
            "https://a.b/c//%7e|/d?/e",
            "http://a.b/.x/c",
            "ftp://a",
        ]
    ),
)
def test_url_that_skips_the_parser_is_what_it_makes_of_it(start: str, rest: str, base: str) -> None:
    folder = base_url(base, "").partition("?")[0]
    assert resolver(base)(start + rest) == _resolve(start + rest, folder)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_url_resolves_without_error_and_only_once(base: str, url: str) -> None:
    for each in (base, "http://example.com/a"):
        absolute = resolver(each)(url)
        if absolute.startswith(("http://", "https://")):
            assert absolute.isascii()
            assert resolver("")(absolute) == absolute
            assert canonical_url(canonical_url(absolute)) == canonical_url(absolute)
    base_url(base, url)


@given(st.text(alphabet=st.characters(min_codepoint=0x21, exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_host_that_had_an_identity_keeps_it(label: str) -> None:
    try:
        known = idna.encode(f"{label}.x", uts46=True).decode("ascii")
    except UnicodeError:
        return
    assert resolver("")(f"http://{label}.x/") in ("", f"http://{known}/") or not set("/\\?#@:%").isdisjoint(label)


_KEPT = st.text(alphabet="ab./%-_~+,=@?&#!$'()*éF2 |\"", max_size=14)


@given(st.sampled_from(["http://h", "http://h/a/", "https://h.x:8080/a/b.html"]), _KEPT)
def test_identity_is_that_of_the_url_as_the_page_wrote_it(base: str, url: str) -> None:
    # What links were identified by before they were spelt as browsers do: by urljoin, which loses empty folders and an
    # empty query, and knows no escaped dots.
    joined = urljoin(base, url.strip())
    absolute = resolver(base)(url)
    is_same = "//" not in joined[8:] + url and "%2" not in url
    if absolute and is_same and joined == joined.strip():
        assert canonical_url(absolute) == canonical_url(joined)
