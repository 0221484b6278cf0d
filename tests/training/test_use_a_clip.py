"""docs/use-a-clip.md: its scripts run as they stand, with a small model and small pictures."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import openwit
from configs.load import from_mapping
from tests.conftest import REPOSITORY
from tests.training.conftest import tiny_run
from training.config import TrainConfig
from training.train import train

SCRIPTS = re.findall(
    r"^```python\n(.*?)^```",
    (REPOSITORY / "docs/use-a-clip.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)
FEW = {"STEPS, VIEWS = 120, 16": "STEPS, VIEWS = 3, 4", "EPOCHS = 4": "EPOCHS = 1"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_vit: Path) -> Path:
    """A directory with the run that the page speaks of."""
    directory = tmp_path_factory.mktemp("use")
    train(from_mapping(TrainConfig, tiny_run(directory / "runs" / "sample", tiny_data, tiny_vit)))
    return directory


def samples(directory: str) -> Iterator[dict[str, object]]:
    assert directory == "data/sample"
    draws = np.random.default_rng(0)
    for number, place in enumerate(["on the left", "on the right", "near the top", "near the bottom"] * 6):
        buffer = io.BytesIO()
        Image.fromarray(draws.integers(0, 256, (40, 40, 3), np.uint8)).save(buffer, "jpeg")
        yield {"caption": f"thing {number} {place}", "image": buffer.getvalue()}


@pytest.mark.parametrize("script", SCRIPTS, ids=["features", "guide", "fine-tune"])
def test_script_runs(
    script: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    monkeypatch.setattr(openwit, "read_shards", samples, raising=False)
    for whole, few in FEW.items():
        script = script.replace(whole, few)
    exec(compile(script, "use-a-clip.md", "exec"), {"__name__": "__main__"})
    told = capsys.readouterr().out
    if "STEPS" in script:
        with Image.open("guided.png") as picture:
            assert picture.size == (32, 32)
    assert re.search(r"torch.Size\(\[24, \d+\]\)|tensor\(\[\[|fine-tuned +[\d.]+%", told)


def test_page_has_three_scripts() -> None:
    assert len(SCRIPTS) == 3
