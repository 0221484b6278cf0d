"""The log of a run, and what `status` makes of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import main
from pipeline.errors import EmptyError
from pipeline.runs.last_run import last_run
from pipeline.runs.live import lines_of
from pipeline.runs.metrics import MetricsFile
from pipeline.runs.run_log import RunLog, logged
from pipeline.terminal.progress import Progress
from pipeline.watching import Counts, Now, TaskNow
from tests.conftest import REPOSITORY
from tests.pipeline.loopback_server import LoopbackServer, answer
from tests.pipeline.small_run import SmallRun, picture

LINKS = [f"/{number}" for number in range(6)]
ABOUT = {"output": "set", "host": "a-host", "process": os.getpid()}


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({path: answer(200, picture(int(path[1:]))) for path in LINKS}) as running:
        yield running


def events(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted((output / "log").iterdir()) for line in path.read_text().splitlines()]


def stuck_task(subject: str = "https://key:secret@example.org/a.gz?signature=hidden") -> TaskNow:
    return TaskNow(
        task="00003", key="0123456789abcdef", subject=subject, node="n1", process=7, seconds=700.0, quiet_s=400.0,
        counts=Counts(unit="URL", done=5, total=10_000),
    )  # fmt: skip


def a_now(**changed: Any) -> Now:
    facts: dict[str, Any] = {
        "step": "fetch", "title": "fetch and check images", "tasks": 12, "done": 3, "skipped": 0, "running": 2,
        "rows": 0, "seconds": 185.0, "units_per_s": 412.0, "bytes_per_s": 31_200_000.0, "left_s": 760.0,
        "counts": Counts(unit="URL", done=100, kept=92, kept_as="ok", num_bytes=10), "slowest": [stuck_task()],
        "stuck": [stuck_task()], "retried": 0,
    }  # fmt: skip
    return Now(**(facts | changed))


# --- what a run writes ----------------------------------------------------------------------------


def test_run_tells_its_steps_from_start_to_end(
    tmp_path: Path, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    small = SmallRun.make(tmp_path, server, LINKS)
    assert small.run() == 0
    told = events(small.output)
    assert (told[0]["event"], told[0]["format"]) == ("run_start", 1)
    assert (told[-1]["event"], told[-1]["status"]) == ("run_end", "finished")
    begun = [event["step"] for event in told if event["event"] == "step_start"]
    ended = {event["step"]: event for event in told if event["event"] == "step_end"}
    assert list(ended) == begun
    fetch, texts = ended["fetch"], ended["texts"]
    assert (fetch["unit"], fetch["units"], fetch["kept"], fetch["kept_as"]) == ("URL", len(LINKS), len(LINKS), "ok")
    assert fetch["bytes"] == sum(len(picture(number)) for number in range(len(LINKS)))
    assert (texts["unit"], texts["units"], texts["kept"]) == ("link", len(LINKS), len(LINKS))
    assert main(["status", str(small.output)]) == 0
    assert ": finished at " in capsys.readouterr().out.splitlines()[0]


def test_run_with_nothing_to_do_writes_nothing(tmp_path: Path, server: LoopbackServer) -> None:
    small = SmallRun.make(tmp_path, server, LINKS)
    assert small.run() == 0
    before = small.state()
    assert small.run() == 0
    assert small.state() == before


def test_run_that_fails_tells_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LoopbackServer({"/a": answer(200, b"no picture")}) as other:
        small = SmallRun.make(tmp_path, other, ["/a"])
        assert small.run() == 2
    last = events(small.output)[-1]
    assert (last["event"], last["status"]) == ("run_end", "empty")
    assert "no sample is left" in last["error"]
    assert main(["status", str(small.config)]) == 0
    assert ": empty at " in capsys.readouterr().out


def test_log_holds_no_secrets_of_urls(tmp_path: Path) -> None:
    progress = Progress(quiet=True)
    with pytest.raises(EmptyError), logged(progress, tmp_path, ABOUT):  # noqa: PT012 - a run, to its end
        progress.say("cannot read https://user:hunter2@example.org/list.txt?token=hunter3, go on")
        progress.tell("task_stuck", stuck_task().plain())
        raise EmptyError("https://example.org/x?hunter4 is empty")
    written = "".join(path.read_text() for path in (tmp_path / "log").iterdir())
    assert "hunter" not in written
    assert "hidden" not in written
    assert "secret" not in written
    assert "cannot read https://example.org/list.txt?..., go on" in written


def test_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("in the way")
    progress = Progress(quiet=True)
    with logged(progress, tmp_path, ABOUT):
        progress.say("a word")
    assert (tmp_path / "log").read_text() == "in the way"


def test_logs_of_the_last_runs_stay(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / "log").mkdir(exist_ok=True)
        (tmp_path / "log" / f"202401{number:02}T000000Z-aaaaaa.000.jsonl").write_text("")
    log = RunLog(tmp_path, ABOUT)
    log.tell("said", {"text": "x"})
    log.end("finished", None)
    names = sorted(path.name for path in (tmp_path / "log").iterdir())
    assert len(names) == 20
    assert names[-2] == "20240124T000000Z-aaaaaa.000.jsonl"


# --- what status says -----------------------------------------------------------------------------


def _log_with_progress(output: Path) -> None:
    log = RunLog(output, ABOUT)
    log.tell("step_start", {"step": "fetch", "title": "fetch and check images", "tasks": 12, "skipped": 0})
    log._due = 0.0
    log.tick(a_now())
    assert log._to is not None
    log._to.close()


def test_live_run_is_told_with_its_rates_and_its_stuck_tasks(tmp_path: Path) -> None:
    _log_with_progress(tmp_path)
    last = last_run(tmp_path)
    assert last is not None
    assert last.lives
    lines = lines_of(last, 100)
    assert f"process {os.getpid()} on a-host runs since" in lines[0]
    assert lines[1].startswith("  fetch and check images  3/12  412 URLs/s  31.2 MB/s  92% ok  0:03:05  0:12:40 left")
    assert lines[2] == (
        "  stuck: 00003 (https://example.org/a.gz?...), 5 of 10,000 URLs, 0:11:40, nothing for 0:06:40 "
        "(key 0123456789ab, process 7 on n1)"
    )


def test_torn_last_line_is_read_over(tmp_path: Path) -> None:
    _log_with_progress(tmp_path)
    (path,) = (tmp_path / "log").iterdir()
    whole = last_run(tmp_path)
    with path.open("a") as file:
        file.write('{"at": "2024-01-01T00:00:00.000Z", "event": "run_e')
    assert whole is not None
    again = last_run(tmp_path)
    assert again is not None
    assert again.heard == whole.heard


def test_run_elsewhere_that_is_silent_is_not_said_to_live(tmp_path: Path) -> None:
    _log_with_progress(tmp_path)
    (path,) = (tmp_path / "log").iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["owner"]["node"] = "another"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    last = last_run(tmp_path)
    assert last is not None
    assert last.lives, "it said that it would be silent for so long"
    lines[-1]["at"] = "2024-01-01T00:00:00.000Z"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    last = last_run(tmp_path)
    assert last is not None
    assert last.lives is None
    assert "has not been heard of for" in lines_of(last, 80)[0]


@pytest.mark.parametrize("text", ["", "{}\n", "[1]\n", "\xff\n", '{"at": "x", "event": "said"}\n'])
def test_log_of_something_else_is_no_log(tmp_path: Path, text: str) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "x.000.jsonl").write_text(text)
    assert last_run(tmp_path) is None


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_status_from_another_shell_shows_a_run_that_lives_and_then_that_it_was_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = {path: answer(200, picture(number), delay_s=0.0 if number else 60.0) for number, path in enumerate(LINKS)}
    with LoopbackServer(slow) as server:
        small = SmallRun.make(tmp_path, server, LINKS)
        patient = ("--fetch.timeout_s=60", "--fetch.low_speed_time_s=60")
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run", str(small.config), *patient],
            cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until = time.monotonic() + 60
            shown = ""
            while "% ok" not in shown and time.monotonic() < until:
                time.sleep(0.5)
                if small.output.exists() and main(["status", str(small.config)]) == 0:
                    shown = capsys.readouterr().out
            assert f"process {process.pid} on " in shown
            assert " runs since " in shown
            assert "fetch and check" in shown
            assert "0/1" in shown
            assert re.search(r"  \d+% ok  ", shown), shown
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
        capsys.readouterr()
        assert main(["status", str(small.config)]) == 0
        assert f"process {process.pid} on " in (gone := capsys.readouterr().out.splitlines()[0])
        assert "is gone, and was last heard of at" in gone


# --- metrics --------------------------------------------------------------------------------------

_LINE = re.compile(r'(openwit_\w+)(\{\w+="(?:[^"\\]|\\.)*"(?:,\w+="(?:[^"\\]|\\.)*")*\})? (-?[0-9.e+]+)')


def metrics_in(path: Path) -> dict[str, float]:
    """Name and labels -> value; every line is of Prometheus' text format."""
    found = {}
    for line in path.read_text().splitlines():
        if not line.startswith("# "):
            match = _LINE.fullmatch(line)
            assert match is not None, line
            found[match[1] + (match[2] or "")] = float(match[3])
    return found


def test_metrics_tell_what_runs_and_that_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "openwit.prom"
    metrics = MetricsFile(path)
    assert metrics_in(path)["openwit_running"] == 1
    metrics.tick(a_now(step='fetch"\\\n'))
    found = metrics_in(path)
    assert found[r'openwit_step_units_total{step="fetch\"\\\n",unit="URL"}'] == 100
    assert found[r'openwit_step_tasks_stuck{step="fetch\"\\\n"}'] == 1
    assert found[r'openwit_step_left_seconds{step="fetch\"\\\n"}'] == 760
    metrics.end()
    found = metrics_in(path)
    assert found["openwit_running"] == 0
    assert not [name for name in found if "left" in name]
    assert not list(path.parent.glob("*.tmp*"))


def test_run_writes_metrics_where_it_is_asked_to(
    tmp_path: Path, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    small = SmallRun.make(tmp_path, server, LINKS)
    (tmp_path / "file").write_text("")
    assert small.run("--metrics-file", str(tmp_path / "file" / "x.prom")) == 2
    assert "--metrics-file: " in capsys.readouterr().err
    assert small.run("--metrics-file", str(tmp_path / "x.prom")) == 0
    assert metrics_in(tmp_path / "x.prom")["openwit_running"] == 0
