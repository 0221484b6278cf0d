"""A general CLIP goes on with a domain: longer texts, another text tower, and what stops it in one line."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from configs.load import ConfigError, load
from tests.conftest import REPOSITORY
from tests.training.conftest import TINY_VIT
from tests.training.test_recipes import differences
from training.config import ModelConfig, TrainConfig, learns
from training.errors import ModelError
from training.learning.model import Model, create_model
from training.learning.text_positions import KEPT, stretch_positions


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def model_of(directory: Path, stem: str, **text: object) -> str:
    """A model JSON like the tiny one, with other texts."""
    path = directory / f"{stem}.json"
    path.write_text(json.dumps(TINY_VIT | {"text_cfg": {**TINY_VIT["text_cfg"], **text}}))
    return str(path)


def made(name: str, **options: object) -> Model:
    return create_model(
        ModelConfig(name=name, **options),  # type: ignore[arg-type]
        device=torch.device("cpu"), precision="fp32", init_logit_scale=1.0, init_logit_bias=None, seed=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Model]:
    """A model with 32 tokens, and the file of its weights."""
    directory = tmp_path_factory.mktemp("general")
    model = made(model_of(directory, "domain-32", context_length=32))
    save_file(dict(model.clip.state_dict()), directory / "general.safetensors")
    return str(directory / "general.safetensors"), model


def test_texts_of_a_general_model_become_longer_and_its_first_positions_stay(
    general: tuple[str, Model], tmp_path: Path
) -> None:
    source, first = general
    name = model_of(tmp_path, "domain-256", context_length=256)
    model = made(name, init_from=source, init_text_positions="stretch")
    old_PW = first.clip.state_dict()["positional_embedding"]
    new_PW = model.clip.state_dict()["positional_embedding"]
    assert new_PW.shape == (256, old_PW.shape[1])
    assert torch.equal(new_PW[:KEPT], old_PW[:KEPT])
    torch.testing.assert_close(new_PW[[KEPT, -1]], old_PW[[KEPT, -1]])
    steps = (new_PW[KEPT + 1 :] - new_PW[KEPT:-1]).abs().max()  # 11 steps cut into 235
    assert steps <= (old_PW[KEPT + 1 :] - old_PW[KEPT:-1]).abs().max() * 11 / 235 * 1.01
    # A text that fits between the positions that stay says what it said.
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a micrograph of a gland"], 77)
    with model.evaluating(), first.evaluating():
        expected, found = first.encode_text(tokens[:, :32]), model.encode_text(tokens[:, :18])
    torch.testing.assert_close(found, expected)
    interpolated = made(name, init_from=source).clip.state_dict()["positional_embedding"]
    assert not torch.equal(interpolated[1:KEPT], old_PW[1:KEPT])


def test_fewer_positions_are_the_first_ones_and_too_few_are_refused(general: tuple[str, Model], tmp_path: Path) -> None:
    source, first = general
    old_PW = first.clip.state_dict()["positional_embedding"]
    short = model_of(tmp_path, "domain-16", context_length=16)
    found = made(short, init_from=source, init_text_positions="stretch").clip.state_dict()["positional_embedding"]
    assert torch.equal(found, old_PW[:16])
    with pytest.raises(ModelError, match=r"of 16 positions none is left .* take interpolate"):
        stretch_positions({"positional_embedding": old_PW[:16]}, first.clip)
    custom = nn.Module()
    custom.text = nn.Module()
    custom.text.register_parameter("positional_embedding", nn.Parameter(torch.zeros(64, 2)))
    state = {"text.positional_embedding": torch.arange(64.0).view(32, 2)}
    stretch_positions(state, custom)
    assert state["text.positional_embedding"].shape == (64, 2)
    with pytest.raises(ConfigError, match="init_text_positions is of a text tower that init_from brings"):
        ModelConfig(name="ViT-B-32", init_text_positions="stretch")


def test_another_text_tower_is_told_with_what_to_take_instead(general: tuple[str, Model], tmp_path: Path) -> None:
    source, first = general
    other = model_of(tmp_path, "domain-wide", context_length=256, width=48, heads=4)
    with pytest.raises(ModelError, match=r"does not fit domain-wide .* or model.init_towers to image"):
        made(other, init_from=source)
    after = made(other, init_from=source, init_towers="image").clip.state_dict()
    assert torch.equal(after["visual.conv1.weight"], first.clip.state_dict()["visual.conv1.weight"])


def test_a_tower_of_transformers_that_is_not_here_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "configs/train/models/biomedclip-vit-b-16.json"
    with pytest.raises(ModelError, match=r"data/pubmedbert does not exist; bring config.json and tokenizer.json"):
        made(name)
    monkeypatch.chdir(tmp_path)
    bert = tmp_path / "data/pubmedbert"
    bert.mkdir(parents=True)
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        made(name)
    (bert / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no model_type"):
        made(name)
    (bert / "config.json").write_text('{"model_type": "bert", "max_position_embeddings": 128}')
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else found(name))
    with pytest.raises(ModelError, match=r"by the package transformers, which is missing; pip install"):
        made(name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(ModelError, match=r"texts of 256 tokens, and the tower in data/pubmedbert places for 128"):
        made(name)
    with pytest.raises(ModelError, match=r"is of Hugging Face's, and the text tower of .* is open_clip's own"):
        made(model_of(tmp_path, "domain-own"), init_text_from=str(bert))


def test_runs_that_ask_for_none_of_it_learn_as_before() -> None:
    config = load(TrainConfig, "configs/train/clip-small.yaml")
    assert learns(config) == "dde0b1fe20921afe013bb58aaac6ea6d"
    other = replace(config.model, init_from="x", init_text_positions="stretch")
    assert learns(replace(config, model=other)) != learns(replace(config, model=replace(config.model, init_from="x")))


def test_twins_differ_where_the_systems_do() -> None:
    models = "configs/train/models/openwit-sample"
    figures = {
        "data.path": "data/figures-set",
        "epochs": 3.0,
        "evaluation.path": "data/figures/eval/test.parquet",
        "global_batch_size": 32,
        "model.init_from": "runs/sample",
        "optimiser.warmup_samples": 600,
    }
    assert differences("biomedclip-small") == {
        **figures, "model.name": f"{models}-bert.json", "model.init_towers": "image",
    }  # fmt: skip
    assert differences("domain-small") == {
        **figures,
        "model.name": f"{models}-256.json",
        "model.init_text_positions": "stretch",
        "optimiser.learning_rate": 1e-3,
    }


def test_settings_of_biomedclip_are_the_published_ones() -> None:
    """Table 9 of the supplement of Zhang et al., NEJM AI, DOI 10.1056/AIoa2400640; the batch of tables 6 and 7."""
    config = load(TrainConfig, "configs/train/biomedclip-vit-b-16.yaml")
    optimiser = config.optimiser
    assert (config.epochs, config.global_batch_size, config.precision) == (32, 4_096, "bf16")
    assert (optimiser.name, optimiser.learning_rate, optimiser.weight_decay) == ("adamw", 5e-4, 0.2)
    assert (optimiser.beta1, optimiser.beta2, optimiser.eps, optimiser.schedule) == (0.9, 0.98, 1e-6, "cosine")
    assert optimiser.warmup_samples == 2_000 * 4_096
    assert (config.model.normalisation, config.model.gradient_checkpointing) == ("clip", True)
    text = json.loads(Path(config.model.name).read_text())["text_cfg"]
    assert (text["context_length"], text["hf_pooler_type"], text["hf_proj_type"]) == (
        256, "cls_last_hidden_state_pooler", "mlp",
    )  # fmt: skip
    assert text["hf_model_name"] == text["hf_tokenizer_name"] == config.model.init_text_from
