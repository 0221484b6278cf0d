"""fetch against a server that behaves: what arrives, what is asked, what is reused, what is retried."""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import ConfigError
from pipeline.consent.signals import AnswerSignals
from pipeline.pages import is_reason
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import STANDARD, Fetched, fetch
from tests.pipeline.loopback_server import (
    CERTIFICATES,
    LoopbackServer,
    answer,
    in_turn,
    raw,
    redirect,
    text,
)

AGENT = "openwit-test/0.1 (+https://example.org/contact)"
CONFIG = FetchConfig(
    user_agent=AGENT,
    timeout_s=5.0,
    low_speed_time_s=0,
    backoff_s=0.01,
    allow_addresses=("127.0.0.0/8",),
)


def fetch_all(urls: Sequence[str], config: FetchConfig = CONFIG, signals: AnswerSignals = STANDARD) -> list[Fetched]:
    """Results in the order of `urls`, each index exactly once, each reason a known one."""
    results = sorted(fetch(urls, config, signals), key=lambda fetched: fetched.index)
    assert [fetched.index for fetched in results] == list(range(len(urls)))
    for fetched in results:
        assert (fetched.body is None) != (fetched.reason is None)
        assert fetched.reason is None or is_reason("fetch", fetched.reason), fetched.reason
    return results


def fetch_one(url: str, config: FetchConfig = CONFIG, signals: AnswerSignals = STANDARD) -> Fetched:
    return fetch_all([url], config, signals)[0]


def test_bodies_arrive_with_their_facts() -> None:
    with LoopbackServer({"/a": text(b"hello", {"Content-Type": "image/png"})}) as server:
        got = fetch_one(server.url("/a"))
    assert got == Fetched(
        index=0,
        body=b"hello",
        http_status=200,
        final_url=server.url("/a"),
        content_type="image/png",
        attempts=1,
        statements=(),
    )


def test_no_urls_give_no_results() -> None:
    assert list(fetch([], CONFIG)) == []


def test_many_urls_come_back_once_each_over_few_connections() -> None:
    routes = {f"/{i}": text(b"%d" % i) for i in range(200)}
    with LoopbackServer(routes) as server:
        got = fetch_all([server.url(f"/{i}") for i in range(200)])
        assert [int(fetched.body or b"") for fetched in got] == list(range(200))
        assert server.num_connections <= CONFIG.per_host_concurrency
        assert server.max_at_once <= CONFIG.per_host_concurrency


def test_the_same_url_twice_is_two_results() -> None:
    with LoopbackServer({"/a": text(b"x")}) as server:
        assert [fetched.body for fetched in fetch_all([server.url("/a")] * 3)] == [b"x"] * 3


def test_the_request_is_honest_and_plain() -> None:
    with LoopbackServer({"/a": text(b"x")}) as server:
        fetch_one(server.url("/a"))
        headers = server.requests[0].headers
    assert headers["user-agent"] == AGENT
    assert headers["accept-encoding"] == "identity"
    assert not {"cookie", "referer", "authorization"} & set(headers)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/a b.jpg", "/a%20b.jpg"),
        ("/ä/日本.jpg", "/%C3%A4/%E6%97%A5%E6%9C%AC.jpg"),
        ("/x?q=ü,1&r=a b", "/x?q=%C3%BC,1&r=a%20b"),
        ("/comma,comma.jpg#part", "/comma,comma.jpg"),
        ("/a/../b/./c", "/b/c"),
    ],
)
def test_unusual_paths_are_requested_escaped(path: str, target: str) -> None:
    with LoopbackServer({target: text(b"x")}) as server:
        assert fetch_one(server.url(path)).body == b"x"
        assert server.targets() == [target]


def test_international_host_names_are_resolved_in_punycode() -> None:
    with LoopbackServer({"/a": text(b"x"), "/r": redirect("http://straße.localhost/")}) as server:
        assert fetch_one(server.url("/a", host="bücher.localhost")).body == b"x"
        assert server.requests[0].headers["host"] == f"xn--bcher-kva.localhost:{server.port}"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://a.localhost/x", "scheme_not_allowed"),
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("gopher://127.0.0.1:70/", "scheme_not_allowed"),
        ("javascript:alert(1)", "scheme_not_allowed"),
        ("data:image/png;base64,AAAA", "scheme_not_allowed"),
        ("http://", "bad_url"),
        ("", "bad_url"),
        ("/relative.jpg", "bad_url"),
        ("http://a.localhost:99999/", "bad_url"),
        ("http://exa mple/x", "bad_url"),
        ("http://[::1/x", "bad_url"),
        ("http://\x00/x", "bad_url"),
        (f"http://{'a' * 64}.localtest/x", "dns"),  # a label of 64 characters fails before any server is asked
    ],
)
def test_what_cannot_be_requested_is_rejected_with_its_reason(url: str, reason: str) -> None:
    assert fetch_one(url).reason == reason


