"""The user's block list: which spellings an entry names, and that a changed list judges known answers again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.load import ConfigError
from pipeline.records.identity import canonical_url
from pipeline.stages.fetch.block import BlockList
from tests.pipeline.loopback_server import LoopbackServer, redirect, text
from tests.pipeline.small_run import SmallRun, picture
from tests.pipeline.test_fetch import CONFIG, fetch_one


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("example.org", "http://example.org/a.jpg"),
        ("example.org", "https://img.cdn.example.org:8080/a.jpg"),
        ("*.Example.ORG", "http://example.org./a.jpg"),
        (".example.org.", "http://user:word@a.example.org/a.jpg"),
        ("bücher.example", "http://xn--bcher-kva.example/"),
        ("http://example.org/a b.jpg#part", "http://EXAMPLE.org:80/a%20b.jpg"),
        ("93.184.216.34", "http://1572395042/a.jpg"),
        ("93.184.216.34", "http://0x5db8d822/a.jpg"),
        ("93.184.216.34", "http://[::ffff:93.184.216.34]/a.jpg"),
        ("1572395042", "http://93.184.216.34/a.jpg"),
        ("[2001:db8::1]", "http://[2001:0db8:0:0:0:0:0:1]/a.jpg"),
    ],
)
def test_an_entry_names_every_spelling(entry: str, url: str) -> None:
    block = BlockList([entry])
    found = block.match_url(canonical_url(url))
    assert found is not None
    assert block.holds(found)
    assert not BlockList(["other.example"]).holds(found)
    assert BlockList([entry]).match_answer(None, [canonical_url(url)]) == found


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("example.org", "http://notexample.org/a.jpg"),
        ("img.example.org", "http://example.org/a.jpg"),
        ("http://example.org/a.jpg", "http://example.org/b.jpg"),
        ("http://example.org/", "http://example.org/a.jpg"),
    ],
)
def test_an_entry_names_nothing_else(entry: str, url: str) -> None:
    assert BlockList([entry]).match_url(canonical_url(url)) is None


@pytest.mark.parametrize("entry", ["example.org/path", "http://", "example.org:8080", "a b.example", "x" * 64 + "/"])
def test_an_entry_that_would_be_misread_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match="is no host, URL or SHA-256"):
        BlockList([entry])


def test_key_is_of_what_is_listed_not_of_how(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# ours\n*.a.example\n\nb.example  # theirs\n")
    assert BlockList(["b.example", "A.example"]).key == BlockList((), [str(tmp_path / "list.txt")]).key
    assert BlockList(["b.example"]).key != BlockList(["a.example"]).key
    assert not BlockList()


def test_robots_txt_that_is_redirected_to_a_blocked_host_is_not_asked_for() -> None:
    with LoopbackServer({"/": text(b"secret")}) as blocked:
        routes = {"/robots.txt": redirect(blocked.url("/", host="blocked.localhost")), "/a": text(b"x")}
        with LoopbackServer(routes) as server:
            import dataclasses

            config = dataclasses.replace(CONFIG, robots_txt=True, block=("blocked.localhost",))
            got = fetch_one(server.url("/a"), config)
        assert (got.reason, blocked.num_connections) == ("robots_txt", 0)


# --- over a run: facts that are known already --------------------------------------------------

PATHS = {"/a": text(picture(1)), "/b": text(picture(2)), "/c": redirect("/moved"), "/moved": text(picture(3))}
LINKS = ("/a", "/b", "/c")
SHA256_B = hashlib.sha256(picture(2)).hexdigest()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[SmallRun, LoopbackServer]]:
    """A finished run over three pictures, with a block list that is empty so far."""
    with LoopbackServer(PATHS) as server:
        small = SmallRun.make(tmp_path, server, LINKS)
        (tmp_path / "block.txt").write_text("# nothing yet\n")
        assert small.run("--fetch.block_files", f"[{tmp_path}/block.txt]") == 0
        assert small.samples() == list(LINKS)
        yield small, server


def test_what_is_blocked_later_goes_and_comes_back_without_a_request(small: tuple[SmallRun, LoopbackServer]) -> None:
    run, server = small
    requests, published = len(server.requests), run.published()
    listed = run.root / "block.txt"
    words = ("--fetch.block_files", f"[{listed}]")
    for entry, path in (
        (server.url("/a"), "/a"),
        (SHA256_B, "/b"),
        (server.url("/moved"), "/c"),  # where a redirect led
    ):
        listed.write_text(f"{entry}\n")
        assert run.run(*words) == 0
        assert run.samples() == [link for link in LINKS if link != path]
        ((blocked, (reason, detail)),) = run.rejections().items()
        assert (blocked, reason) == (path, "block_list")
        assert detail is not None
        assert detail.endswith(entry)
    assert run.run("--fetch.block", "[a.localhost]") == 0
    assert run.samples() == []
    listed.write_text("")
    assert run.run(*words) == 0
    assert run.published() == published
    assert len(server.requests) == requests, "known answers were judged, none was asked for again"


def test_what_is_no_longer_blocked_is_requested(tmp_path: Path) -> None:
    with LoopbackServer(PATHS) as server:
        run = SmallRun.make(tmp_path, server, LINKS)
        block = f"[{server.url('/a')}, {SHA256_B}, {server.url('/moved')}]"
        assert run.run("--fetch.block", block) == 0
        assert run.samples() == []
        assert sorted(server.targets()) == ["/b", "/c"]
        assert run.run("--fetch.block", f"[{SHA256_B}]") == 0
        assert run.samples() == ["/a", "/c"]
        assert sorted(server.targets()) == ["/a", "/b", "/c", "/c", "/moved"]
        assert run.run() == 0
        assert run.samples() == list(LINKS)
        assert sorted(server.targets()) == ["/a", "/b", "/b", "/c", "/c", "/moved"]


@pytest.mark.parametrize("number", range(4))  # of the two files of answers, now one and now the other sorts last
def test_a_later_answer_outranks_the_word_of_a_list_that_is_gone(tmp_path: Path, number: int) -> None:
    with LoopbackServer({f"/{number}": redirect("/gone")}) as server:
        run = SmallRun.make(tmp_path, server, [f"/{number}"])
        assert run.run("--fetch.block", f"[{server.url('/gone')}]") == 0
        assert [reason for reason, _ in run.rejections().values()] == ["block_list"]
        assert run.run() == 2, "no sample is left"
        assert [reason for reason, _ in run.rejections().values()] == ["http_404"]
        requests = len(server.requests)
        assert run.run("--fetch.block", "[another.example]") == 2
        assert len(server.requests) == requests, "the answer is known"


def test_a_blocked_url_is_not_asked_again_by_a_retry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LoopbackServer({}) as server:
        run = SmallRun.make(tmp_path, server, ["/a"])
        dead = ("--fetch.allow_addresses", "[127.0.0.0/8:1]")
        (tmp_path / "links.parquet").unlink()
        from pyarrow import Table, parquet

        row = {"url": "http://a.localhost:1/a", "alt": "a red house beside the river in the morning"}
        parquet.write_table(Table.from_pylist([row]), tmp_path / "links.parquet")
        assert run.run(*dead) == 2, "no sample is left"
        assert run.rejections() == {"/a": ("connect", "refused or unreachable")}
        capsys.readouterr()
        assert run.run(*dead, "--fetch.block", "[a.localhost]") == 0
        assert run.run(*dead, "--fetch.block", "[a.localhost]", "--retry-failed") == 0
        assert "nothing to retry" in capsys.readouterr().err


def test_unreadable_list_stops_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LoopbackServer({}) as server:
        run = SmallRun.make(tmp_path, server, ["/a"])
    assert run.run("--fetch.block_files", f"[{tmp_path}/absent.txt]") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "absent.txt" in line
    assert not (run.output / "work").exists()
