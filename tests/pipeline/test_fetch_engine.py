"""The engine img2dataset without img2dataset: what is refused, how its words are read, what becomes of its faults.

`make test-peers` runs the real one (tests/peers). Here a stand-in of the same name writes what the real one writes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError, load
from pipeline.commands import main
from pipeline.config import WitConfig
from pipeline.consent.signals import AnswerSignals
from pipeline.errors import EngineError
from pipeline.pages import is_reason
from pipeline.runs.run import inspect, run
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import STANDARD, Fetched
from pipeline.stages.fetch.img2dataset import LIMITS, fetch_with_img2dataset, find_img2dataset, reason_of
from pipeline.steps.fetch.facts import settings_of
from tests.conftest import REPOSITORY

STAND_IN = """
import io, json, pathlib, sys, tarfile, time
import pyarrow as pa, pyarrow.parquet as pq

def download(url_list, output_folder, save_additional_columns, timeout, **options):
    out = pathlib.Path(output_folder)
    out.mkdir()
    (out.parent / "options.json").write_text(json.dumps(options))
    assert save_additional_columns == ["place"]
    rows = []
    with tarfile.open(out / "00000.tar", "w") as tar:
        for number, row in enumerate(pq.read_table(url_list).to_pylist()):
            path = row["url"].partition("example/")[2]
            row |= {"key": f"{number:09d}", "status": "success", "error_message": None}
            if path == "crash":
                sys.exit("the disk is on fire")
            if path == "hang":
                (out.parent.parent / "hangs").write_text("")
                time.sleep(60)
            if path == "lost":
                continue
            if path.startswith("fail"):
                row |= {"status": "failed_to_download", "error_message": "HTTP Error 410: Gone\\n"}
            elif path != "not-in-tar":
                member = tarfile.TarInfo(row["key"] + ".jpg")
                member.size = len(path)
                tar.addfile(member, io.BytesIO(path.encode()))
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), out / "00000.parquet")
    (out / "00000_stats.json").write_text("{}")
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A "Python" that has a package named img2dataset."""
    root = tmp_path_factory.mktemp("stand-in")
    (root / "lib").mkdir()
    (root / "lib/img2dataset.py").write_text(STAND_IN)
    (root / "lib/img2dataset-1.47.0.dist-info").mkdir()
    (root / "lib/img2dataset-1.47.0.dist-info/METADATA").write_text("Name: img2dataset\nVersion: 1.47.0\n")
    python = root / "python"
    python.write_text(f'#!/bin/sh\nshift  # -I\nPYTHONPATH={root}/lib exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def config_of(python: Path | str, **more: Any) -> FetchConfig:
    agent = "test/1 (+http://localhost/)"
    return FetchConfig(user_agent=agent, engine="img2dataset", engine_python=str(python), **more)


def answers(python: Path, scratch: Path, *paths: str, signals: AnswerSignals = STANDARD, **more: Any) -> list[Fetched]:
    urls = [path if "://" in path else f"http://a.example/{path}" for path in paths]
    found = list(fetch_with_img2dataset(urls, config_of(python, **more), signals, scratch))
    assert sorted(each.index for each in found) == list(range(len(urls))), "one answer for each URL"
    return sorted(found, key=lambda each: each.index)


@pytest.mark.parametrize(
    ("message", "reason", "status"),
    [
        ("HTTP Error 404: Not Found", "http_404", 404),
        ("HTTP Error 504: Gateway timed out", "http_504", 504),
        ("HTTP Error 302: The HTTP server returned a redirect error that would lead to an infinite loop.", None, 302),
        ("HTTP Error 302: Found - Redirection to url 'file:///etc/passwd' is not allowed", "scheme_not_allowed", 302),
        ("HTTP Error 304: Not Modified", "http_304", 304),
        ("Use of image disallowed by X-Robots-Tag directive", "x_robots_tag", None),
        ("<urlopen error [Errno -2] Name or service not known>", "dns", None),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", "dns", None),
        ("encoding with 'idna' codec failed (UnicodeError: label too long)", "dns", None),
        ("<urlopen error [Errno 111] Connection refused>", "connect", None),
        ("<urlopen error [Errno 101] Network is unreachable>", "connect", None),
        ("<urlopen error [Errno 113] No route to host>", "connect", None),
        ("<urlopen error timed out>", "connect", None),
        ("timed out", "timeout", None),
        ("The read operation timed out", "timeout", None),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", "tls", None),
        ("[Errno 104] Connection reset by peer", "transfer", None),
        ("Remote end closed connection without response", "transfer", None),
        ("IncompleteRead(4 bytes read, 995 more expected)", "transfer", None),
        ("URL can't contain control characters. '/a b' (found at least ' ')", "bad_url", None),
        ("'ascii' codec can't encode character '\\xe4' in position 5", "bad_url", None),
        ("", "transfer", None),
    ],
)
def test_messages_become_our_reasons(message: str, reason: str | None, status: int | None) -> None:
    found = reason_of(message)
    assert found == (reason or "too_many_redirects", status)
    assert is_reason("fetch", found[0])


def test_every_url_has_one_answer_whatever_img2dataset_gives(stand_in: Path, tmp_path: Path) -> None:
    found = answers(
        stand_in,
        tmp_path / "scratch",
        *("good", "fail", "lost", "not-in-tar", "blocked", "too long to be kept"),
        *("ftp://a.example/x", "http://10.0.0.1/x", "http://0x7f000001/x", "http://localhost/x", "http://[::1/x"),
        max_bytes=10,
        block=("http://a.example/blocked",),
    )
    assert [each.reason for each in found] == [
        *(None, "http_410", "transfer", "transfer", "block_list", "too_large"),
        *("scheme_not_allowed", "address_not_allowed", "address_not_allowed", "address_not_allowed", "bad_url"),
    ]
    assert found[0].body == b"good"
    assert (found[1].http_status, found[1].detail) == (410, "HTTP Error 410: Gone")
    assert found[2].detail == "img2dataset gave no answer"


def test_relative_paths_are_those_of_this_process(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert answers(Path(os.path.relpath(stand_in)), Path("scratch"), "good")[0].body == b"good"


def test_bodies_are_left_as_they_were_served(stand_in: Path, tmp_path: Path) -> None:
    signals = AnswerSignals(x_robots_directives=("noai", "unavailable_after"))
    answers(stand_in, tmp_path / "scratch", "good", signals=signals)
    options = json.loads((tmp_path / "scratch/options.json").read_text())
    assert options["disable_all_reencoding"] is True
    assert options["disallowed_header_directives"] == ["noai"]
    assert options["user_agent_token"] == "test"


def test_failure_as_a_whole_is_one_line(stand_in: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"failed with status 1: the disk is on fire$"):
        answers(stand_in, tmp_path / "scratch", "good", "crash")


def test_deadline_ends_it(stand_in: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    found = answers(stand_in, tmp_path / "scratch", "good", "hang", shard_deadline_s=2)
    assert time.monotonic() - began < 20
    assert [each.reason for each in found] == ["timeout", "timeout"]


def test_img2dataset_ends_with_the_process_that_started_it(stand_in: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from tests.pipeline.test_fetch_engine import STANDARD, config_of, fetch_with_img2dataset;"
        "urls = ['http://a.example/hang'];"
        "list(fetch_with_img2dataset(urls, config_of(sys.argv[1]), STANDARD, pathlib.Path(sys.argv[2])))"
    )
    words = [sys.executable, "-c", code, str(stand_in), str(tmp_path / "scratch")]
    with subprocess.Popen(words, cwd=REPOSITORY) as parent:
        wait_for(lambda: (tmp_path / "hangs").exists())
        with open(f"/proc/{parent.pid}/task/{parent.pid}/children", encoding="ascii") as file:
            (child,) = map(int, file.read().split())
        os.kill(parent.pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text())


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"engine_python": ""}, "needs engine_python"),
        ({"robots_txt": True}, "cannot honour robots_txt"),
        ({"proxy": "http://p.example", "verify_certificates": False}, "cannot honour proxy, verify_certificates"),
        ({"resolve": ("a:80:1.2.3.4",), "per_host_rate": 1.0}, "cannot honour per_host_rate, resolve"),
    ],
)
def test_what_it_cannot_do_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config_of(more.pop("engine_python", "python"), **more)


def words_for(tmp_path: Path, python: Path | str) -> list[str]:
    """The command line's words for a run over one link."""
    (tmp_path / "links.csv").write_text("url,caption\nhttp://a.example/good,a red dog\n")
    (tmp_path / "queries.txt").write_text("dog\n")
    return [
        *("--sources", f'["{tmp_path}/links.csv"]', "--queries", str(tmp_path / "queries.txt")),
        *("--output", str(tmp_path / "set"), "--fetch.user_agent", "a (+http://b.c/)", "--engine.kind", "inline"),
        *("--fetch.engine", "img2dataset", "--fetch.engine_python", str(python)),
        *("--consent.tdm_reservation", "false", "--consent.content_usage", "false"),
        *("--consent.content_signal", "false", "--consent.robots_live", "false"),
    ]


