"""A tokenizer of one's own with an end mark of its own, and a vocabulary as large as XLM-V's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import load
from tests.conftest import REPOSITORY
from tests.training.pieces import make_pieces
from training.config import TrainConfig
from training.errors import ModelError
from training.learning.memory import needs_of
from training.learning.model import register_model
from training.learning.tokenizer import make_tokenizer

TWIN = REPOSITORY / "configs/train/models/openwit-sample-worldwide.json"


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pieces(tmp_path_factory.mktemp("pieces") / "spiece.model")


def described(directory: Path, **text: Any) -> str:
    """The twin's model with other options of its texts: where its JSON lies."""
    model = json.loads(TWIN.read_text())
    model["text_cfg"] |= text
    path = directory / f"openwit-test-worldwide-{'-'.join(map(str, text.values()))}.json"
    path.write_text(json.dumps(model))
    return str(path)


def test_texts_are_read_at_the_end_mark(pieces: Path) -> None:
    tokens = make_tokenizer(register_model(str(TWIN)), str(pieces))(["a red circle", "red " * 60])
    assert tokens.shape == (2, 32)
    assert (tokens == 1).any(dim=1).all()
    assert tokens[1, -1] == 1


def test_a_tokenizer_without_the_towers_end_mark_is_refused(pieces: Path, tmp_path: Path) -> None:
    """Its texts would all be read at their first token."""
    name = register_model(described(tmp_path, eos_id=2))
    with pytest.raises(
        ModelError, match=r"at token 2, its end mark, which this tokenizer does not write; set text_cfg"
    ) as told:
        make_tokenizer(name, str(pieces))
    assert "\n" not in str(told.value)


def test_the_file_of_xlms_pieces_is_refused_since_it_numbers_them_otherwise(pieces: Path) -> None:
    with pytest.raises(ModelError, match=r"otherwise than the file; give a directory with its tokenizer\.json"):
        make_tokenizer("ViT-H-14-worldwide-quickgelu", str(pieces))


def test_the_plan_counts_the_whole_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    config = load(TrainConfig, "configs/train/metaclip-worldwide-small.yaml")
    sizes = 2048, 901_629
    small, large = (
        needs_of(replace(config, model=replace(config.model, name=described(tmp_path, vocab_size=size)))).memory
        for size in sizes
    )
    more = (sizes[1] - sizes[0]) * 128
    grown = {kind: large[kind] - small[kind] for kind in large if large[kind] != small[kind]}
    # Autocast makes no copy of an embedding, though the plan counts one as of every matrix: 2 bytes on the safe side.
    assert grown == {"weights": 4 * more, "weights in bf16": 2 * more, "gradients": 4 * more, "moments": 8 * more}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_plan_of_metaclips_worldwide_model_holds_its_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    needs = needs_of(load(TrainConfig, "configs/train/metaclip-vit-h-14-worldwide.yaml"))
    assert needs.parameters == 1_858_783_745
    assert needs.memory["moments"] == 8 * needs.parameters
    assert "xlm-v-base" in needs.tokenizer_problem
    assert torch.float32.itemsize * 901_629 * 1024 < needs.memory["weights"]