def test_a_name_that_does_not_resolve_is_asked_for_once() -> None:
    host = "b" * 64 + ".localtest"
    config = replace(CONFIG, concurrency=1)
    got = fetch_all([f"http://{host}/{i}" for i in range(20)], config)
    assert {fetched.reason for fetched in got} == {"dns"}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418, 451, 501])
def test_lasting_errors_are_not_retried(status: int) -> None:
    with LoopbackServer({"/a": answer(status, b"no")}) as server:
        got = fetch_one(server.url("/a"))
        assert (got.reason, got.http_status, got.attempts) == (f"http_{status}", status, 1)
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_errors_that_can_heal_are_retried(status: int) -> None:
    with LoopbackServer({"/a": in_turn(answer(status, b"no"), answer(status, b"no"), text(b"x"))}) as server:
        got = fetch_one(server.url("/a"))
        assert (got.body, got.attempts) == (b"x", 3)


def test_retries_end_at_the_configured_number() -> None:
    with LoopbackServer({"/a": answer(503)}) as server:
        got = fetch_one(server.url("/a"), replace(CONFIG, retries=1))
        assert (got.reason, got.attempts, len(server.requests)) == ("http_503", 2, 2)


def test_a_broken_connection_is_retried() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    with LoopbackServer({"/a": in_turn(raw(half), raw(b""), text(b"whole"))}) as server:
        got = fetch_one(server.url("/a"))
        assert (got.body, got.attempts) == (b"whole", 3)


def test_retry_after_is_waited_for_and_holds_back_the_whole_host() -> None:
    routes = {"/a": in_turn(answer(429, b"", {"Retry-After": "1"}), text(b"a")), "/b": text(b"b")}
    with LoopbackServer(routes) as server:
        begin = time.monotonic()
        config = replace(CONFIG, per_host_concurrency=1)
        assert [fetched.body for fetched in fetch_all([server.url("/a"), server.url("/b")], config)] == [b"a", b"b"]
        assert time.monotonic() - begin >= 1.0


def test_a_long_retry_after_ends_the_attempts() -> None:
    with LoopbackServer({"/a": answer(429, b"", {"Retry-After": "3600"})}) as server:
        got = fetch_one(server.url("/a"))
        assert (got.reason, got.attempts) == ("http_429", 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int) -> None:
    routes = {"/a": redirect("b/c?d=ü", status), "/b/c?d=%C3%BC": redirect("/end"), "/end": text(b"x")}
    with LoopbackServer(routes) as server:
        got = fetch_one(server.url("/a"))
        assert (got.body, got.final_url, got.attempts) == (b"x", server.url("/end"), 1)


def test_a_redirect_without_location_is_its_status() -> None:
    with LoopbackServer({"/a": answer(302, b"x"), "/b": answer(304)}) as server:
        assert fetch_one(server.url("/a")).reason == "http_302"
        assert fetch_one(server.url("/b")).reason == "http_304"


@pytest.mark.parametrize(("status", "reason"), [(200, "empty_body"), (204, "empty_body"), (206, "http_206")])
def test_answers_without_a_whole_body_are_rejected(status: int, reason: str) -> None:
    with LoopbackServer({"/a": answer(status, b"part" if status == 206 else b"")}) as server:
        assert fetch_one(server.url("/a")).reason == reason


def test_encoded_bodies_are_decoded() -> None:
    body = gzip.compress(b"picture" * 100, mtime=0)
    with LoopbackServer({"/a": text(body, {"Content-Encoding": "gzip"})}) as server:
        assert fetch_one(server.url("/a")).body == b"picture" * 100


def test_a_body_without_length_ends_with_the_connection() -> None:
    with LoopbackServer({"/a": raw(b"HTTP/1.1 200 OK\r\n\r\nold style")}) as server:
        assert fetch_one(server.url("/a")).body == b"old style"


def test_certificates_are_verified() -> None:
    trusting = replace(CONFIG, ca_file=str(CERTIFICATES / "loopback.pem"))
    with LoopbackServer({"/a": text(b"x")}, tls=True) as server:
        assert fetch_one(server.url("/a")).reason == "tls"
        assert fetch_one(server.url("/a"), trusting).body == b"x"
        assert fetch_one(server.url("/a", host="other.localhost"), trusting).reason == "tls"
        assert fetch_one(server.url("/a"), replace(CONFIG, verify_certificates=False)).body == b"x"


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with LoopbackServer({"/a": text(b"x")}) as server:
        assert fetch_one(server.url("/a")).body == b"x"


def test_a_configured_proxy_is_used_and_still_guarded() -> None:
    with LoopbackServer({"http://pictures.example/a": text(b"x")}) as proxy:
        config = replace(CONFIG, proxy=f"http://127.0.0.1:{proxy.port}", allow_addresses=())
        urls = [
            "http://pictures.example/a",
            "http://127.0.0.1/a",
            "http://0x7f.1/a",
            "http://localhost/a",
            "http://x.localhost/",
        ]
        got = fetch_all(urls, config)
    assert got[0].body == b"x"
    assert {fetched.reason for fetched in got[1:]} == {"address_not_allowed"}


