"""Captures of robots.txt in a crawl's archives: what is read of them, and pairs that they forbid are never chosen."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.catalog.catalog import open_catalog
from pipeline.commands import main
from pipeline.consent.robots_rules import RobotsSignals
from pipeline.consent.robots_table import Robots, TableFiles
from pipeline.questions.explain import explain
from pipeline.records.ledger_config import LedgerConfig
from pipeline.steps.exchange import Exchanged
from pipeline.steps.robots.archives import BuildTable, Captures, HostRobots, ReadCaptures
from pipeline.storage.location import Files, Location
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

FORBIDS = "User-agent: *\nDisallow: /\n"


def capture(url: str, status: int, body: str = "", *, headers: str = "", date: str = "2026-05-01T00:00:00Z") -> bytes:
    """A gzip member with one response."""
    block = f"HTTP/1.1 {status} X\r\n{headers}\r\n{body}".encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: {date}\r\n"
        f"WARC-Record-ID: <urn:uuid:3d3f4785-c69a-4f8c-968c-d23302c55ef4>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n", mtime=0)


def archive(path: Path, captures: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(captures))
    return path


def read(tmp_path: Path, archives: Sequence[Path], *, keep_unreachable: bool = False) -> tuple[Robots, Any]:
    """What the two steps make of archives; the robots.parquet with it."""
    tmp_path = tmp_path / f"{len(list(tmp_path.iterdir()))}"  # a table is mapped once a process
    tmp_path.mkdir()

    def at(name: str) -> Location:
        return Location(str(tmp_path / name))

    captures = Captures(blocks=at("c.blocks"), index=at("c.index.npy"), rejections=at("c.rejections.parquet"))
    task = ReadCaptures(
        partition="c",
        sources=tuple((str(path), []) for path in archives),
        product="openwit-test",
        kept=1,
        partitions=1,
        ledger=LedgerConfig(),
    )
    info = task.work(captures)
    assert {line["unit"] for line in info["lines"]} == {"archive", "capture"}
    table = HostRobots(robots=at("robots.parquet"), urls=at("u.npy"), places=at("p.npy"), texts=at("t.npy"))
    exchanged = Exchanged(blocks=Files([captures.blocks]), indices=Files([captures.index]))
    BuildTable(partition="t", captures=exchanged, number=0, keep_unreachable=keep_unreachable).work(table)
    files = TableFiles(urls=Files([table.urls]), places=Files([table.places]), texts=Files([table.texts]))
    return Robots([files], RobotsSignals(product="openwit-test")), pq.read_table(tmp_path / "robots.parquet")


def test_statuses_mean_what_the_standard_says(tmp_path: Path) -> None:
    robots, rows = read(
        tmp_path,
        [
            archive(
                tmp_path / "a.warc.gz",
                [
                    capture("http://rules.example/robots.txt", 200, FORBIDS),
                    capture("http://gone.example/robots.txt", 404, FORBIDS),
                    capture("http://shut.example/robots.txt", 403),
                    capture("http://busy.example/robots.txt", 429),
                    capture("http://down.example/robots.txt", 503),
                    capture(
                        "http://moved.example/robots.txt", 301, headers="Location: //www.moved.example/robots.txt\r\n"
                    ),
                    capture("http://www.moved.example/robots.txt", 200, FORBIDS),
                    capture("http://front.example/robots.txt", 302, headers="Location: /start\r\n"),
                    capture("http://front.example/start", 200, "<html>User-agent: *\n</html>"),
                    capture("http://port.example:8080/robots.txt", 200, "License: http://l/t.xml\n" + FORBIDS),
                ],
            )
        ],
    )
    judged = {
        url: (robots.covers(url), robots.verdict(url) is not None)
        for url in (
            *(f"http://{name}.example/a" for name in ("rules", "gone", "shut", "busy", "down", "moved", "front")),
            *("https://rules.example/a", "http://port.example:8080/a", "http://port.example/a"),
        )
    }
    assert list(judged.values()) == [
        *((True, True), (True, False), (True, False), (False, False), (False, False), (True, True), (True, False)),
        *((True, True), (True, True), (False, False)),
    ]
    says = {row["url"]: (row["says"], row["http_status"], row["license"]) for row in rows.to_pylist()}
    assert says["http://down.example/robots.txt"] == ("unreachable", 503, None)
    assert says["http://port.example:8080/robots.txt"] == ("rules", 200, "http://l/t.xml")
    assert says["http://gone.example/robots.txt"] == ("nothing", 404, None)


def test_the_latest_capture_counts_but_a_failure_gives_way(tmp_path: Path) -> None:
    late, early = "2026-06-01T00:00:00Z", "2026-05-01T00:00:00Z"
    captures = [
        capture("http://a/robots.txt", 200, FORBIDS, date=early),
        capture("http://a/robots.txt", 200, "", date=late),
        capture("http://b/robots.txt", 200, "", date=early),
        capture("http://b/robots.txt", 200, FORBIDS, date=late),
        capture("http://c/robots.txt", 200, FORBIDS, date=early),
        capture("http://c/robots.txt", 503, date=late),
        capture("http://d/robots.txt", 500, date=late),
    ]
    for order in (captures, captures[::-1]):
        robots, _ = read(
            tmp_path, [archive(tmp_path / "a.warc.gz", order[:3]), archive(tmp_path / "b.warc.gz", order[3:])]
        )
        assert [robots.verdict(f"http://{host}/x") is not None for host in "abcd"] == [False, True, True, False]
        assert not robots.covers("http://d/x")
    robots, _ = read(tmp_path, [archive(tmp_path / "a.warc.gz", captures)], keep_unreachable=True)
    assert robots.verdict("http://d/x") == ("robots_txt", "robots.txt is unreachable: http_500")


def test_damage_and_strange_records_are_counted(tmp_path: Path) -> None:
    good = capture("http://a/robots.txt", 200, FORBIDS)
    strange = gzip.compress(
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: dns:a\r\nContent-Length: 2\r\n\r\nhi\r\n\r\n", mtime=0
    )
    request = gzip.compress(
        b"WARC/1.0\r\nWARC-Type: request\r\nWARC-Target-URI: http://a/\r\nContent-Length: 2\r\n\r\nhi\r\n\r\n", mtime=0
    )
    path = archive(tmp_path / "a.warc.gz", [request, strange, b"\x1f\x8b\x08 damaged", good])
    robots, rows = read(tmp_path, [path, archive(tmp_path / "b.warc.gz", [b"no archive"])])
    assert rows.num_rows == 1
    assert robots.verdict("http://a/x") is not None
    rejected = pq.read_table(next(tmp_path.glob("*/c.rejections.parquet"))).to_pylist()
    assert sorted(row["reason"] for row in rejected) == ["bad_record", "bad_record", "unreadable_source"]


# --- in a run -------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(
        {f"/{name}": text(picture(i)) for i, name in enumerate(("a", "b", "no/c", "d", "no/e"))}
    ) as one:
        yield one


def a_run(root: Path, server: LoopbackServer, consent: Mapping[str, object]) -> SmallRun:
    small = SmallRun.make(root, server, ["/a", "/b", "/no/c", "/d", "/no/e"])
    config = yaml.safe_load(small.config.read_text()) | {"consent": consent}
    small.config.write_text(yaml.safe_dump(config))
    return small


def test_forbidden_pairs_are_never_chosen_nor_asked_for(tmp_path: Path, server: LoopbackServer) -> None:
    robots = capture(server.url("/robots.txt"), 200, "User-agent: *\nDisallow: /no/\n\nUser-agent: CCBot\nDisallow: /b")
    path = archive(tmp_path / "robots.warc.gz", [robots])
    small = a_run(tmp_path / "one", server, {"robots_archives": [str(path)]})
    assert small.run() == 0
    assert small.samples() == ["/a", "/b", "/d"]
    assert sorted(server.targets()) == ["/a", "/b", "/d"]  # nobody asks for a robots.txt that the crawl has
    with open_catalog(small.output) as database:
        covered = "SELECT covered, sum(pairs), sum(rejected) FROM robots_coverage GROUP BY covered ORDER BY covered"
        assert database.sql(covered).fetchall() == [(False, 0, 0), (True, 5, 2)]
        assert database.sql("SELECT stage, reason, count FROM reasons WHERE stage LIKE 'robots%'").fetchall() == [
            ("robots", "robots_txt", 2)
        ]
        assert database.sql("SELECT says, http_status FROM robots").fetchall() == [("rules", 200)]
        assert database.sql("SELECT count(*) FROM rejections WHERE stage = 'robots'").fetchall() == [(2,)]
    (story,) = explain(small.output, url=server.url("/no/c"))
    told = {verdict.stage: (verdict.verdict, verdict.reason) for verdict in story.verdicts}
    assert told["robots"] == ("rejected", "robots_txt")
    assert told["dedup"] == ("kept", None)
    assert "robots_archives" not in told
    assert main(["report", str(small.output)]) == 0
    before = small.state()
    assert small.run() == 0
    assert small.state() == before

    crawled = a_run(tmp_path / "two", server, {"robots_archives": [str(path)], "common_crawl": ["*links*"]})
    assert crawled.run() == 0
    assert crawled.samples() == ["/a", "/d"]

    off = a_run(tmp_path / "three", server, {"robots_archives": [str(path)], "level": "off"})
    assert off.run() == 0
    assert len(off.samples()) == 5


def test_archives_of_pages_are_told_from_those_of_robots_txt(
    tmp_path: Path, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = archive(tmp_path / "pages.warc.gz", [capture(server.url("/page.html"), 200, "<html>")])
    small = a_run(tmp_path / "one", server, {"robots_archives": [str(pages)]})
    assert small.run() == 2
    assert "no robots.txt is in any of the 1 archives" in capsys.readouterr().err
    assert server.targets() == []


def test_archives_that_are_not_there_stop_a_run_before_it_begins(
    tmp_path: Path, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    small = a_run(tmp_path / "one", server, {"robots_archives": [str(tmp_path / "no-*.warc.gz")]})
    assert small.run() != 0
    assert "no such source file; correct `consent.robots_archives` in the config" in capsys.readouterr().err
    bad = archive(tmp_path / "bad.warc.gz", [b"no archive"])
    small = a_run(tmp_path / "two", server, {"robots_archives": [str(bad)]})
    assert small.run() != 0
    assert "1 of 1 archives cannot be read" in capsys.readouterr().err
    assert server.targets() == []