def test_run_says_at_its_start_what_the_engine_cannot_do(
    stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("{}\n")
    assert main(["run", str(tmp_path / "config.yaml"), *words_for(tmp_path, stand_in)]) == 2, "no sample is left"
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == LIMITS
    assert any("not_an_image 1" in line for line in rest)
    assert not [path for path in (tmp_path / "set/work/fetch").iterdir() if ".tmp-" in path.name]


@pytest.mark.parametrize(("python", "words"), [("/nowhere/python", "cannot be run"), ("own", "has no img2dataset")])
def test_missing_engine_stops_before_any_work(tmp_path: Path, python: str, words: str) -> None:
    own = sys.executable if python == "own" else python
    config = load(WitConfig, None, words_for(tmp_path, own))
    assert inspect(config)[1] is not None  # to plan and to look takes no engine
    with pytest.raises(ConfigError, match=words):
        run(config)
    assert not (tmp_path / "set").exists()


def test_old_img2dataset_is_named(stand_in: Path, tmp_path: Path) -> None:
    assert find_img2dataset(config_of(stand_in)) == "1.47.0"
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 1.25.6\n")
    python.chmod(0o755)
    with pytest.raises(ConfigError, match=r"has img2dataset 1.25.6, which is too old"):
        find_img2dataset(config_of(python))


def test_where_the_engine_lies_is_no_part_of_what_is_known(stand_in: Path) -> None:
    image = ImageConfig()
    assert settings_of(config_of(stand_in), image) == settings_of(config_of("/elsewhere/python"), image)
