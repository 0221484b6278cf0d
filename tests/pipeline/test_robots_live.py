"""Hosts that no archive covers are asked for their robots.txt: once a run, and their pictures only as it allows."""

from __future__ import annotations

import datetime
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.catalog.catalog import open_catalog
from pipeline.commands import main
from pipeline.consent.config import ConsentConfig
from pipeline.consent.tdmrep import TDMREP_PATH
from pipeline.engine import record_of
from pipeline.steps.robots import live
from tests.conftest import REPOSITORY
from tests.pipeline.loopback_server import LoopbackServer, Route, answer, in_turn, redirect, text
from tests.pipeline.small_run import SmallRun, picture
from tests.pipeline.test_robots_archives import archive, capture

PATHS = ("/a", "/b", "/no/c", "/d", "/no/e")
RULES = b"User-agent: *\nDisallow: /no/\n"
ROBOTS = "/robots.txt"


def routes(robots: Route | None = None) -> dict[str, Route]:
    found = {path: text(picture(number)) for number, path in enumerate(PATHS)}
    return found if robots is None else found | {ROBOTS: robots}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(routes(text(RULES))) as one:
        yield one


def a_run(
    root: Path,
    server: LoopbackServer,
    consent: Mapping[str, object],
    paths: Sequence[str] = PATHS,
    **fetch: object,
) -> SmallRun:
    small = SmallRun.make(root, server, paths)
    config = yaml.safe_load(small.config.read_text())
    config |= {"consent": dict(consent), "fetch": config["fetch"] | fetch, "shards": {"samples_per_shard": 2}}
    small.config.write_text(yaml.safe_dump(config))
    return small


def add_host(small: SmallRun, server: LoopbackServer, host: str, paths: Sequence[str]) -> None:
    """The same pictures from another name of the server."""
    path = small.root / "links.parquet"
    rows = pq.read_table(path).to_pylist()
    rows += [{"url": server.url(each, host=host), "alt": f"a dog that sleeps in the {host} {each}"} for each in paths]
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_a_host_is_asked_once_a_run_and_obeyed(tmp_path: Path, server: LoopbackServer) -> None:
    small = a_run(tmp_path / "run", server, {})
    assert small.run() == 0
    assert small.samples() == ["/a", "/b", "/d"]
    assert sorted(server.targets()) == ["/a", "/b", "/d", ROBOTS]  # of three staging shards
    assert server.targets()[0] == ROBOTS
    assert small.rejections() == dict.fromkeys(("/no/c", "/no/e"), ("robots_txt", "group *"))
    with open_catalog(small.output) as database:
        assert database.sql("SELECT says, http_status FROM robots_live").fetchall() == [("rules", 200)]
    before = small.state()
    assert small.run() == 0
    assert small.state() == before
    assert len(server.targets()) == 4


def test_samples_tell_what_was_said_of_their_use(tmp_path: Path) -> None:
    licensed = b"License: https://a.example/terms.xml\nUser-agent: *\nDisallow: /no/\n"
    said = {"Content-Usage": "train-ai=y", "TDM-Policy": "https://a.example/tdm"}
    paths = ("/a", "/b")
    with LoopbackServer({"/a": text(picture(0), said), "/b": text(picture(1)), ROBOTS: text(licensed)}) as server:
        small = a_run(tmp_path / "run", server, {}, paths)
        assert small.run() == 0
        assert main(["release", str(small.output), str(tmp_path / "release")]) == 0
        (row, other) = (told_in(small.output / "shards", path) for path in paths)
        assert row == ("content-usage: train-ai=y\ntdm-policy: https://a.example/tdm", "https://a.example/terms.xml")
        assert other == ("", "https://a.example/terms.xml")
        assert told_in(tmp_path / "release" / "links", "/a") == row
        (tmp_path / "urls.txt").write_text(f"{server.url('/a')}\n")
        assert main(["remove", str(small.output), "--urls", str(tmp_path / "urls.txt")]) == 0
    with open_catalog(small.output) as database:
        gone = database.sql("SELECT consent, rsl_license FROM fetched WHERE reason = 'removed'").fetchall()
    assert gone == [(None, None)]


