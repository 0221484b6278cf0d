"""What owners say about the use of their pictures, and that it is heeded: headers and robots.txt."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.consent.license_link import license_links
from pipeline.consent.signals import AnswerSignals
from pipeline.consent.x_robots_tag import forbidding_directive
from pipeline.web.answers import parse_http_date
from tests.pipeline.loopback_server import LoopbackServer, answer, redirect, text
from tests.pipeline.test_fetch import CONFIG, fetch_all, fetch_one

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
RESPECTED = AnswerSignals().x_robots_directives


def forbids(*values: str) -> str | None:
    return forbidding_directive(values, product="openwit-test", respected=RESPECTED, now=NOW)


@pytest.mark.parametrize(
    ("values", "directive"),
    [
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["noarchive, noai, noimageai"], "noai"),
        (["noindex"], "noindex"),
        (["noimageindex"], "noimageindex"),
        (["none"], "none"),
        (["nofollow", "noai"], "noai"),
        (["openwit-test: noai"], "openwit-test: noai"),
        (["OpenWit-Test : noindex , nofollow"], "openwit-test: noindex"),
        (["otherbot: nofollow, openwit-test: noai"], "openwit-test: noai"),
        (["*: noai"], "*: noai"),
        (["openwit-test: nofollow, noai"], "openwit-test: noai"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], "unavailable_after"),
        (["unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT"], "unavailable_after"),
        (["unavailable_after: Friday, 25-Jun-10 15:00:00 GMT, nofollow"], "unavailable_after"),
        (["unavailable_after: 2010-06-25"], "unavailable_after"),
        (["openwit-test: unavailable_after: 2010-06-25T15:00:00+02:00"], "openwit-test: unavailable_after"),
        (["unavailable_after: Wed, 01 Jan 2031 00:00:00 GMT, noai"], "noai"),
        (["max-snippet: 20, max-image-preview: large, noai"], "noai"),
    ],
)
def test_forms_that_forbid(values: list[str], directive: str) -> None:
    assert forbids(*values) == directive


def test_noml_forbids_where_it_is_respected() -> None:
    said = forbidding_directive(["noarchive, NoML"], product="openwit-test", respected=("noml",), now=NOW)
    assert said == "noml"


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["all"],
        ["index, follow"],
        ["nofollow, noarchive, nosnippet"],
        ["otherbot: noai"],
        ["otherbot: noindex, nofollow, none"],
        ["openwit: noai"],
        ["googlebot: noindex", "otherbot: none"],
        ["unavailable_after: 25 Jun 2031 15:00:00 GMT"],
        ["unavailable_after: Wed, 25 Jun 2031 15:00:00 GMT"],
        ["unavailable_after: whenever"],
        ["max-image-preview: none"],
        ["notnoai", "noaix"],
    ],
)
def test_forms_that_do_not_forbid(values: list[str]) -> None:
    assert forbids(*values) is None


@given(st.lists(st.text(max_size=60), max_size=4))
def test_any_header_is_read_without_an_error(values: list[str]) -> None:
    forbids(*values)


@given(st.text(max_size=60))
def test_any_date_is_read_without_an_error(value: str) -> None:
    date = parse_http_date(value)
    assert date is None or date.tzinfo is not None


def test_a_forbidden_picture_is_not_downloaded() -> None:
    big = text(b"x" * 5_000_000, {"X-Robots-Tag": "noai"})
    with LoopbackServer({"/a": big, "/b": text(b"x", {"X-Robots-Tag": "otherbot: noai"})}) as server:
        forbidden, fine = fetch_all([server.url("/a"), server.url("/b")])
    assert (forbidden.reason, forbidden.detail, forbidden.http_status) == ("x_robots_tag", "X-Robots-Tag: noai", 200)
    assert fine.body == b"x"


def test_a_redirect_forbids_too() -> None:
    routes = {"/a": answer(301, b"", {"Location": "/b", "X-Robots-Tag": "noai"}), "/b": text(b"x")}
    with LoopbackServer(routes) as server:
        assert fetch_one(server.url("/a")).reason == "x_robots_tag"
        assert server.targets() == ["/a"]


def test_directives_are_the_configs_choice() -> None:
    with LoopbackServer({"/a": text(b"x", {"X-Robots-Tag": "noindex"})}) as server:
        assert fetch_one(server.url("/a"), CONFIG, AnswerSignals(x_robots_directives=("noai",))).body == b"x"
        assert fetch_one(server.url("/a"), CONFIG, AnswerSignals(x_robots_directives=())).body == b"x"


@pytest.mark.parametrize(
    ("value", "reason"), [("1", "tdm_reservation"), (" 1 ", "tdm_reservation"), ("0", None), ("2", None)]
)
def test_tdm_reservation(value: str, reason: str | None) -> None:
    with LoopbackServer({"/a": text(b"x", {"TDM-Reservation": value})}) as server:
        assert fetch_one(server.url("/a")).reason == reason
        assert fetch_one(server.url("/a"), CONFIG, AnswerSignals(tdm_reservation=False)).body == b"x"


def test_one_tdm_reservation_among_several_is_enough() -> None:
    for value in ("0\r\nTDM-Reservation: 1", "1\r\nTDM-Reservation: 0", "0, 1"):
        with LoopbackServer({"/a": text(b"x", {"TDM-Reservation": value})}) as server:
            assert fetch_one(server.url("/a")).reason == "tdm_reservation"


def test_a_folded_header_line_is_read() -> None:
    with LoopbackServer({"/a": text(b"x", {"X-Robots-Tag": "all,\r\n\tnoai"})}) as server:
        assert fetch_one(server.url("/a")).reason == "x_robots_tag"


# --- robots.txt ---------------------------------------------------------------------------------

ASKING = replace(CONFIG, robots_txt=True, retries=0)


def test_robots_txt_is_asked_once_per_host_and_obeyed() -> None:
    rules = text(b"User-agent: *\nDisallow: /no/")
    routes = {"/robots.txt": rules, "/yes/1": text(b"x"), "/yes/2": text(b"x"), "/no/1": text(b"x")}
    with LoopbackServer(routes) as server:
        got = fetch_all([server.url(path) for path in ("/yes/1", "/no/1", "/yes/2")], ASKING)
        assert [fetched.reason for fetched in got] == [None, "robots_txt", None]
        assert server.targets().count("/robots.txt") == 1
        assert server.targets()[0] == "/robots.txt"
        assert "/no/1" not in server.targets()


def test_robots_txt_is_not_asked_for_unless_configured() -> None:
    with LoopbackServer({"/robots.txt": text(b"User-agent: *\nDisallow: /"), "/a": text(b"x")}) as server:
        assert fetch_one(server.url("/a")).body == b"x"
        assert server.targets() == ["/a"]


@pytest.mark.parametrize(("status", "reason"), [(404, None), (403, None), (500, "robots_txt"), (429, "robots_txt")])
def test_a_missing_robots_txt_allows_and_a_failing_one_forbids(status: int, reason: str | None) -> None:
    with LoopbackServer({"/robots.txt": answer(status, b"x"), "/a": text(b"x")}) as server:
        assert fetch_one(server.url("/a"), ASKING).reason == reason


def test_robots_txt_holds_on_the_host_that_a_redirect_leads_to() -> None:
    with LoopbackServer({}) as server:
        server.routes = {
            "/a": redirect(server.url("/b", host="b.localhost")),
            "/b": text(b"x"),
            "/robots.txt": text(b"User-agent: *\nDisallow: /b"),
        }
        assert fetch_one(server.url("/a"), ASKING).reason == "robots_txt"
        assert server.targets() == ["/robots.txt", "/a", "/robots.txt"]


def test_a_robots_txt_that_leads_to_a_forbidden_address_forbids_for_good() -> None:
    target = {"Location": "http://10.0.0.1/robots.txt"}
    with LoopbackServer({"/robots.txt": answer(302, b"", target), "/a": text(b"x")}) as server:
        got = fetch_one(server.url("/a"), ASKING)
        assert (got.reason, got.detail) == ("robots_txt", "robots.txt is unreachable: address_not_allowed")
        assert server.targets() == ["/robots.txt"]


def test_a_host_that_is_not_allowed_is_not_asked_for_its_robots_txt() -> None:
    with LoopbackServer({"/a": text(b"x")}) as server:
        got = fetch_one(server.url("/a"), replace(ASKING, allow_addresses=()))
        assert got.reason == "address_not_allowed"
        assert server.num_connections == 0


def test_an_endless_robots_txt_is_read_in_part() -> None:
    body = b"User-agent: *\nDisallow: /no\n" + b"# filler\n" * 200_000
    with LoopbackServer({"/robots.txt": text(body), "/a": text(b"x")}) as server:
        got = fetch_all([server.url("/a"), server.url("/no")], ASKING)
        assert [fetched.reason for fetched in got] == [None, "robots_txt"]


@pytest.mark.parametrize(
    ("value", "urls"),
    [
        ('<https://a.example/l>; rel="license"', ["https://a.example/l"]),
        ("</terms.xml>;rel=License;type=application/rsl+xml", ["/terms.xml"]),
        ('<a>; rel=preload, <b>; as=x; rel="next license", <c>; rel="license"', ["b", "c"]),
        ('<a,b;c>; title="x, <y>; rel=license"; rel=next, <d> ; REL = license', ["d"]),
        ('<a>; title="; rel=license"', []),
        ("<a>; rel=next; rel=license", []),
        ("<a>; xrel=license", []),
        ("<a>;; rel=license ;", ["a"]),  # empty parameters are passed over (RFC 8288, appendix B.3)
        ("<>; rel=license", []),
        ("a; rel=license", []),
        ("<a", []),
    ],
)
def test_licences_among_links(value: str, urls: list[str]) -> None:
    assert license_links(value) == urls


def test_a_pictures_own_licence_is_noted() -> None:
    links = {"Link": '</css>; rel=preload, <https://a.example/l>; rel="license"'}
    with LoopbackServer({"/a": text(b"x", links)}) as server:
        assert fetch_one(server.url("/a")).statements == ('link: <https://a.example/l>; rel="license"',)
