"""A machine that reaches nothing is told from a web that does not answer; a run without a sample is no success."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.consent.signals import AnswerSignals
from pipeline.engine import EngineConfig, open_engine
from pipeline.errors import NetworkError
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import fetch
from pipeline.stages.fetch.outage import ENOUGH, LEAST_HOSTS
from pipeline.steps.fetch.fetch import Fetch
from pipeline.steps.fetch.requests import MISSING
from pipeline.storage.checked import digest_of
from pipeline.storage.location import Location
from tests.pipeline.loopback_server import LoopbackServer, answer, redirect, text
from tests.pipeline.small_run import SmallRun, picture
from tests.pipeline.test_fetch import CONFIG, fetch_all

NOT_ALLOWED = replace(CONFIG, allow_addresses=())


def urls_of(hosts: int, count: int, *, port: int = 9, end: str = "localhost") -> list[str]:
    return [f"http://h{i % hosts}.{end}:{port}/{i}" for i in range(count)]


def stopped(urls: Sequence[str], config: FetchConfig) -> str:
    with pytest.raises(NetworkError) as error:
        list(fetch(urls, config))
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("robots_txt", [False, True])
def test_addresses_that_are_not_allowed_stop_the_shard_with_the_option(robots_txt: bool) -> None:
    message = stopped(urls_of(50, ENOUGH), replace(NOT_ALLOWED, robots_txt=robots_txt))
    assert "fetch.allow_addresses" in message
    assert ".localhost" in message


def test_no_route_stops_the_shard() -> None:
    """TCP finds no way to a multicast address, on any machine."""
    config = replace(CONFIG, allow_addresses=("224.0.0.0/4",))
    message = stopped([f"http://224.0.0.{i % 100 + 1}/{i}" for i in range(ENOUGH)], config)
    assert "no route" in message
    assert "fetch.proxy" in message


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_stops_the_shard(scheme: str) -> None:
    urls = [url.replace("http", scheme, 1) for url in urls_of(50, ENOUGH, end="example")]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        config = replace(CONFIG, proxy=f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert "fetch.proxy" in stopped(urls, config)
    asked = [url if scheme == "http" else f"{url.split('/')[2]}" for url in urls]
    with LoopbackServer(dict.fromkeys(asked, answer(407, b"who are you?"))) as server:
        assert "fetch.proxy" in stopped(urls, replace(CONFIG, proxy=f"http://127.0.0.1:{server.port}"))


@pytest.mark.parametrize("down", [True, False])
def test_a_resolver_that_is_down_is_told_from_names_that_are_gone(monkeypatch: pytest.MonkeyPatch, down: bool) -> None:
    def resolve(*_: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN if down else socket.EAI_NONAME, "as the C library says it")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    # Labels of 64 characters fail before any server is asked.
    urls = [f"http://{i:064d}.localtest/" for i in range(ENOUGH)]
    if down:
        assert "the resolver" in stopped(urls, CONFIG)
    else:
        assert {fetched.reason for fetched in fetch_all(urls)} == {"dns"}, "a retry of dead hosts comes to its end"


@pytest.mark.parametrize(("gone", "stops"), [(ENOUGH // 2, True), (ENOUGH // 2 + 1, False)])
def test_names_that_are_gone_speak_neither_for_the_machine_nor_against_it(gone: int, stops: bool) -> None:
    urls = [f"http://{i:064d}.localtest/" for i in range(gone)] + urls_of(50, ENOUGH - gone)
    if stops:
        assert "fetch.allow_addresses" in stopped(urls, NOT_ALLOWED)
    else:
        assert {fetched.reason for fetched in fetch_all(urls, NOT_ALLOWED)} == {"dns", "address_not_allowed"}


def test_one_request_less_is_left_to_the_run() -> None:
    assert {fetched.reason for fetched in fetch_all(urls_of(50, ENOUGH - 1), NOT_ALLOWED)} == {"address_not_allowed"}


def test_a_list_that_holds_one_private_site_is_rejected_line_by_line() -> None:
    got = fetch_all(urls_of(LEAST_HOSTS - 1, 2 * ENOUGH), NOT_ALLOWED)
    assert {fetched.reason for fetched in got} == {"address_not_allowed"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["a picture", "a 404", "a redirect", "a refusal"])
def test_one_host_that_is_reached_is_enough(kind: str, seed: int) -> None:
    """However many others fail faster: it was asked among the first, and is waited for."""
    routes = {
        "/1": {"a picture": text(b"x"), "a 404": answer(404), "a redirect": redirect("http://10.0.0.1/")}.get(kind)
    }
    urls = urls_of(50, 3 * ENOUGH)
    random.Random(seed).shuffle(urls)
    with LoopbackServer({path: route for path, route in routes.items() if route}) as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = server.port if kind != "a refusal" else closed.getsockname()[1]
        urls.insert(ENOUGH // 2, f"http://one.localhost:{port}/1")
        config = replace(CONFIG, allow_addresses=(f"127.0.0.0/8:{port}",))
        assert len(fetch_all(urls, config)) == len(urls)


def test_what_a_stopped_shard_saw_is_not_kept(tmp_path: Path) -> None:
    rows = [{"url_id": i.to_bytes(16, "big"), "url": url, "retry": 0} for i, url in enumerate(urls_of(50, ENOUGH))]
    pq.write_table(pa.Table.from_pylist(rows, schema=MISSING), tmp_path / "missing.parquet")
    task = Fetch(
        partition="p",
        missing=Location(str(tmp_path / "missing.parquet"), digest_of(tmp_path / "missing.parquet")),
        settings="",
        block_key="",
        signals=AnswerSignals(),
        config=NOT_ALLOWED,
        image=ImageConfig(isolate="none"),
        seed=0,
        first=0,
        last=2**64 - 1,
        retry=0,
    )
    with open_engine(EngineConfig(kind="inline")) as engine, pytest.raises(NetworkError):
        engine.run_step(tmp_path / "fetch", [task])
    assert [path for path in (tmp_path / "fetch").rglob("*") if path.is_file()] == []


# --- runs without a sample ----------------------------------------------------------------------


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_a_run_that_makes_nothing_says_who_took_it_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LoopbackServer({"/a": text(picture(0)), "/b": text(picture(1))}) as server:
        run = SmallRun.make(tmp_path, server, ["/a", "/b", "/gone"])
        assert run.run("--fetch.allow_addresses", "[10.0.0.0/8]") == 2
        line = error_of(capsys)
        assert "stage fetch took the last 3 pairs (address_not_allowed 3); name addresses" in line
        assert "fetch.allow_addresses" in line
        assert not (run.output / "shards").exists()
        assert run.run("--fetch.allow_addresses", "[10.0.0.0/8]") == 2, "nor is it a success to have nothing to do"
        assert error_of(capsys) == line
        assert run.run() == 0
        assert run.samples() == ["/a", "/b"]
        published = run.published()
        assert run.run("--image.min_side", "1000") == 2
        line = error_of(capsys)
        assert "stage check_image took the last 2 pairs (too_small 2)" in line
        assert line.endswith("the version that was published before stays")
        assert run.published() == published
    statuses = [json.loads(line)["status"] for line in (run.output / "runs.jsonl").read_text().splitlines()]
    assert statuses == ["empty", "empty", "finished", "empty"]


@pytest.mark.parametrize(
    ("queries", "alts", "words"),
    [
        ("zebra\n", ["a red house beside the river"], "stage match took the last 1 links (no_query 1)"),
        ("house\n", [""], "stage extract took the last 1 links (no_text 1)"),
        ("house\n", [], "nothing was found in the 1 sources that stage extract kept"),
    ],
)
def test_texts_can_be_what_took_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], queries: str, alts: list[str], words: str
) -> None:
    with LoopbackServer({}) as server:
        run = SmallRun.make(tmp_path, server, ["/a"])
    (tmp_path / "queries.txt").write_text(queries)
    columns = {"url": pa.array(["http://a.localhost/1"] * len(alts), pa.string()), "alt": pa.array(alts, pa.string())}
    pq.write_table(pa.table(columns), tmp_path / "links.parquet")
    assert run.run() == 2
    assert words in error_of(capsys)


def test_an_empty_run_ends_its_retry_so_that_another_can_ask(tmp_path: Path) -> None:
    with LoopbackServer({"/a": answer(503)}) as server:
        run = SmallRun.make(tmp_path, server, ["/a"])
        assert run.run() == 2
        assert run.run("--retry-failed") == 2
        server.routes = {"/a": text(picture(0))}
        assert run.run("--retry-failed") == 0
        assert run.samples() == ["/a"]


def test_pictures_that_the_block_list_names_go_even_if_none_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LoopbackServer({"/a": text(picture(0))}) as server:
        run = SmallRun.make(tmp_path, server, ["/a", "/gone"])
        assert run.run() == 0
        assert run.run("--fetch.block", f"[{server.url('/a')}]") == 2, "a 404 took the other"
        assert "the published version is empty now, since the block list" in error_of(capsys)
        assert run.samples() == []
        assert run.run("--fetch.block", "[a.localhost]") == 0, "that is what was asked for"
