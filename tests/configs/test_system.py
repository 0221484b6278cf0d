"""On Windows every command that works ends with one line; help and the page about it stay."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from openwit.command import main as openwit
from pipeline.commands import main as pipeline
from pipeline.sample_web.__main__ import main as sample_web
from query_list.commands import main as query_list
from tests.conftest import REPOSITORY
from training.__main__ import main as training


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (openwit, ["shards", "sample"]),
        (openwit, ["queries", "sample"]),
        (openwit, ["train", "sample"]),
        (pipeline, ["run", "configs/shards/sample.yaml"]),
        (pipeline, ["status", "data/sample"]),
        (query_list, ["build", "configs/queries/sample.yaml"]),
        (sample_web, ["build"]),
        (training, ["run", "configs/train/sample.yaml"]),
    ],
)
def test_windows_is_told_in_one_line(
    main: Callable[[list[str]], int],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(words) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: this does not run on Windows itself; run it in WSL 2")
    assert (REPOSITORY / "docs/platforms.md").is_file()


def test_help_is_for_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert openwit(["--help"]) == 0
    assert pipeline(["run", "--help"]) == 0
