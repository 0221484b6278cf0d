"""The commands of docs/evaluate.md, run as they stand on a small model, and what the page says of CLIP_benchmark."""

from __future__ import annotations

import random
import re
import shlex
import shutil
from pathlib import Path

import pytest

from configs.load import from_mapping
from tests.conftest import REPOSITORY
from tests.training.conftest import tiny_run
from tests.training.tiny_shards import CLASSES, draw_sample, encode, make_evaluation
from training.commands import main
from training.commands.table import COMMANDS
from training.config import TrainConfig
from training.train import train

PAGE = (REPOSITORY / "docs" / "evaluate.md").read_text(encoding="utf-8")
SAMPLE = "evaluate sample"


def test_commands_of_the_page_work(
    tiny_data: Path, tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_vit, tmp_path / "tiny.json")
    make_evaluation(tmp_path / "data/sample_web/eval", per_class=1, size=24, classes=CLASSES[:4])
    for number, name in enumerate(CLASSES[:3]):
        path = tmp_path / "data/photos" / name / "1.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode(draw_sample(name, random.Random(number), size=24)[0]))
    run = tiny_run(Path("runs/sample"), tiny_data, tiny_vit) | {"samples": 16}
    train(from_mapping(TrainConfig, run))
    assert main(["export", "runs/sample/config.yaml"]) == 0
    commands = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(commands) == 4
    for command in commands:
        python, dash_m, room, *words = shlex.split(command)
        assert (python, dash_m, room) == ("python", "-m", "training")
        if words == SAMPLE.split():  # the sample's own model would have to be trained first
            words = ["evaluate", "runs/sample/config.yaml", "--evaluation.path", "data/sample_web/eval"]
        assert main(words) == 0, command
    assert "wrote data/photos-tars: 3 pictures, 3 classes" in capsys.readouterr().out
    for name in re.findall(r"^    data/evaluation/(\S+)", PAGE, re.MULTILINE):
        assert (tmp_path / "data/evaluation" / name).exists(), name


def test_page_names_the_peer_that_is_pinned() -> None:
    (pin,) = re.findall(
        r"^clip-benchmark==(\S+)", (REPOSITORY / "tests/peers/clip_benchmark.txt").read_text(), re.MULTILINE
    )
    assert f"CLIP_benchmark {pin}" in PAGE


def test_commands_of_the_page_are_in_the_table() -> None:
    assert {"evaluate", "evaluation-set"} <= {command.name for command in COMMANDS}
