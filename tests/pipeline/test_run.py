"""What a run leaves in the directory of its data set."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

LINKS = ("/a", "/b")


def test_steps_that_are_switched_off_go_though_a_kill_left_them_unfinished(tmp_path: Path) -> None:
    with LoopbackServer({link: text(picture(i)) for i, link in enumerate(LINKS)}) as server:
        small = SmallRun.make(tmp_path, server, LINKS)
        assert small.run("--image_dedup.mode", "same_file") == 0
        work = small.output / "work"
        unfinished = work / "pictures"
        (unfinished / "manifest.json").unlink()
        assert small.run() == 0
    assert not unfinished.exists()
    assert not (work / "image_dedup").exists()
    assert list((work / "fetch").glob("*.tar"))
    assert small.samples() == list(LINKS)


def test_copy_that_followed_the_link_is_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LoopbackServer({link: text(picture(i)) for i, link in enumerate(LINKS)}) as server:
        small = SmallRun.make(tmp_path, server, LINKS)
        assert small.run() == 0
        version = (small.output / "shards").resolve()
        (small.output / "shards").unlink()
        shutil.copytree(version, small.output / "shards")
        assert small.run("--balance.max_pairs_per_query", "1") == 2
        assert "shards: is a directory, where a link" in capsys.readouterr().err
        shutil.rmtree(small.output / "shards")
        assert small.run() == 0
    assert small.samples() == list(LINKS)
