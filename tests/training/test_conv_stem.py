"""A stem of convolutions in the place of a ViT's patches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.load import from_mapping
from tests.training.conftest import TINY_DROPOUT, tiny_run
from training.__main__ import main
from training.config import ModelConfig, TrainConfig, learns
from training.errors import ModelError
from training.learning.model import Model, create_model
from training.learning.pretrained import fingerprint_of, load_model
from training.train import train

STEM = (8, 16, 16, 32)
"""Channels for patches of 16 pixels."""


@pytest.fixture(scope="module")
def timm_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose image tower is timm's ViT, of patches of 16 pixels."""
    path = tmp_path_factory.mktemp("models") / "openwit-test-stem-timm.json"
    vision = {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}
    path.write_text(json.dumps({**TINY_DROPOUT, "vision_cfg": vision, "custom_text": True}))
    return path


def made(path: Path, *stem: int) -> Model:
    return create_model(
        ModelConfig(name=str(path), conv_stem=stem),
        device=torch.device("cpu"), precision="fp32", init_logit_scale=2.0, init_logit_bias=None, seed=7,
    )  # fmt: skip


@pytest.mark.parametrize("make", ["tiny_vit", "timm_vit"])
def test_the_tower_sees_as_many_patches_and_all_else_is_drawn_as_before(
    make: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(make)
    plain, stemmed = made(path).clip.state_dict(), made(path, *STEM).clip.state_dict()
    shared = plain.keys() & stemmed.keys()
    assert set(plain.keys() - shared) <= {
        "visual.conv1.weight", "visual.trunk.patch_embed.proj.weight", "visual.trunk.patch_embed.proj.bias",
    }  # fmt: skip
    assert all(torch.equal(plain[name], stemmed[name]) for name in shared)
    assert [tuple(value.shape) for name, value in stemmed.items() if name not in shared and value.ndim == 4] == [
        (8, 3, 3, 3), (16, 8, 3, 3), (16, 16, 3, 3), (32, 16, 3, 3), (32 if make == "tiny_vit" else 64, 32, 1, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("make", ["tiny_vit", "timm_vit"])
def test_a_samples_feature_does_not_hang_on_its_batch(make: str, request: pytest.FixtureRequest) -> None:
    model = made(request.getfixturevalue(make), *STEM)
    images_BHWC = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = model.encode_image(images_BHWC)
    parts = torch.cat([model.encode_image(images_BHWC[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(parts, whole)
    assert not torch.allclose(whole[0], whole[1])


@pytest.mark.parametrize(
    ("make", "stem", "says"),
    [
        (
            "tiny_vit",
            (8, 16),
            r"2 convolutions of stride 2 make patches of 4 px, and \S+ has patches of 16; each halves",
        ),
        ("timm_vit", (8, 16, 16, 20), "channels must be multiples of 8, got 20"),
        ("tiny_resnet", STEM, "has no patches to make; leave it out, or take a ViT"),
    ],
)
def test_what_does_not_fit_is_one_line(
    make: str, stem: tuple[int, ...], says: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(ModelError, match=rf"^model\.conv_stem: .*{says}"):
        made(request.getfixturevalue(make), *stem)


def test_a_run_with_a_stem_is_read_again_and_not_exported_where_none_is_known(
    tiny_data: Path, timm_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = from_mapping(TrainConfig, tiny_run(run, tiny_data, timm_vit) | {"samples": 32})
    config = replace(config, model=replace(config.model, conv_stem=STEM))
    assert learns(config) != learns(replace(config, model=replace(config.model, conv_stem=())))
    train(config)
    again = load_model(run, device="cpu")
    assert fingerprint_of(again) == fingerprint_of(load_model(run, device="cpu"))
    fresh = made(timm_vit, *STEM).clip.state_dict()
    name = "visual.trunk.patch_embed.proj.0.weight"
    assert not torch.equal(again.clip.state_dict()[name], fresh[name])  # it was trained
    capsys.readouterr()
    for form in ("open_clip", "transformers"):
        assert main(["export", str(run), "--to", form]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "stem of convolutions" in line
    assert not (run / "export").exists()
    without = replace(config.model, conv_stem=(), init_from=str(run))
    with pytest.raises(ModelError, match="patch_embed"):
        create_model(
            without, device=torch.device("cpu"), precision="fp32", init_logit_scale=2.0, init_logit_bias=None, seed=0
        )


def test_pictures_that_are_no_whole_patches_have_as_many_as_without_a_stem(tiny_vit: Path) -> None:
    """For a phase of such a size, say: open_clip's ViT rounds down, convolutions of stride 2 round up."""
    plain, stemmed = (
        create_model(
            ModelConfig(name=str(tiny_vit), conv_stem=stem),
            device=torch.device("cpu"), precision="fp32", init_logit_scale=2.0, init_logit_bias=None, seed=7,
            image_size=40,
        )
        for stem in ((), STEM)
    )  # fmt: skip
    images_BHWC = torch.zeros(2, 40, 40, 3, dtype=torch.uint8)
    assert stemmed.encode_image(images_BHWC).shape == plain.encode_image(images_BHWC).shape