def told_in(directory: Path, path: str) -> tuple[str | None, str | None]:
    """consent and rsl_license of a sample."""
    rows = [row for file in directory.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    (row,) = (row for row in rows if row["url"].endswith(path))
    return row["consent"], row["rsl_license"]


def test_hosts_that_an_archive_covers_are_not_asked(tmp_path: Path, server: LoopbackServer) -> None:
    path = archive(tmp_path / "robots.warc.gz", [capture(server.url(ROBOTS), 200, RULES.decode())])
    small = a_run(tmp_path / "run", server, {"robots_archives": [str(path)]})
    add_host(small, server, "b.localhost", ["/a", "/no/c"])
    assert small.run() == 0
    asked = [(request.headers["host"].partition(":")[0], request.target) for request in server.requests]
    assert sorted(asked) == [
        *(("a.localhost", path) for path in ("/a", "/b", "/d")),
        *(("b.localhost", path) for path in ("/a", ROBOTS)),
    ]
    with open_catalog(small.output) as database:
        stages = database.sql("SELECT stage, reason, count FROM reasons WHERE reason = 'robots_txt'").fetchall()
        assert stages == [("robots", "robots_txt", 2), ("fetch", "robots_txt", 1)]
        assert database.sql("SELECT covered, sum(pairs) FROM robots_coverage GROUP BY ALL ORDER BY 1").fetchall() == [
            (False, 2),
            (True, 5),
        ]
    for words in commands_of_the_docs(small.output):
        assert main(words) == 0


def commands_of_the_docs(output: Path) -> list[list[str]]:
    """Those of docs/robots.md, of a set that is there."""
    document = (REPOSITORY / "docs" / "robots.md").read_text(encoding="utf-8")
    (config,) = re.findall(r"^```yaml\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    assert ConsentConfig(**yaml.safe_load(config)["consent"]).robots_archives
    (script,) = re.findall(r"^```sh\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line.replace("data/wit", str(output))) for line in script.splitlines()]
    assert all(words[:3] == ["python", "-m", "pipeline"] for words in lines)
    return [words[3:] for words in lines]


@pytest.mark.parametrize(
    ("robots", "reason"),
    [
        (answer(404), None),
        (answer(403), None),
        (answer(503), ("robots_txt", "robots.txt is unreachable: http_503")),
        (answer(429), ("robots_txt", "robots.txt is unreachable: http_429")),
        (
            text(b"User-agent: *\nContent-Signal: ai-train=no\n"),
            ("content_signal", "group *: Content-Signal: ai-train=no"),
        ),
        (text(b"User-agent: GPTBot\nDisallow: /\n"), ("robots_txt_ai", "group gptbot")),
    ],
)
def test_what_answers_mean(tmp_path: Path, robots: Route, reason: tuple[str, str] | None) -> None:
    with LoopbackServer(routes(robots)) as server:
        small = a_run(tmp_path / "run", server, {"robots_txt_ai_groups": True}, ["/a", "/b"])
        assert small.run() == (0 if reason is None else small.run())
        rejections = small.rejections()
    assert rejections == ({} if reason is None else dict.fromkeys(("/a", "/b"), reason))
    assert ("/a" in server.targets()) is (reason is None)


def test_an_unreachable_host_is_asked_again_and_by_a_retry(tmp_path: Path) -> None:
    robots = in_turn(answer(503), answer(503), answer(503), text(RULES))
    with LoopbackServer({"/x": text(picture(7)), **routes(robots)}) as server:
        small = a_run(tmp_path / "run", server, {}, ["/a", "/no/c"], retries=1, backoff_s=0.01)
        assert small.run() != 0  # nothing is left
        assert server.targets() == [ROBOTS, ROBOTS]
        assert set(small.rejections().values()) == {("robots_txt", "robots.txt is unreachable: http_503")}
        assert small.run("--retry-failed") == 0
        assert server.targets() == [ROBOTS, ROBOTS, ROBOTS, ROBOTS, "/a"]
    assert small.rejections() == {"/no/c": ("robots_txt", "group *")}
    assert small.samples() == ["/a"]


def test_off_means_that_nobody_is_asked(tmp_path: Path, server: LoopbackServer) -> None:
    for number, consent in enumerate(({"level": "off"}, {"robots_txt": False}, {"robots_live": False})):
        small = a_run(tmp_path / str(number), server, consent)
        assert small.run() == 0
        assert len(small.samples()) == 5
    assert ROBOTS not in server.targets()


def test_consent_that_is_turned_on_later_asks_for_no_picture_again_and_off_frees_what_was_forbidden(
    tmp_path: Path, server: LoopbackServer
) -> None:
    small = a_run(tmp_path / "run", server, {"robots_txt": False})
    assert small.run() == 0
    count = len(server.targets())
    assert small.run("--consent.robots_txt=true") == 0
    assert len(server.targets()) == count  # what is known stays, and nobody is asked
    assert len(small.samples()) == 5

    other = a_run(tmp_path / "other", server, {})
    assert other.run() == 0
    assert len(other.samples()) == 3
    count = len(server.targets())
    assert other.run("--consent.robots_txt=false") == 0
    assert sorted(server.targets()[count:]) == ["/no/c", "/no/e"]
    assert len(other.samples()) == 5


def test_redirects_are_judged_by_the_rules_of_the_host_that_they_lead_to(tmp_path: Path) -> None:
    with LoopbackServer({}) as server:
        server.routes = routes(text(RULES)) | {
            "/a": redirect(server.url("/no/c")),
            "/b": redirect(server.url("/d", host="b.localhost")),
            "/no/d": text(picture(9)),
        }
        small = a_run(tmp_path / "run", server, {}, ["/a", "/b"])
        assert small.run() == 0
    assert small.rejections() == {"/a": ("robots_txt", "group *")}
    assert small.samples() == ["/b"]
    assert sorted(server.targets()) == ["/a", "/b", "/d", ROBOTS, ROBOTS]  # the other host's, once it is met


def test_a_killed_run_goes_on_without_asking_again(
    tmp_path: Path, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = a_run(tmp_path / "run", server, {})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.steps.fetch.fetch.TarWriter", killed)
        assert small.run() != 0
    assert server.targets() == [ROBOTS]
    assert small.run() == 0
    assert sorted(server.targets()) == ["/a", "/b", "/d", ROBOTS]
    assert small.samples() == ["/a", "/b", "/d"]


def test_a_later_run_uses_answers_of_the_last_day_and_asks_for_older_ones(
    tmp_path: Path, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, fresh, asked in (("new", datetime.timedelta(hours=24), 1), ("old", datetime.timedelta(0), 2)):
        small = a_run(tmp_path / name, server, {}, PATHS[:3])
        before = len(server.targets())
        assert small.run() == 0
        SmallRun.make(small.root, server, PATHS)
        config = yaml.safe_load((small.output / "config.yaml").read_text())
        small.config.write_text(yaml.safe_dump(config))
        monkeypatch.setattr(live, "_FRESH", fresh)
        assert small.run() == 0
        assert server.targets()[before:].count(ROBOTS) == asked
        assert small.samples() == ["/a", "/b", "/d"]
        record = record_of(small.output / "work" / "robots_live", "part-00000")
        assert record is not None
        assert (record.info["asked"], record.info["reused"]) == (asked - 1, 2 - asked)


def test_a_host_is_asked_once_a_run_for_its_tdmrep_json(tmp_path: Path) -> None:
    paths = ("/a", "/b", "/no/c", "/d")
    said = json.dumps([{"location": "/no/", "tdm-reservation": 1}, {"location": "/", "tdm-reservation": 0}]).encode()
    routes = {path: text(picture(number)) for number, path in enumerate(paths)}
    with LoopbackServer(routes | {TDMREP_PATH: text(said)}) as server:
        small = a_run(tmp_path / "run", server, {"robots_txt": False, "tdmrep_json": True}, paths)
        add_host(small, server, "b.localhost", ["/a"])
        assert small.run() == 0
        assert sorted(server.targets()) == sorted(["/a", "/a", "/b", "/d", *[TDMREP_PATH] * 2])  # three staging shards
        assert set(server.targets()[:2]) == {TDMREP_PATH}
        assert small.rejections() == {"/no/c": ("tdmrep_json", server.url(TDMREP_PATH))}
        before = small.state()
        assert small.run() == 0
        assert small.state() == before
        assert len(server.targets()) == 6
