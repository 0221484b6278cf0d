"""Test vectors of canonical URL v1, uid and keyed hash. They are stable for ever: never edit an expectation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records.identity import (
    _canonical_by_parts,
    _is_canonical,
    canonical_url,
    first_64_bits,
    ids_of,
    keyed_hash,
    text_hash,
    uid_of,
    url_id_of,
)

VECTORS = [
    ("HTTP://Example.COM:80", "http://example.com/"),
    ("https://example.com:443/a", "https://example.com/a"),
    ("https://example.com:8443/a", "https://example.com:8443/a"),
    ("http://a.b/c/../d/./e?x=1#f", "http://a.b/d/e?x=1"),
    ("http://a.b/../../x", "http://a.b/x"),
    ("http://a.b/x/..", "http://a.b/"),
    ("https://münchen.de/a b/ü.jpg?q=a b", "https://xn--mnchen-3ya.de/a%20b/%C3%BC.jpg?q=a%20b"),
    ("http://faß.de", "http://xn--fa-hia.de/"),
    ("http://a.b/%7e%c3%bc%2f", "http://a.b/~%C3%BC%2F"),
    ("http://a.b/100%/x.jpg", "http://a.b/100%/x.jpg"),
    ("http://u:p@A.b/", "http://u:p@a.b/"),
    ("http://[::1]:8080/x", "http://[::1]:8080/x"),
    ("http://a.b/x?", "http://a.b/x"),
    ("http://a.b?b=2&a=1", "http://a.b/?b=2&a=1"),
    ("http://a.b/A/B.JPG", "http://a.b/A/B.JPG"),
    ("http://www.a.b./x/", "http://www.a.b./x/"),
    ("http://my_host.a.b/x", "http://my_host.a.b/x"),
    (" http://a.b/x ", "http://a.b/x"),
    # Hosts that browsers open though nobody could register them; refused before ada-url.
    ("http://☃.net/a.jpg", "http://xn--n3h.net/a.jpg"),
    ("http://i❤.ws/", "http://xn--i-7iq.ws/"),
    ("http://büro_1.example/", "http://xn--bro_1-kva.example/"),
    ("http://ex-ämple-.com/", "http://xn--ex-mple--2za.com/"),
    ("http://ab--ü.de/", "http://xn--ab---3ra.de/"),
    ("http://ü..de/", "http://xn--tda..de/"),
]


@pytest.mark.parametrize(("url", "expected"), VECTORS)
def test_canonical_url_vectors(url: str, expected: str) -> None:
    assert canonical_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/a",
        "ftp://a/b",
        "data:image/png;base64,",
        "http://",
        "http://a:99999/",
        "http://[x/",
        "http://ü<.de/",
        "http://\xad/",
    ],
)
def test_not_a_web_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|Port|host"):
        canonical_url(url)


@given(st.text(alphabet="abzAZ019-._~%/?#:@ üß+&=;,'()[]é%20%2f", max_size=30))
def test_canonical_url_is_idempotent(rest: str) -> None:
    try:
        once = canonical_url(f"http://Ex.org/{rest}")
    except ValueError:
        return
    assert canonical_url(once) == once
    assert once.isascii()


_URLS = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP"]),
    st.sampled_from(["a.b", "A.b", "my_host.a", "-a", "a.b.", "..", "u@a.b", "xn--a.b", "ä.de", "a b"]),
    st.sampled_from(["", ":80", ":443", ":8080", ":080", ":65535", ":99999", ":", ":x"]),
    st.one_of(
        st.text(alphabet="aZ9-._~%/?#:@ !$&'()*+,;=éF27", max_size=14),
        st.lists(
            st.sampled_from(["/", "a", ".", "..", "?", "=", "#"])
            | st.builds("%{:02X}".format, st.integers(0, 255))
            | st.builds("%{:02x}".format, st.integers(0, 255)),
            max_size=8,
        ).map(lambda parts: "/" + "".join(parts)),
    ),
)


@given(_URLS)
def test_url_taken_as_canonical_without_parsing_is_what_parsing_makes_of_it(url: str) -> None:
    if _is_canonical(url):
        assert _canonical_by_parts(url) == url


@pytest.mark.parametrize("code", range(256))
def test_every_escape_is_recognised_as_parsing_treats_it(code: int) -> None:
    for escape in (f"%{code:02X}", f"%{code:02x}"):
        for url in (f"http://a.b/x{escape}y", f"http://a.b/{escape}?{escape}=1"):
            assert bool(_is_canonical(url)) == (_canonical_by_parts(url) == url)


def test_identity_vectors() -> None:
    url = "http://example.com/a.jpg"
    assert url_id_of(url).hex() == "99ebf5f83f14ec3a1b36eccb5e37cc19"
    assert uid_of(url, "alt", "A dog").hex() == "1b88951193c1a5cd9e346124b1bc70b8"
    assert uid_of(url, "title", "A dog") != uid_of(url, "alt", "A dog")
    assert text_hash("dog") == 9235930386215613111
    ids = first_64_bits(url_id_of(url) + uid_of(url, "alt", "A dog"))
    assert [f"{value:016x}" for value in ids] == [url_id_of(url).hex()[:16], uid_of(url, "alt", "A dog").hex()[:16]]


def test_ids_of_pieces_are_those_of_the_strings() -> None:
    url, text = "http://example.com/ü.jpg", "A dog 狗"
    data = f"{url}\0alt\0{text}".encode()
    ends = [len(url.encode()), len(data)]
    assert ids_of(data, [0, 0], ends) == url_id_of(url) + uid_of(url, "alt", text)
    assert ids_of(b"", [], []) == b""


def test_keyed_hash_vectors() -> None:
    ids = np.array([0, 1, 2**64 - 1], np.uint64)
    queries = np.array([5, 5, 6], np.uint64)
    assert keyed_hash(0, ids).tolist() == [7175312947680778460, 8777449547987942575, 15074426209070942630]
    assert keyed_hash(7, ids, queries).tolist() == [13060570439897365049, 14605982803535149427, 16082459857856380044]


def test_keyed_hash_is_uniform_and_changes_with_every_key() -> None:
    ids = np.arange(200_000, dtype=np.uint64)
    queries = np.full_like(ids, text_hash("dog"))
    for hashes in (keyed_hash(0, ids), keyed_hash(0, ids, queries)):
        histogram = np.bincount((hashes >> np.uint64(56)).astype(np.int64), minlength=256)
        chi_squared = ((histogram - len(ids) / 256) ** 2 / (len(ids) / 256)).sum()
        assert chi_squared < 400  # 255 degrees of freedom: far beyond the 99.999th percentile
        assert len(np.unique(hashes)) == len(ids)
    other = keyed_hash(0, ids, np.full_like(ids, text_hash("cat")))
    correlation = np.corrcoef(keyed_hash(0, ids, queries).astype(float), other.astype(float))[0, 1]
    assert abs(correlation) < 0.02
    assert (keyed_hash(1, ids) != keyed_hash(0, ids)).all()
