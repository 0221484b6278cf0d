"""What a run leaves in the directory of its data set."""

from __future__ import annotations

from pathlib import Path

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
