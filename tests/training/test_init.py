"""Starting from other weights, and training texts to a locked image tower."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Literal

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from configs.load import ConfigError, from_mapping
from tests.training.conftest import TINY_VIT, tiny_run
from tests.training.ranks_worker import GLOBAL_BATCH, make_batch
from tests.training.test_train import losses, weights_of
from training.__main__ import main
from training.config import LossConfig, MethodConfig, ModelConfig, TrainConfig
from training.distributed import World
from training.errors import ModelError
from training.learning import initial_weights
from training.learning.gradient import FlatGradients, accumulate_gradient
from training.learning.initial_weights import load_weights
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


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """What Hugging Face's cache holds: ORGANISATION/NAME -> file. Nothing is asked of a network."""
    files: dict[str, Path] = {}

    def look_up(repository: str, name: str) -> str | None:
        found = files.get(repository)
        return None if found is None or found.name != name else str(found)

    monkeypatch.setattr(initial_weights, "try_to_load_from_cache", look_up)
    return files


def published(name: str, source: str, image_mean: tuple[float, ...] = open_clip.OPENAI_DATASET_MEAN) -> nn.Module:
    """A module of two weights into which `source` is loaded as if it were open_clip's model `name`."""
    clip = nn.Module()
    clip.visual = nn.Linear(2, 2, bias=False)
    clip.visual.image_mean = image_mean
    clip.logit_scale, clip.logit_bias = nn.Parameter(torch.zeros(())), None
    load_weights(clip, source, towers="both", name=name)
    return clip


def test_a_tag_or_a_hub_name_stands_for_the_file_in_the_cache(cached: dict[str, Path], tmp_path: Path) -> None:
    weights = {"visual.weight": torch.ones(2, 2), "logit_scale": torch.ones(())}
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    cached["laion/CLIP-ViT-B-32-laion2B-s34B-b79K"] = tmp_path / "open_clip_model.safetensors"
    for source in ("laion2b_s34b_b79k", "laion2b-s34b-b79k", "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"):
        assert torch.equal(published("ViT-B-32", source).visual.weight, torch.ones(2, 2))  # type: ignore[union-attr]  # a layer


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("ViT-B-32", "laion2b_s34b_b79k", r"not on this machine; bring open_clip_model\.safetensors of laion/"),
        ("ViT-B-32", "hf-hub:some/where", r"bring open_clip_model\.safetensors of some/where and give its path"),
        ("ViT-B-32", "openai", r"another GELU; set --model\.name ViT-B-32-quickgelu"),
        ("ViT-L-14", "laion2b_s32b_b82k", r"to a mean of 0; set --model\.normalisation inception"),
        ("ViT-B-32", "laion2b_s34b", r"does not exist; give .*, or a tag of ViT-B-32 \(laion2b_s34b_b79k"),
    ],
)  # fmt: skip
def test_published_weights_that_are_not_here_or_do_not_fit_are_one_line(
    name: str, source: str, told: str, cached: dict[str, Path]
) -> None:
    with pytest.raises(ModelError, match=rf"^model\.init_from: .*{told}") as caught:
        published(name, source)
    assert "\n" not in str(caught.value)


def test_nothing_is_looked_up_on_a_network_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", connect)
    for name, source in (("ViT-B-32", "laion2b_s34b_b79k"), ("RN50-quickgelu", "cc12m"), ("RN50", "hf-hub:a/b")):
        with pytest.raises(ModelError, match=r"is not on this machine; bring .*HF_HUB_OFFLINE=0"):
            published(name, source)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    asked: list[tuple[str, str | None]] = []

    def download(repository: str, filename: str | None) -> str:
        asked.append((repository, filename))
        raise FileNotFoundError("no network")

    monkeypatch.setattr(initial_weights, "download_pretrained_from_hf", download)
    with pytest.raises(ModelError, match="is not on this machine"):
        published("ViT-B-32", "laion2b_s34b_b79k")
    assert asked == [("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", None)]


def test_open_clip_loads_an_export_and_its_weights_start_a_run_again(trained: Path, tiny_vit: Path) -> None:
    words = ["--output", str(trained), "--data.path", "x", "--model.name", str(tiny_vit), "--samples", "1"]
    assert main(["export", *words, "--model.normalisation", "inception"]) == 0
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{trained}/export")
    expected = weights_of(trained)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in theirs.state_dict().items())
    assert transform.transforms[-1].mean == [0.5, 0.5, 0.5]
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in theirs.state_dict().items()}}, trained / "x.pt"
    )
    for source in (trained / "export", trained / "x.pt"):  # as open_clip's own trainer writes them
        found = made(str(tiny_vit), source).clip.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_run_goes_on_with_larger_pictures_from_another(config: TrainConfig, trained: Path, tmp_path: Path) -> None:
    """As clip-vit-l-14-336.yaml does."""
    larger = tmp_path / "openwit-test-vit-48.json"
    larger.write_text(json.dumps({**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], "image_size": 48}}))  # type: ignore[dict-item]  # a dict
    model = replace(config.model, name=str(larger), init_from=str(trained))
    train(replace(config, model=model))
    found = weights_of(config.output)
    assert found["visual.positional_embedding"].shape == (1 + 3 * 3, 32)
    assert len(losses(config.output)) == 2
