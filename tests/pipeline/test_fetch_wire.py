"""What goes over the wire: the URL as it was given, and redirects as browsers follow them (URL Standard)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records.identity import canonical_url
from pipeline.stages.fetch.block import BlockList
from pipeline.stages.fetch.wire import OtherSchemeError, joined, target_of, wire_url
from tests.pipeline.loopback_server import CERTIFICATES, LoopbackServer, answer, raw, redirect, text
from tests.pipeline.test_fetch import CONFIG, fetch_all, fetch_one

AS_WRITTEN = [
    "/signed/a%2Db%7e.jpg?key=%41%7e%2f&x=a+b",
    "/%7Ex/%c3%a9/%zz%",
    "/a//b;v=1/(1),'2'!*$&=:@|[]?q='a'|b[c]{d}^`\\/?",
    "/x?",
    "/x??a=?",
    "/.well-known/..a/b../%2ex",
]


@pytest.mark.parametrize("target", AS_WRITTEN)
def test_what_can_stand_in_a_request_line_is_asked_byte_for_byte(target: str) -> None:
    with LoopbackServer({target: text(b"x")}) as server:
        assert fetch_one(server.url(target)).body == b"x"
        assert fetch_one(server.url(target + "#part")).body == b"x"
        assert server.targets() == [target, target]


@pytest.mark.parametrize("target", AS_WRITTEN)
def test_redirects_and_https_and_proxies_keep_the_bytes_too(target: str) -> None:
    with LoopbackServer({"/r": redirect(target), target: text(b"x")}, tls=True) as server:
        got = fetch_one(server.url("/r"), replace(CONFIG, ca_file=str(CERTIFICATES / "loopback.pem")))
        assert (got.body, got.redirects) == (b"x", (server.url(target),))
    whole = f"http://pictures.example{target}"
    with LoopbackServer({whole: text(b"x")}) as proxy:
        assert fetch_one(whole, replace(CONFIG, proxy=f"http://127.0.0.1:{proxy.port}")).body == b"x"
        assert proxy.targets() == [whole]


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ('/a b"<>{}^`.jpg?a b"<>', "/a%20b%22%3C%3E%7B%7D%5E%60.jpg?a%20b%22%3C%3E"),
        ("/ü?ü", "/%C3%BC?%C3%BC"),
        ("\\ok.jpg?a\\b", "/ok.jpg?a\\b"),
        ("/a/%2e%2E/.%2e/b/%2e", "/b/"),
        ("/a/..", "/"),
        ("/a//../b", "/a/b"),
        ("/a\t\n.jpg", "/a.jpg"),
        ("?q", "/?q"),
        ("", "/"),
    ],
)
def test_what_cannot_is_written_as_browsers_do(written: str, asked: str) -> None:
    assert target_of(wire_url(f"http://a.example{written}")) == asked


@pytest.mark.parametrize(
    ("url", "wire"),
    [
        ("HTTP://A.Example:80/%7e", "http://a.example/%7e"),
        (" \x01https://a.example:0443/x ", "https://a.example/x"),
        ("http:\\\\a.example\\x", "http://a.example/x"),
        ("http:a.example/x", "http://a.example/x"),
        ("http:///a.example/x", "http://a.example/x"),
        ("http://b%C3%BCcher.ex%61mple/", "http://xn--bcher-kva.example/"),
        ("http://[::1]:8/x", "http://[::1]:8/x"),
        ("http://user:p%40ss@a.example/x", "http://a.example/x"),
        ("http://a@b@a.example/x@y", "http://a.example/x@y"),
    ],
)
def test_authorities_have_one_spelling_and_no_user(url: str, wire: str) -> None:
    assert wire_url(url) == wire
    assert wire_url(wire) == wire


@pytest.mark.parametrize(
    "url", ["", "/x", "http://", "http://?q", "http://a b/", "http://a%2Fb/", "http://a:b/", "http://a:99999/", "http://%ff/"]
)  # fmt: skip
def test_what_has_no_host_cannot_be_asked(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire_url(url)


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        (b"/caf\xe9.jpg", "http://h:8/caf%E9.jpg"),  # Latin-1 stays Latin-1: Chromium, Firefox
        (b"/caf\xc3\xa9.jpg", "http://h:8/caf%C3%A9.jpg"),
        (b"?\xe9", "http://h:8/a/b?%E9"),
        (b"\\ok.jpg", "http://h:8/ok.jpg"),
        (b"c\\d?e\\f", "http://h:8/a/c/d?e\\f"),
        (b"\\\\g\\x", "http://g/x"),
        (b"//g/x", "http://g/x"),
        (b"///g/x", "http://g/x"),
        (b"c", "http://h:8/a/c"),
        (b"../../c", "http://h:8/c"),
        (b"%2e%2e/c", "http://h:8/c"),
        (b"", "http://h:8/a/b?q"),
        (b"#part", "http://h:8/a/b?q"),
        (b"/c#part?x", "http://h:8/c"),
        (b";c", "http://h:8/a/;c"),
        (b"./c:d", "http://h:8/a/c:d"),
        (b"http:c", "http://h:8/a/c"),
        (b"http:/c", "http://h:8/c"),
        (b"https:c", "https://c/"),
        (b"HTTPS://G/%7e", "https://g/%7e"),
        (b" /c\t d ", "http://h:8/c%20d"),
        (b"ht\ttp://g/x", "http://g/x"),
        (b"http://user@g/x", "http://g/x"),
        (b"//user:word@g/x", "http://g/x"),
        (b"http://b\xc3\xbccher.example/", "http://xn--bcher-kva.example/"),
    ],
)
def test_a_location_leads_where_browsers_go(location: bytes, leads_to: str) -> None:
    assert joined("http://h:8/a/b?q", location) == leads_to


@pytest.mark.parametrize("location", [b"file:///etc/passwd", b"c:d", b"javascript:1", b"gopher:\\\\h"])
def test_other_schemes_are_told_apart(location: bytes) -> None:
    with pytest.raises(OtherSchemeError):
        joined("http://h/", location)


@given(st.text(), st.binary())
def test_any_location_is_a_url_on_the_wire_or_none(path: str, location: bytes) -> None:
    base = wire_url(f"http://h/{path}")
    try:
        found = joined(base, location)
    except ValueError:
        return
    assert wire_url(found) == found
    assert found.isascii()
    assert not set(found) & set(' #"<>\t\r\n\0')
    assert canonical_url(found) == canonical_url(canonical_url(found))


@given(st.text())
def test_the_wire_and_the_canonical_spelling_are_one_identity(path: str) -> None:
    """What is requested is the picture that was planned, but for what only browsers read (a backslash, white space)."""
    url = f"http://h/{path}"
    if not set(path) & set("\\\t\r\n") and path[-1:] > " " and url == url.strip():
        assert canonical_url(wire_url(url)) == canonical_url(url)


def test_another_spelling_of_the_same_url_is_no_loop() -> None:
    with LoopbackServer({"/~x": redirect("/%7Ex"), "/%7Ex": redirect("/%7ex"), "/%7ex": text(b"x")}) as server:
        assert fetch_one(server.url("/~x")).body == b"x"
        assert server.targets() == ["/~x", "/%7Ex", "/%7ex"]


@pytest.mark.parametrize("location", ["/x", "x", "#part", "", "//user@a.localhost:{port}/x"])
def test_the_same_url_is_a_loop(location: str) -> None:
    with LoopbackServer({}) as server:
        server.routes = {"/x": redirect(location.format(port=server.port))}
        got = fetch_one(server.url("/x"))
        assert (got.reason, got.detail, len(server.requests)) == ("too_many_redirects", "a loop", 1)


def test_bytes_of_a_location_arrive_as_they_were_sent() -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: /caf\xe9.jpg\r\nContent-Length: 0\r\n\r\n"
    with LoopbackServer({"/x": raw(head), "/caf%E9.jpg": text(b"x")}) as server:
        assert fetch_one(server.url("/x")).body == b"x"


def test_user_info_is_neither_sent_nor_told() -> None:
    with LoopbackServer({"/a": text(b"x"), "/login": answer(401)}) as server:
        to = f"//user:word@b.localhost:{server.port}/a"
        server.routes = {**server.routes, "/r": redirect(f"http:{to}"), "/s": redirect(to)}
        urls = [f"http://user:word@a.localhost:{server.port}{path}" for path in ("/a", "/r", "/s", "/login")]
        got = fetch_all(urls)
        assert [fetched.body for fetched in got] == [b"x", b"x", b"x", None]
        assert got[1].redirects == got[2].redirects == (server.url("/a", host="b.localhost"),)
        assert "word" not in repr(got)
        assert not any("authorization" in request.headers for request in server.requests)


def test_the_block_list_knows_every_spelling() -> None:
    block = BlockList(["http://a.example/~x", "http://user@a.example/y", "blocked.example"])
    for url in (
        "http://a.example/%7Ex",
        "http://a.example/%7ex",
        "http://user:word@a.example/~x",
        "http:\\\\a.example/~x",
    ):
        assert block.match_url(url) == "URL http://a.example/~x"
    assert block.match_url("http://a.example/y") == "URL http://a.example/y"
    assert block.match_url("http://user@blocked.example/") == "host blocked.example"
    assert block.match_answer(None, ["http://a.example/%7ex"]) == "URL http://a.example/~x"
    with LoopbackServer({}) as server:
        config = replace(CONFIG, block=(server.url("/~x"),))
        assert fetch_one(server.url("/%7ex"), config).reason == "block_list"
        assert not server.requests
