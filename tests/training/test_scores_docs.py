"""docs/score.md: its commands are run as they stand, over a small set and a model with random weights."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from configs.load import from_mapping
from pipeline.commands import main as pipeline
from pipeline.stages.image_filters_config import FiltersConfig
from tests.conftest import REPOSITORY
from tests.pipeline import small_set
from training.commands import main as training
from training.scores.config import ScoreConfig
from training.scores.policy_config import PolicyConfig, load_policy

PAGE = (REPOSITORY / "docs" / "score.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def _picture(row: Mapping[str, Any]) -> bytes:
    """A gray JPEG of its own, every third like the one before."""
    shade = np.random.default_rng(row["record"] // 3).integers(0, 255, (32, 32), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(shade).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.timeout(300)
def test_every_command_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(small_set, "picture", _picture)
    samples = small_set.make_set(tmp_path / "data" / "sample", 40)
    model, weights = (Path(part) for part in tiny_model.split(":"))
    run = tmp_path / "runs" / "sample"
    run.mkdir(parents=True)
    about = {"model_cfg": json.loads(model.read_text()), "preprocess_cfg": {}}
    (run / "open_clip_config.json").write_text(json.dumps(about))
    (run / "open_clip_model.safetensors").write_bytes(weights.read_bytes())
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    told = ""
    for line in "".join(_blocks("sh")).splitlines():
        python, flag, program, *words = shlex.split(line)
        assert (python, flag) == ("python", "-m")
        # Of random weights the cosines lie elsewhere.
        words = [
            word.replace("clip_score >= 0.7", "clip_score >= -1").replace("len(policy_flags) = 0", "true")
            for word in words
        ]
        assert {"training": training, "pipeline": pipeline}[program](words) == 0, capsys.readouterr().err
        told += capsys.readouterr().out
    assert f"clip_score: {len(samples)} of {len(samples)} rows" in told
    assert "duplicate_of IS NULL" in told
    assert "policy_arrows" in told
    better = json.loads((tmp_path / "data/sample-better/ledger.json").read_text())["lines"][0]
    assert 0 < better["kept"] < better["rows_in"] == len(samples)
    columns = pq.read_schema(tmp_path / "data/sample-better/joined/sample_scores.parquet").names
    assert columns == ["uid", "clip_score", "cluster", "similarity", "duplicate_of"]


def test_what_it_shows_of_configs_is_read() -> None:
    rules, filters = map(yaml.safe_load, _blocks("yaml"))
    assert from_mapping(PolicyConfig, rules).rules["weapons"].contrast
    scores = from_mapping(FiltersConfig, filters["filters"]).scores
    assert {score.column for score in scores} == {"clip_score", "similarity"}
    for line in "".join(_blocks("")).splitlines():
        words = shlex.split(line, comments=True)
        if "score" in words:
            options = {word.removeprefix("--"): words[place + 1] for place, word in enumerate(words) if "--" in word}
            assert options.keys() <= {"name", "scores", "aesthetic.head"}
            features = words[4 : words.index("--name")] if "--name" in words else [w for w in words[4:] if "/" in w]
            assert from_mapping(ScoreConfig, {"features": features}).features


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "configs" / "policies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_policy_that_comes_along_is_read(file: Path) -> None:
    policy = load_policy(str(file))
    assert all(rule.prompts and rule.contrast for rule in policy.rules.values())


def test_page_names_every_score_and_column() -> None:
    for name in ("clip", "aesthetic", "policy", "duplicates"):
        assert f"| `{name}` |" in PAGE
    for column in ("clip_score", "policy_flags", "cluster", "similarity", "duplicate_of"):
        assert f"`{column}`" in PAGE
