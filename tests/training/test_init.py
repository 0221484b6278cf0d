"""Starting from other weights, and training texts to a locked image tower."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from configs.load import ConfigError, from_mapping
from tests.training.conftest import TINY_VIT, tiny_run
from tests.training.ranks_worker import GLOBAL_BATCH, make_batch
from tests.training.test_train import losses, weights_of
from training.config import LossConfig, MethodConfig, ModelConfig, TrainConfig
from training.distributed import World
from training.errors import ModelError
from training.learning.gradient import FlatGradients, accumulate_gradient
from training.learning.method import make_method
from training.learning.model import Model, create_model
from training.train import train


@pytest.fixture
def config(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> TrainConfig:
    return from_mapping(TrainConfig, tiny_run(tmp_path / "run", tiny_data, tiny_vit) | {"samples": 32})


@pytest.fixture
def trained(config: TrainConfig, tmp_path: Path) -> Path:
    first = replace(config, output=str(tmp_path / "first"), seed=7)
    train(first)
    return Path(first.output)


def made(name: str, source: Path, **options: object) -> Model:
    return create_model(
        ModelConfig(name=name, init_from=str(source), **options),
        device=torch.device("cpu"), precision="fp32", init_logit_scale=1.0, init_logit_bias=None, seed=0,
    )  # fmt: skip


def test_a_run_starts_from_the_last_checkpoint_of_another(trained: Path, tiny_vit: Path) -> None:
    expected = weights_of(trained)
    for source in (trained, next((trained / "checkpoints").glob("*32")) / "model.safetensors"):
        found = made(str(tiny_vit), source).clip.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("towers", ["image", "text"])
def test_one_tower_is_taken_and_the_other_begins_anew(
    towers: Literal["image", "text"], trained: Path, tiny_vit: Path
) -> None:
    expected = weights_of(trained)
    found = made(str(tiny_vit), trained, init_towers=towers).clip.state_dict()
    assert float(found["logit_scale"]) == 1.0
    for name in ("visual.conv1.weight", "token_embedding.weight"):
        taken = name.startswith("visual.") == (towers == "image")
        assert torch.equal(found[name], expected[name]) == taken


def test_a_locked_image_tower_stays_as_it_was_while_texts_are_trained(config: TrainConfig, trained: Path) -> None:
    model = replace(config.model, init_from=str(trained), init_towers="image", lock_image=True)
    train(replace(config, model=model, micro_batches=2))
    before, after = weights_of(trained), weights_of(config.output)
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) == name.startswith("visual."), name
    assert len(losses(config.output)) == 2


def test_unlocked_groups_are_trained_all_the_same(config: TrainConfig, trained: Path) -> None:
    model = replace(config.model, init_from=str(trained), lock_image=True, unlocked_image_groups=1)
    train(replace(config, model=model))
    before, after = weights_of(trained), weights_of(config.output)
    assert not torch.equal(after["visual.proj"], before["visual.proj"])
    assert torch.equal(after["visual.conv1.weight"], before["visual.conv1.weight"])


def test_gradients_with_a_locked_tower_are_exact_over_micro_batches(trained: Path, tiny_vit: Path) -> None:
    found = []
    for micro_batches in (1, 4):
        model = made(str(tiny_vit), trained, lock_image=True)
        model = Model(model.clip.double(), name=model.name, device=model.device, precision="fp32")
        gradients = FlatGradients([p for p in model.clip.parameters() if p.requires_grad], World())
        batch = make_batch(model.image_size)
        accumulate_gradient(
            model, make_method(MethodConfig(), LossConfig()), batch, gradients, World(),
            global_batch_size=GLOBAL_BATCH, micro_batches=micro_batches,
        )  # fmt: skip
        found.append(gradients.buffer.clone())
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-14)


def test_a_checkpoint_of_another_model_is_one_clear_line(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "openwit-test-wide.json"
    other.write_text(json.dumps({**TINY_VIT, "embed_dim": 24}))
    for towers in ("both", "image"):
        with pytest.raises(ModelError, match=r"model\.init_from: .* does not fit openwit-test-wide") as caught:
            made(str(other), trained, init_towers=towers)
        assert "\n" not in str(caught.value)


def test_missing_or_damaged_weights_are_one_clear_line(trained: Path, tiny_vit: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        made(str(tiny_vit), tmp_path / "nowhere.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no checkpoint and no export"):
        made(str(tiny_vit), tmp_path / "empty")
    for name in ("damaged.safetensors", "damaged.pt"):
        (tmp_path / name).write_bytes(b"not weights at all")
        with pytest.raises(ModelError, match=r"model\.init_from"):
            made(str(tiny_vit), tmp_path / name)


def test_locking_random_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match="would freeze random weights"):
        ModelConfig(name="ViT-B-32", lock_image=True)
    with pytest.raises(ConfigError, match="would freeze random weights"):
        ModelConfig(name="ViT-B-32", lock_image=True, init_from="x", init_towers="text")
    with pytest.raises(ConfigError, match="does nothing without lock_image"):
        ModelConfig(name="ViT-B-32", unlocked_image_groups=1)
