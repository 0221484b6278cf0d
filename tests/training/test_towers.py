"""Towers that begin with weights of their own, and patches that are left out in towers of every make."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva
from torch import Tensor, nn

from configs.load import ConfigError, from_mapping
from tests.training.conftest import TINY_DROPOUT, tiny_run
from training.config import ModelConfig, TrainConfig, learns
from training.errors import ModelError
from training.learning.memory import needs_of
from training.learning.model import Model, create_model
from training.learning.patch_dropout import KeyedPatchDropout, drop_patches
from training.train import train


def made(seed: int = 7, **options: Any) -> Model:
    return create_model(
        ModelConfig(**options),
        device=torch.device("cpu"), precision="fp32", init_logit_scale=2.0, init_logit_bias=None, seed=seed,
    )  # fmt: skip


@pytest.fixture(scope="module")
def timm_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose image tower is timm's ViT, with a projection beside it."""
    path = tmp_path_factory.mktemp("models") / "openwit-test-timm.json"
    vision = {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}
    path.write_text(json.dumps({**TINY_DROPOUT, "vision_cfg": vision, "custom_text": True}))
    return str(path)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What masked image modelling leaves: a ViT for other pictures, a mask token, a decoder; no norm, no classifier."""
    torch.manual_seed(1)
    weights = timm.create_model("test_vit", num_classes=0, img_size=128).state_dict()
    weights = {name: torch.randn_like(value) for name, value in weights.items() if not name.startswith("norm.")}
    folder = tmp_path_factory.mktemp("masked")
    extra = {"mask_token": torch.zeros(1, 1, 64), "lm_head.weight": torch.zeros(10, 64)}
    torch.save({"module": {**weights, **extra}}, folder / "deepspeed.pt")
    torch.save({"model": {**weights, **extra}}, folder / "mim.pt")
    save_file(weights, folder / "tower.safetensors")
    del weights["blocks.1.attn.qkv.weight"]
    save_file(weights, folder / "lacking.safetensors")
    return folder


@pytest.mark.parametrize("file", ["mim.pt", "tower.safetensors"])
def test_an_image_tower_begins_with_masked_image_modelling(timm_clip: str, masked: Path, file: str) -> None:
    anew = made(name=timm_clip).clip.state_dict()
    found = made(name=timm_clip, init_image_from=str(masked / file)).clip.state_dict()
    expected = timm.models.load_state_dict(str(masked / file), device="cpu")
    assert torch.equal(found["visual.trunk.blocks.1.attn.qkv.weight"], expected["blocks.1.attn.qkv.weight"])
    assert found["visual.trunk.pos_embed"].shape == anew["visual.trunk.pos_embed"].shape
    for name in ("visual.trunk.norm.weight", "visual.head.proj.weight", "text.token_embedding.weight", "logit_scale"):
        assert torch.equal(found[name], anew[name])


def test_the_towers_begin_with_weights_of_two_files(
    timm_clip: str, masked: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    """As EVA-CLIP: the text tower of a CLIP, whose file has no name for it, and a tower of pictures."""
    clip = made(seed=3, name=str(tiny_vit)).clip.state_dict()
    save_file(dict(clip), tmp_path / "clip.safetensors")
    towers = {"init_from": str(tmp_path / "clip.safetensors"), "init_towers": "text"}
    found = made(name=timm_clip, init_image_from=str(masked / "tower.safetensors"), **towers).clip.state_dict()
    assert torch.equal(found["text.token_embedding.weight"], clip["token_embedding.weight"])
    assert torch.equal(found["text.text_projection"], clip["text_projection"])
    expected = timm.models.load_state_dict(str(masked / "tower.safetensors"), device="cpu")
    assert torch.equal(found["visual.trunk.blocks.0.mlp.fc1.bias"], expected["blocks.0.mlp.fc1.bias"])


def test_open_clips_own_tower_begins_with_its_own_weights_alone(tiny_vit: Path, tmp_path: Path) -> None:
    visual = made(seed=3, name=str(tiny_vit)).clip.visual.state_dict()
    save_file({name: value for name, value in visual.items() if name != "proj"}, tmp_path / "tower.safetensors")
    found = made(name=str(tiny_vit), init_image_from=str(tmp_path / "tower.safetensors")).clip.state_dict()
    assert torch.equal(found["visual.conv1.weight"], visual["conv1.weight"])
    assert torch.equal(found["visual.proj"], made(name=str(tiny_vit)).clip.state_dict()["visual.proj"])


def test_weights_of_no_such_tower_are_one_line(timm_clip: str, masked: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    for name, file, told in (
        (timm_clip, masked / "lacking.safetensors", "weights that are missing: blocks.1.attn.qkv.weight"),
        (timm_clip, tmp_path / "broken.pt", "does not fit the image tower"),
        (timm_clip, tmp_path / "none.pt", "init_image_from: .*none.pt does not exist"),
    ):
        with pytest.raises(ModelError, match=told) as caught:
            made(name=name, init_image_from=str(file))
        assert "\n" not in str(caught.value)


def test_a_tower_of_its_own_may_be_locked(timm_clip: str, masked: Path) -> None:
    model = made(name=timm_clip, init_image_from=str(masked / "tower.safetensors"), lock_image=True)
    trained = {name for name, parameter in model.clip.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if name.startswith("visual.")} == {"visual.head.proj.weight"}
    with pytest.raises(ConfigError, match="lock_image would freeze random weights"):
        ModelConfig(name="ViT-B-32", lock_image=True)


# --- patches that are left out ----------------------------------------------------------------------


def test_timms_vit_leaves_out_patches_by_the_samples_keys(timm_clip: str) -> None:
    model = made(name=timm_clip, patch_dropout=0.5)
    pictures = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8).repeat(3, 1, 1, 1)
    keys = torch.tensor([5, 9, 5])
    with torch.no_grad():
        dropped = model.encode_image(pictures, keys)
        model.set_patch_dropout(0.0)
        whole = model.encode_image(pictures, keys)
    torch.testing.assert_close(dropped[0], dropped[2])
    assert not torch.allclose(dropped[0], dropped[1], atol=1e-3)
    torch.testing.assert_close(whole[0], whole[1])


def test_timms_eva_is_told_which_patches_are_left() -> None:
    """Each patch has its rotary position still: what is left out changes as if it were masked in attention."""
    torch.manual_seed(0)
    eva = Eva(
        img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=0, global_pool="token",
        use_rot_pos_emb=True, use_abs_pos_emb=False, init_values=None,
    ).double()  # fmt: skip
    visual = nn.Module()
    visual.trunk = eva
    drop_patches(visual, 0.5, name="eva")
    eva.patch_drop.keys_B = torch.tensor([3])
    picture = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    kept: list[Tensor] = []
    eva.patch_drop.register_forward_hook(lambda _, args, output: kept.append(output[1]))
    found = eva.train()(picture)
    assert kept[0].shape == (1, 8)
    eva.patch_drop = None
    mask = torch.zeros(17, dtype=torch.bool)
    mask[0] = True
    mask[kept[0][0] + 1] = True

    def attend(block: nn.Module) -> None:
        real = block.attn.forward
        block.attn.forward = lambda x, rope=None, attn_mask=None, **_: real(
            x, rope=rope, attn_mask=mask[None, None, None]
        )

    for block in eva.blocks:
        attend(block)
    torch.testing.assert_close(eva(picture), found)


def test_a_tower_without_patches_has_none_to_drop() -> None:
    with pytest.raises(ModelError, match=r"model.patch_dropout: m has no image patches to drop"):
        drop_patches(nn.Module(), 0.5, name="m")


def test_the_last_phase_may_see_whole_pictures(
    tiny_data: Path, tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path / "run", tiny_data, tiny_vit)
    phases = [{"begins_at": 0.5, "patch_dropout": 0.0}]
    config = from_mapping(TrainConfig, run | {"samples": 64, "phases": phases, "checkpoint": {}})
    shares: list[float] = []
    real = KeyedPatchDropout.forward
    monkeypatch.setattr(KeyedPatchDropout, "forward", lambda self, x: shares.append(self.share) or real(self, x))
    train(config)
    assert shares == [0.25, 0.25, 0.0, 0.0]
    # The plan counts the phase that keeps most.
    assert needs_of(config).memory["activations"] > needs_of(replace(config, phases=())).memory["activations"]
    assert learns(config) != learns(replace(config, phases=(replace(config.phases[0], patch_dropout=None),)))
    with pytest.raises(ConfigError, match=r"phases: patch_dropout changes model.patch_dropout, which is 0"):
        train(from_mapping(TrainConfig, run | {
            "output": str(tmp_path / "other"), "model": {"name": str(tiny_vit)},
            "phases": [{"begins_at": 0.5, "patch_dropout": 0.5}],
        }))  # fmt: skip
