"""`run --retry-failed` over a small set: the failures that can heal are asked again, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.commands import main
from pipeline.engine import AnyTask
from pipeline.questions.report import write_report
from pipeline.steps.fetch.fetch import Fetch
from pipeline.steps.fetch.requests import ListRequests
from pipeline.steps.shards import WriteShard
from tests.pipeline.loopback_server import LoopbackServer, Route, answer, in_turn, raw, text
from tests.pipeline.small_run import SmallRun, picture

HEALING = {
    "/busy": in_turn(answer(503), text(picture(1))),
    "/broken": in_turn(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf"), text(picture(2))),
    "/stubborn": in_turn(answer(503), answer(429), text(picture(3))),
    "/moved": in_turn(answer(500), answer(404)),
}
ROUTES: dict[str, Route] = HEALING | {
    "/good": text(picture(4)),
    "/gone": answer(404),
    "/forbidden": text(picture(5), {"X-Robots-Tag": "noai"}),
    "/text": text(b"no picture"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    small: SmallRun
    server: LoopbackServer

    def run(self, *words: str) -> list[str]:
        """Run, and say what the server was asked for."""
        before = len(self.server.requests)
        assert self.small.run(*words) == 0
        return sorted(self.server.targets()[before:])


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """A finished run in which everything that can fail has failed once."""
    with LoopbackServer(ROUTES) as server:
        case = Case(small=SmallRun.make(tmp_path, server, ROUTES), server=server)
        assert case.run() == sorted(ROUTES)
        assert case.small.samples() == ["/good"]
        yield case


def test_only_failures_that_can_heal_are_asked_again_and_each_once_a_retry(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (case.small.output / "shards").resolve().name
    assert case.run("--retry-failed") == sorted(HEALING)
    assert "retry: 4 failed URLs asked again, 2 of them healed" in capsys.readouterr().err
    assert case.small.samples() == ["/broken", "/busy", "/good"]
    assert (case.small.output / "shards").resolve().name != first, "a new version"
    assert {path: reason for path, (reason, _) in case.small.rejections().items()} == {
        "/stubborn": "http_429",  # the latest answer
        "/moved": "http_404",
        "/gone": "http_404",
        "/forbidden": "x_robots_tag",
        "/text": "not_an_image",
    }
    assert case.run() == []
    assert "nothing to do" in capsys.readouterr().err
    assert case.run("--retry-failed") == ["/stubborn"]
    assert case.small.samples() == ["/broken", "/busy", "/good", "/stubborn"]
    capsys.readouterr()
    assert main(["status", str(case.small.output)]) == 0
    shown = capsys.readouterr().out
    assert "retry 1: 4 failed URLs asked again, 2 of them healed" in shown
    assert "retry 2: 1 failed URLs asked again, 1 of them healed" in shown
    card = case.small.output.with_name("card.html")
    write_report(case.small.output, card)
    assert "5 failed URLs asked again in 2 retries, 3 of them healed" in card.read_text()
    steps = json.loads((case.small.output / "runs.jsonl").read_text().splitlines()[-1])["steps"]
    assert (steps["fetched"]["retried"], steps["fetched"]["healed"]) == (1, 1)


def test_healed_set_has_the_bytes_of_one_that_never_failed(case: Case) -> None:
    case.run("--retry-failed")
    case.run("--retry-failed")
    fresh = dataclasses.replace(case.small, output=case.small.root / "fresh")
    assert case.run("--output", str(fresh.output)) == sorted(ROUTES)
    assert case.small.published() == fresh.published()
    assert main(["verify", str(case.small.output)]) == 0


def test_nothing_to_retry_is_one_line_and_changes_nothing(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.run("--retry-failed")
    case.run("--retry-failed")
    before = case.small.state()
    capsys.readouterr()
    assert case.run("--retry-failed") == []
    (line,) = capsys.readouterr().err.splitlines()
    assert "nothing to retry" in line
    assert case.small.state() == before


@pytest.mark.parametrize(("task", "asked_before"), [(ListRequests, []), (Fetch, []), (WriteShard, sorted(HEALING))])
def test_killed_retry_goes_on_with_a_plain_run_and_asks_nothing_twice(
    case: Case,
    task: type[AnyTask[Any]],
    asked_before: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = len(case.server.requests)
    with monkeypatch.context() as patch:
        patch.setattr(task, "work", interrupt)
        assert case.small.run("--retry-failed") == 130
    assert sorted(case.server.targets()[before:]) == asked_before
    capsys.readouterr()
    assert main(["status", str(case.small.output)]) == 0
    assert "retry 1: under way" in capsys.readouterr().out
    assert case.run() == [path for path in sorted(HEALING) if path not in asked_before]
    assert case.small.samples() == ["/broken", "/busy", "/good"]
    assert case.run() == []
    assert case.run("--retry-failed") == ["/stubborn"], "the killed one was ended"


def test_killed_retry_goes_on_with_the_same_command(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WriteShard, "work", interrupt)
        assert case.small.run("--retry-failed") == 130
    assert case.run("--retry-failed") == [], "all of it was asked before the kill"
    assert case.run("--retry-failed") == ["/stubborn"]


def test_a_retry_holds_for_the_plan_of_its_time(case: Case) -> None:
    """Failures that a smaller plan did not hold are not asked again when the larger plan is back."""
    links = pq.read_table(case.small.root / "links.parquet")
    pq.write_table(links.take([0, 1, 4]), case.small.root / "fewer.parquet")
    fewer = ("--sources", f"[{case.small.root}/fewer.parquet]")
    assert case.run(*fewer) == []
    assert case.run("--retry-failed", *fewer) == ["/broken", "/busy"]
    assert case.run() == []
    assert case.run("--retry-failed") == ["/moved", "/stubborn"]


def test_other_plans_use_what_a_retry_brought(case: Case) -> None:
    case.run("--retry-failed")
    healed = case.small.published()
    assert case.run("--seed", "7") == [], "another order of the same pictures"
    assert case.run() == []
    assert case.small.published() == healed


def test_part_finished_run_is_retried_and_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with LoopbackServer(ROUTES) as server:
        case = Case(small=SmallRun.make(tmp_path, server, ROUTES), server=server)
        with monkeypatch.context() as patch:
            patch.setattr(WriteShard, "work", interrupt)
            assert case.small.run() == 130
        before = len(server.requests)
        assert case.run("--retry-failed") == sorted(HEALING)
        assert case.small.samples() == ["/broken", "/busy", "/good"]
        assert len(server.requests) == before + len(HEALING)


def test_retry_of_what_is_not_there_is_one_line(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    before = case.small.state()
    for words, message in (
        (["--output", str(case.small.root / "absent")], "no such directory"),
        (["--balance.max_pairs_per_query", "3"], "is not planned with this config (next: "),
        (["--extend"], "one at a time"),
    ):
        capsys.readouterr()
        assert case.small.run("--retry-failed", *words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert case.small.state() == before
    assert not (case.small.root / "absent").exists()


def test_retry_with_other_fetch_settings_finds_nothing_to_retry(case: Case) -> None:
    before = case.small.state()
    assert case.run("--retry-failed", "--fetch.max_redirects", "2") == []
    assert case.small.state() == before
