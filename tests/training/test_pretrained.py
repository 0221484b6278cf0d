"""Any trained CLIP by one word, and features of what users have."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from configs.load import from_mapping
from tests.training.conftest import tiny_run
from training.__main__ import main
from training.config import TrainConfig
from training.errors import ModelError
from training.learning.features import image_features, prepare, text_features
from training.learning.pretrained import fingerprint_of, load_model
from training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_vit: Path) -> Path:
    output = tmp_path_factory.mktemp("pretrained") / "run"
    train(from_mapping(TrainConfig, tiny_run(output, tiny_data, tiny_vit)))
    assert main(["export", str(output / "config.yaml")]) == 0
    return output


def picture(seed: int = 0, size: tuple[int, int] = (50, 40)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def test_a_run_its_export_and_its_weights_are_the_same_model(run: Path, tiny_vit: Path) -> None:
    weights = next((run / "checkpoints").rglob("model.safetensors"))
    sources = [run, run / "export", f"local-dir:{run / 'export'}", f"{tiny_vit}:{weights}"]
    models = [load_model(source, device="cpu", precision="fp32") for source in sources]
    assert len({fingerprint_of(model) for model in models}) == 1
    texts = ["a red circle", "two words"]
    for model in models:
        assert not model.clip.training
        torch.testing.assert_close(text_features(model, texts), text_features(models[0], texts))


def test_features_are_those_of_open_clip(run: Path) -> None:
    model = load_model(run, device="cpu", precision="fp32")
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{run / 'export'}")
    theirs.eval()
    data, texts = picture(), ["a red circle", "a much longer text about nothing at all", ""]
    pixels = prepare(data, model)
    assert pixels is not None
    with torch.no_grad():
        images = transform(Image.open(io.BytesIO(data)))[None]
        torch.testing.assert_close(
            image_features(model, pixels[None]), theirs.encode_image(images, normalize=True), atol=1e-5, rtol=0
        )
        tokens = open_clip.get_tokenizer(f"local-dir:{run / 'export'}")(texts)
        torch.testing.assert_close(
            text_features(model, texts, batch_size=2), theirs.encode_text(tokens, normalize=True), atol=1e-5, rtol=0
        )
    assert prepare(b"no picture", model) is None


def test_a_model_that_writes_captions_embeds_as_open_clip_does(tmp_path: Path) -> None:
    config = open_clip.get_model_config("coca_ViT-B-32")
    config["embed_dim"] = 32
    config["vision_cfg"] |= {"width": 64, "layers": 2, "head_width": 32, "image_size": 32, "patch_size": 16}
    for part in ("text_cfg", "multimodal_cfg"):
        config[part] |= {"width": 32, "heads": 2, "layers": 2}
    (tmp_path / "openwit-test-coca.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "openwit-test-coca.json")
    theirs, _, transform = open_clip.create_model_and_transforms("openwit-test-coca")
    torch.save(theirs.eval().state_dict(), tmp_path / "coca.pt")
    model = load_model(f"{tmp_path}/openwit-test-coca.json:{tmp_path}/coca.pt", device="cpu", precision="fp32")
    texts = ["a", "two words", "a much longer text about nothing at all", ""]
    pixels = prepare(picture(), model)
    assert pixels is not None
    with torch.no_grad():
        expected = theirs.encode_text(open_clip.get_tokenizer("openwit-test-coca")(texts), normalize=True)
        torch.testing.assert_close(text_features(model, texts), expected, atol=1e-5, rtol=0)
        expected = theirs.encode_image(transform(Image.open(io.BytesIO(picture())))[None], normalize=True)
        torch.testing.assert_close(image_features(model, pixels[None]), expected, atol=1e-5, rtol=0)


def test_a_changed_weight_is_another_model(run: Path) -> None:
    model = load_model(run, device="cpu")
    before = fingerprint_of(model)
    with torch.no_grad():
        model.clip.logit_scale += math.ulp(4.0)
    assert fingerprint_of(model) == before  # lost in rounding
    with torch.no_grad():
        model.clip.logit_scale += 1e-6
    assert fingerprint_of(model) != before


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere", "nowhere: does not exist, and is no NAME:TAG; give a run, an export"),
        ("local-dir:nowhere", "local-dir:nowhere: does not exist"),
        ("ViT-B-23:openai", "did you mean ViT-B-32"),
        ("ViT-B-32:openia", "or a tag of ViT-B-32 (openai"),
        ("ViT-B-32:laion2b_s34b_b79k", "is not on this machine; bring open_clip_model.safetensors of laion/"),
        ("hf-hub:some/model", "hf-hub:some/model is not on this machine; bring open_clip_config.json of some/model"),
        ("empty", "holds no run (config.yaml) and no export"),
        ("untrained", "no whole checkpoint there; train first"),
        ("broken", "its open_clip_config.json is damaged"),
        ("weights.pt", "weights do not say of which model they are; give NAME:weights.pt"),
    ],
)
def test_a_mistake_is_one_line(
    source: str, says: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "untrained", "broken"):
        Path(name).mkdir()
    Path("untrained/config.yaml").write_bytes((run / "config.yaml").read_bytes())
    Path("broken/open_clip_config.json").write_text("{")
    Path("weights.pt").write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        load_model(source)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
