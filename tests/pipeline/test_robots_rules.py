"""robots.txt: whose group counts, what forbids, and that what is kept of a file says the same as the file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protego import Protego

from pipeline.consent.config import ConsentConfig
from pipeline.consent.robots_answer import unreachable
from pipeline.consent.robots_file import MAX_ROBOTS_BYTES, kept_text, read_groups
from pipeline.consent.robots_paths import PathRules, path_of
from pipeline.consent.robots_rules import ROBOTS_REASONS, HostRules, RobotsSignals
from pipeline.consent.robots_table import (
    Robots,
    TableFiles,
    robots_hash,
    robots_url_of,
    write_table,
)
from pipeline.storage.location import Files, Location

STANDARD = RobotsSignals(product="openwit-test")
STRICT = RobotsSignals(product="openwit-test", ai_groups=True)


def reason(
    robots: str, path: str = "/a", *, signals: RobotsSignals = STANDARD, from_common_crawl: bool = False
) -> str | None:
    """The reason, which must be the same by what is kept of the file."""
    found = HostRules(robots, signals).verdict(f"http://h{path}", from_common_crawl=from_common_crawl)
    kept = kept_text(read_groups(robots.encode("utf-8", "surrogatepass"), signals.product))
    assert HostRules(kept, signals).verdict(f"http://h{path}", from_common_crawl=from_common_crawl) == found
    assert kept_text(read_groups(kept.encode(), signals.product)) == kept
    return None if found is None else found.reason


@pytest.mark.parametrize(
    ("robots", "path", "allowed"),
    [
        ("", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: *\nDisallow: /private", "/privateer.jpg", False),
        ("User-agent: *\nDisallow: /private/", "/private", True),
        ("user-AGENT: OpenWit-Test\ndisallow: /a\n\nUser-agent: *\nAllow: /", "/a", False),
        ("User-agent: openwit-test/2.0\nDisallow: /a", "/a", False),
        ("User-agent: *\nDisallow: /\n\nUser-agent: openwit-test\nAllow: /", "/a", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: openwit-test\n", "/a", True),
        ("User-agent: openwit-test\n\nUser-agent: *\nDisallow: /", "/a", False),
        ("User-agent: openwit\nDisallow: /", "/a", True),
        ("User-agent: x\nUser-agent: openwit-test\nDisallow: /a", "/a", False),
        ("User-agent: openwit-test\nDisallow: /a\nUser-agent: openwit-test\nDisallow: /b", "/b", False),
        ("User-agent: openwit-test\nCrawl-delay: 5\nUser-agent: x\nDisallow: /a", "/a", False),
        ("User-agent: openwit-test\nSitemap: http://h/s\nDisallow: /a", "/a", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),
        ("User-agent: *\nAllow: /a\nDisallow: /a", "/a", True),
        ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif", False),
        ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif?size=2", True),
        ("User-agent: *\nDisallow: /*/secret", "/a/b/secret/c", False),
        ("User-agent: *\nDisallow: /a*b*c$", "/aXbXbXc", False),
        ("User-agent: *\nDisallow: /a$", "/ab", True),
        ("User-agent: *\nDisallow: /?q=", "/?q=1", False),
        ("User-agent: *\nDisallow: /ä", "/%C3%A4.jpg", False),
        ("User-agent: *\nDisallow: /%7Euser", "/~user/a", False),
        ("User-agent: *\nDisallow: /a-%2A.html", "/a-*.html", False),
        ("User-agent: *\nDisallow: /*/Style%20Library/", "/a/Style%20Library/b.css", False),
        ("User-agent: *\nDisallow: /*?p%5B0%5D=", "/a?p%5B0%5D=1", False),
        ("User-agent: *\nDisallow: /*/%3Fsem%3D1", "/a/%3Fsem%3D1", False),
        ("User-agent: *\nDisallow: /a # comment", "/a", False),
        ("User-agent: *\r\nDisallow: /a\r\n", "/a", False),
        ("User-agent: *\rDisallow: /a\r", "/a", False),
        ("User-agent: *\nCrawl-delay: 10\nDisallow: /a", "/a", False),
        ("User-agent *\nDisalow: /a", "/a", False),
        ("useragent: *\ndisallow /a", "/a", False),
        ("Disallow: /", "/a", True),
        ("User-agent: *\nDisallow: /b", "/robots.txt", True),
        ("<html>not robots</html>", "/a", True),
        ("\ufeffUser-agent: *\nDisallow: /", "/a", False),
    ],
)
def test_paths_are_forbidden_as_the_standard_says(robots: str, path: str, allowed: bool) -> None:
    assert (reason(robots, path) is None) is allowed


def test_a_name_with_digits_is_met_by_its_letters() -> None:
    signals = RobotsSignals(product="wit2")
    assert reason("User-agent: wit\nDisallow: /", signals=signals) == "robots_txt"
    assert reason("User-agent: wit2\nDisallow: /", signals=signals) == "robots_txt"
    assert reason("User-agent: wi\nDisallow: /", signals=signals) is None


def test_the_group_of_common_crawls_robot_holds_for_what_comes_from_there() -> None:
    robots = "User-agent: CCBot\nDisallow: /a\n\nUser-agent: *\nDisallow: /b"
    assert reason(robots) is None
    assert reason(robots, from_common_crawl=True) == "robots_txt_ccbot"
    assert reason(robots, "/b", from_common_crawl=True) == "robots_txt"
    assert reason(f"{robots}\n\nUser-agent: openwit-test\nAllow: /", from_common_crawl=True) == "robots_txt_ccbot"


def test_robots_that_gather_training_data_count_if_asked_for_and_we_are_not_named() -> None:
    robots = "User-agent: GPTBot\nUser-agent: Google-Extended\nDisallow: /a"
    assert reason(robots) is None
    assert reason(robots, from_common_crawl=True) is None
    assert reason(robots, signals=STRICT) == "robots_txt_ai"
    assert reason(robots, "/b", signals=STRICT) is None
    assert reason(f"{robots}\n\nUser-agent: openwit-test\nAllow: /", signals=STRICT) is None
    assert reason("User-agent: Googlebot\nDisallow: /", signals=STRICT) is None
    assert reason("User-agent: CCBot\nDisallow: /", signals=STRICT) == "robots_txt_ai"
    assert reason("User-agent: CCBot\nDisallow: /", signals=STRICT, from_common_crawl=True) == "robots_txt_ccbot"


@pytest.mark.parametrize(
    ("lines", "path", "forbidden"),
    [
        ("Content-Usage: train-ai=n", "/a", True),
        ("Content-Usage: train-ai=y", "/a", False),
        ("Content-Usage: search=n", "/a", False),
        ("content-usage : /a train-ai=n", "/a/b", True),
        ("Content-Usage: /a train-ai=n", "/b", False),
        ("Content-Usage: /a\ttrain-ai=n", "/a", True),
        ("Content-Usage: train-ai=n\nContent-Usage: /a/ok/ train-ai=y", "/a/ok/b", False),
        ("Content-Usage: train-ai=y\nContent-Usage: /a/no/ train-ai=n", "/a/no/b", True),
        ("Content-Usage: /a train-ai=y\nContent-Usage: /a train-ai=n", "/a", True),
        ("Content-Usage: train-ai=n\nContent-Usage: /a search=y", "/a", True),
        ("Content-Usage: /*.jpg$ train-ai=n", "/x.jpg", True),
    ],
)
def test_content_usage_is_read_with_its_paths(lines: str, path: str, forbidden: bool) -> None:
    assert reason(f"User-agent: *\n{lines}\nAllow: /", path) == ("content_usage" if forbidden else None)
    assert reason(f"{lines}\nUser-agent: *\nAllow: /", path) == ("content_usage" if forbidden else None)
    assert reason(f"User-agent: *\n{lines}\n\nUser-agent: openwit-test\nAllow: /", path) is None


def test_content_signal_is_read() -> None:
    robots = "User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /"
    assert reason(robots) == "content_signal"
    assert reason(robots.replace("ai-train=no", "ai-train=yes")) is None
    assert reason("Content-Signal: ai-train=no\nUser-agent: *\nAllow: /") == "content_signal"
    assert reason("User-agent: *\nContent-Signal: /a ai-train=no", "/b") is None
    assert reason("User-agent: Googlebot\nContent-Signal: ai-train=no") is None


def test_each_signal_is_honoured_by_itself() -> None:
    robots = (
        "User-agent: *\nDisallow: /\nContent-Usage: train-ai=n\nContent-Signal: ai-train=no\n"
        "User-agent: GPTBot\nDisallow: /\n"
    )
    options = ("robots_txt", "content_usage", "content_signal", "robots_txt_ai_groups")
    reasons = ("robots_txt", "content_usage", "content_signal", "robots_txt_ai")
    for option, expected in zip(options, reasons, strict=True):
        signals = RobotsSignals.of(ConsentConfig(level="off", **{option: True}), "openwit-test")  # type: ignore[arg-type]
        assert signals.any
        assert reason(robots, signals=signals) == expected
    off = RobotsSignals.of(ConsentConfig(level="off"), "openwit-test")
    assert not off.any
    assert reason(robots, signals=off) is None
    assert RobotsSignals.of(ConsentConfig(), "openwit-test") == STANDARD
    assert RobotsSignals.of(ConsentConfig(level="strict"), "openwit-test") == STRICT


def test_licences_and_delays_are_told() -> None:
    rules = HostRules("License: https://h/l.xml\nUser-agent: *\nCrawl-delay: 2.5\nDisallow: /x", STANDARD)
    assert rules.licenses == ("https://h/l.xml",)
    assert rules.crawl_delay_s == 2.5
    assert HostRules("User-agent: *\nDisallow: /x", STANDARD).crawl_delay_s is None
    body = "User-agent: a\nCrawl-delay: 1.5\nUser-agent: *\nCrawl-delay: 20\nDisallow: /x\n"
    for text in (body, kept_text(read_groups(body.encode(), "a"))):
        assert HostRules(text, RobotsSignals(product="a")).crawl_delay_s == 1.5
        assert HostRules(text, RobotsSignals(product="b")).crawl_delay_s == 20
    named = "User-agent: a\nDisallow: /\nUser-agent: *\nCrawl-delay: 9"
    assert HostRules(named, RobotsSignals(product="a")).crawl_delay_s is None
    for wrong in ("-1", "nan", "1e9", "soon", "", "\xb2"):
        assert HostRules(f"User-agent: *\nCrawl-delay: {wrong}", STANDARD).crawl_delay_s is None


def test_files_that_say_the_same_are_kept_as_the_same() -> None:
    one = read_groups(b"User-agent: *\nDisallow: /b\nDisallow: /a\n# x\nUser-agent: Googlebot\nDisallow: /", "w")
    other = read_groups(b"Sitemap: http://h/s.xml\nuser-agent:*\ndisallow:/a\nDISALLOW: /b\nDisallow: /a\n", "w")
    assert kept_text(one) == kept_text(other) == "user-agent: *\ndisallow: /a\ndisallow: /b\n"
    assert kept_text(read_groups(b"User-agent: *\nDisallow:\nAllow: /x\n\nUser-agent: Bad\nDisallow: /", "w")) == ""


@given(st.binary(max_size=400), st.text(max_size=30))
def test_any_file_is_read_without_an_error(body: bytes, path: str) -> None:
    head = b"User-agent: *\nDisallow: /" + body
    for text in (body, head, b"User-agent: CCBot\nContent-Usage: " + body):
        kept = kept_text(read_groups(text, "w"))
        HostRules(kept, STRICT).verdict("http://h/" + path, from_common_crawl=True)
        assert kept_text(read_groups(kept.encode("utf-8", "surrogatepass"), "w")) == kept


_PATTERN = st.text("ab/*", max_size=5).map(lambda text: f"/{text}")


@given(
    st.lists(st.tuples(st.booleans(), _PATTERN, st.sampled_from(["", "$"])), max_size=5),
    st.text("ab/", max_size=8).map(lambda text: f"/{text}"),
)
def test_rules_decide_as_the_naive_reading_of_the_standard(rules: list[tuple[bool, str, str]], path: str) -> None:
    robots = "".join(f"{'Allow' if allow else 'Disallow'}: {pattern}{end}\n" for allow, pattern, end in rules)
    best = (-1, True)
    for allow, pattern, end in rules:
        regex = ".*".join(map(re.escape, pattern.split("*"))) + (r"\Z" if end else "")
        if re.match(regex, path):
            best = max(best, (len(pattern + end), allow))
    assert (reason(f"User-agent: *\n{robots}", path) is None) is best[1]


_ESCAPED = st.lists(st.sampled_from(["a", "0", "/", "*", "?", "%20", "%2F", "%2a", "%5B0", "%C3%A9"]), max_size=5)
_ANY_PATTERN = st.text("ab/*$%?.2Fé ~=&", max_size=8) | _ESCAPED.map("".join)


@given(
    st.lists(st.tuples(st.booleans(), _ANY_PATTERN), max_size=4),
    st.text("ab/*$%?.2Fé~=&", max_size=10) | _ESCAPED.map("".join),
)
def test_no_url_is_let_through_that_protego_would_ask_about(rules: list[tuple[bool, str]], path: str) -> None:
    lines = [f"{'allow' if allow else 'disallow'}: /{pattern.strip()}" for allow, pattern in rules]
    url = f"http://h/{path}"
    expected = not Protego.parse("\n".join(["user-agent: *", *lines])).can_fetch(url, "*")
    assert PathRules(lines).forbids(url, path_of(url)) is expected


def test_an_absurdly_long_file_is_read_in_part() -> None:
    assert reason("User-agent: *\nDisallow: /a\n" + "# filler\n" * 100_000 + "Disallow: /b") == "robots_txt"
    late = "User-agent: *\nDisallow: /a\n" + "#" * MAX_ROBOTS_BYTES + "\nDisallow: /b"
    assert not any(value == "/b" for _, value in read_groups(late.encode(), "w").groups["*"])


# --- tables ---------------------------------------------------------------------------------------


def table(root: Path, texts: dict[str, str], parts: int = 1) -> TableFiles:
    root.mkdir()
    hashed = sorted((robots_hash(url), text) for url, text in texts.items())
    for part in range(parts):
        rows = [(key, text) for key, text in hashed if (key >> 32) * parts >> 32 == part]
        paths = [root / f"{part}.{kind}.npy" for kind in ("urls", "places", "texts")]
        write_table(*paths, np.array([key for key, _ in rows], np.uint64), [text for _, text in rows])

    def files(kind: str) -> Files:
        return Files(Location(str(root / f"{part}.{kind}.npy")) for part in range(parts))

    return TableFiles(urls=files("urls"), places=files("places"), texts=files("texts"))


@pytest.mark.parametrize(
    ("url", "robots"),
    [
        ("http://h/a/b?c", "http://h/robots.txt"),
        ("https://H.example:8443/a", "https://h.example:8443/robots.txt"),
        ("http://h:80/a", "http://h/robots.txt"),
        ("https://h:443/a", "https://h/robots.txt"),
        ("https://h:80/a", "https://h:80/robots.txt"),
        ("http://user:word@h/a", "http://h/robots.txt"),
        ("http://h?x/y", "http://h/robots.txt"),
        ("http://[::1]:8080/a", "http://[::1]:8080/robots.txt"),
    ],
)
def test_rules_are_looked_for_at_the_urls_origin(url: str, robots: str) -> None:
    assert robots_url_of(url) == robots


@pytest.mark.parametrize("parts", [1, 3])
def test_a_table_finds_what_was_put_into_it(tmp_path: Path, parts: int) -> None:
    texts = {f"http://h{i}.example/robots.txt": f"user-agent: *\ndisallow: /{i % 7}\n" for i in range(200)}
    robots = Robots([table(tmp_path / "t", texts, parts)], STANDARD)
    for i in range(200):
        assert robots.verdict(f"http://h{i}.example/{i % 7}") is not None
        assert robots.verdict(f"http://h{i}.example/x") is None
        assert robots.covers(f"http://h{i}.example/x")
    assert not robots.covers("http://h200.example/0")
    assert robots.verdict("http://h200.example/0") is None
    assert not robots.covers("no url")


def test_redirects_failures_and_the_other_scheme(tmp_path: Path) -> None:
    forbids = "user-agent: *\ndisallow: /\n"
    texts = {
        "http://a/robots.txt": "> " + ("https://www.a/robots.txt"),
        "https://www.a/robots.txt": forbids,
        "http://lost/robots.txt": "> " + ("https://nowhere/robots.txt"),
        "http://loop/robots.txt": "> " + ("http://loop/robots.txt"),
        "http://down/robots.txt": unreachable("http_503"),
        "https://b/robots.txt": forbids,
        "http://c:81/robots.txt": forbids,
        **{f"http://r{i}/robots.txt": "> " + (f"http://r{i + 1}/robots.txt") for i in range(9)},
        "http://r9/robots.txt": forbids,
    }
    robots = Robots([table(tmp_path / "t", texts)], STANDARD)
    assert robots.verdict("http://a/x") == ("robots_txt", "group *")
    assert not robots.covers("http://lost/x")
    assert robots.covers("http://loop/x")
    assert robots.verdict("http://loop/x") is None
    assert robots.verdict("http://down/x") == ("robots_txt", "robots.txt is unreachable: http_503")
    assert robots.verdict("http://b/x") == ("robots_txt", "group *")  # captured under https alone
    assert robots.verdict("http://c:81/x") is not None
    assert not robots.covers("http://c/x")
    assert not robots.covers("https://c:81/x")
    assert robots.verdict("http://r4/x") is not None  # five redirects
    assert robots.covers("http://r3/x")  # six
    assert robots.verdict("http://r3/x") is None


def test_the_earlier_table_counts_and_what_is_learnt_comes_first(tmp_path: Path) -> None:
    one = table(tmp_path / "one", {"http://a/robots.txt": ""})
    other = table(tmp_path / "other", {"http://a/robots.txt": "user-agent: *\ndisallow: /\n"})
    robots = Robots([one, other], STANDARD)
    assert robots.verdict("http://a/x") is None
    assert Robots([other, one], STANDARD).verdict("http://a/x") is not None
    robots.learn("http://b/robots.txt", "user-agent: *\ndisallow: /\n")
    found = list(robots.verdicts(["http://a/x", "http://b/x", "http://c/x", "?"], [False] * 4))
    assert [(verdict is not None, known) for verdict, known in found] == [
        (False, True), (True, True), (False, False), (False, False),
    ]  # fmt: skip


def test_every_reason_is_known() -> None:
    assert list(ROBOTS_REASONS) == [
        "robots_txt",
        "robots_txt_ccbot",
        "content_usage",
        "content_signal",
        "robots_txt_ai",
    ]
