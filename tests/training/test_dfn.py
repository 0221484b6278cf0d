"""A data filtering network on a small set: the commands of docs/recipes.md as they stand, and its config."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.load import load
from pipeline.commands import main as pipeline
from pipeline.config import WitConfig
from tests.conftest import REPOSITORY
from tests.pipeline import small_set
from training.commands import main as training


def _picture(row: Mapping[str, Any]) -> bytes:
    """A gray JPEG of its own."""
    shade = np.random.default_rng(row["record"]).integers(0, 255, (32, 32), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(shade).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def test_what_scores_highest_is_kept_by_the_commands_of_the_docs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_model: str
) -> None:
    page = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
    block = re.search(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(small_set, "picture", _picture)
    samples = small_set.make_set(tmp_path / "data" / "sample-align", 40)
    model, weights = (Path(part) for part in tiny_model.split(":"))
    run = tmp_path / "runs" / "sample"
    run.mkdir(parents=True)
    (run / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": json.loads(model.read_text()), "preprocess_cfg": {}})
    )
    (run / "open_clip_model.safetensors").write_bytes(weights.read_bytes())
    for line in block[1].splitlines():
        python, flag, program, *words = shlex.split(line)
        assert (python, flag) == ("python", "-m")
        assert {"training": training, "pipeline": pipeline}[program](words) == 0, capsys.readouterr().err
    flow = json.loads((tmp_path / "data/sample-dfn/ledger.json").read_text())["lines"][0]
    assert flow["rows_in"] == len(samples)
    assert 0.6 * len(samples) < flow["kept"] < 0.8 * len(samples)


def test_the_pool_is_the_config_without_its_filter() -> None:
    path = REPOSITORY / "configs/shards/dfn.yaml"
    config, pool = load(WitConfig, path), load(WitConfig, path, ["--filters.scores", "[]", "--output", "data/pool"])
    assert [score.column for score in config.filters.scores] == ["dfn_score"]
    assert (pool.filters.active, pool.balance.mode, pool.texts.keep_unmatched) == (False, "none", True)