def test_one_slow_host_does_not_hold_the_others() -> None:
    routes = {f"/slow{i}": answer(200, b"s", delay_s=0.3) for i in range(8)} | {"/fast": text(b"f")}
    config = replace(CONFIG, concurrency=8, per_host_concurrency=2)
    with LoopbackServer(routes) as server:
        urls = [server.url(f"/slow{i}", host="slow.localhost") for i in range(8)]
        urls += [server.url("/fast", host=f"h{i}.localhost") for i in range(8)]
        order = [fetched.index for fetched in fetch(urls, config)]
    assert set(order[:8]) == set(range(8, 16))


def test_the_rate_per_host_is_kept() -> None:
    with LoopbackServer({"/a": text(b"x")}) as server:
        begin = time.monotonic()
        fetch_all([server.url("/a")] * 6, replace(CONFIG, per_host_rate=10.0))
        assert time.monotonic() - begin >= 0.5


def test_waiting_bodies_stop_new_transfers() -> None:
    routes = {f"/{i}": text(b"x" * 10_000) for i in range(60)}
    config = replace(CONFIG, concurrency=2, max_waiting_bytes=20_000)
    with LoopbackServer(routes) as server:
        results = fetch([server.url(f"/{i}") for i in range(60)], config)
        next(results)
        time.sleep(0.5)
        assert len(server.requests) <= 8
        assert sum(1 for _ in results) == 59


def test_a_slow_consumer_makes_no_transfer_time_out() -> None:
    routes = {f"/{i}": text(b"x") for i in range(4)}
    with LoopbackServer(routes) as server:
        for fetched in fetch([server.url(f"/{i}") for i in range(4)], replace(CONFIG, timeout_s=0.4, concurrency=1)):
            assert fetched.body == b"x"
            time.sleep(0.5)


def test_closing_the_iterator_ends_the_thread() -> None:
    before = threading.active_count()
    with LoopbackServer({"/a": text(b"x"), "/b": answer(200, b"x", delay_s=30)}) as server:
        results = fetch([server.url("/a"), server.url("/b")], CONFIG)
        assert next(results).body == b"x"
        results.close()  # type: ignore[attr-defined]  # an iterator to its users, a generator in truth
    assert threading.active_count() == before


def test_the_block_list_covers_hosts_urls_and_bodies(tmp_path: Path) -> None:
    bad = hashlib.sha256(b"bad").hexdigest()
    routes = {"/a": text(b"good"), "/b": text(b"bad"), "/c": text(b"good"), "/r": redirect("/c")}
    with LoopbackServer(routes) as server:
        listed = tmp_path / "block.txt"
        listed.write_text(f"# ours\nblocked.localhost  # and below\n\n{bad.upper()}\n", encoding="utf-8")
        config = replace(CONFIG, block=(server.url("/%63"),), block_files=(str(listed),))
        paths = ["/a", "/b", "/c", "/r"]
        got = fetch_all([server.url(path) for path in paths], config)
        assert [fetched.reason for fetched in got] == [None, "block_list", "block_list", "block_list"]
        assert got[1].detail == f"sha256 {bad}"
        assert "/c" not in server.targets()
        for host in ("blocked.localhost", "deep.below.blocked.localhost"):
            assert fetch_one(server.url("/a", host=host), config).detail == "host blocked.localhost"
        assert fetch_one(server.url("/a", host="notblocked.localhost"), config).body == b"good"


def test_a_block_file_that_is_missing_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="block_files"):
        fetch(["http://a.localhost/"], replace(CONFIG, block_files=(str(tmp_path / "none"),)))


def test_a_file_of_authorities_that_is_none_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("not PEM")
    for name in ("empty.pem", "absent.pem"):
        with pytest.raises(ConfigError, match="ca_file: cannot read"):
            fetch(["https://a.localhost/"], replace(CONFIG, ca_file=str(tmp_path / name)))


def test_redirects_are_told_in_order() -> None:
    routes = {"/a": redirect("/b#part"), "/d": text(b"x")}
    with LoopbackServer(routes) as server:
        server.routes = routes | {"/b": redirect(server.url("/c", host="b.localhost")), "/c": text(b"x")}
        got, plain = fetch_all([server.url("/a"), server.url("/d")])
        assert got.redirects == (server.url("/b"), server.url("/c", host="b.localhost"))
        assert got.final_url == got.redirects[-1]
        assert plain.redirects == ()


@pytest.mark.parametrize(
    "change",
    [
        {"user_agent": "Mozilla"},
        {"user_agent": "(+https://example.org)"},
        {"user_agent": "a\r\nX: y https://example.org"},
        {"concurrency": 0},
        {"timeout_s": 0.0},
        {"allow_addresses": ("localhost",)},
        {"allow_addresses": ("127.0.0.1/8",)},
        {"allow_addresses": ("127.0.0.0/8:0",)},
        {"resolve": ("host",)},
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(CONFIG, **change)  # type: ignore[arg-type]  # the values are wrong on purpose
