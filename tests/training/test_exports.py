"""Models in others' forms: what they hold, what cannot be, and that nothing else is overwritten.

That transformers itself says the same is in tests/peers/test_transformers.py.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from configs.load import from_mapping
from tests.training.conftest import TINY_RESNET, TINY_VIT, tiny_run
from training.__main__ import main
from training.config import ModelConfig, TrainConfig
from training.errors import ModelError, OutputError
from training.exports.directory import MARK
from training.exports.onnx import export_onnx
from training.exports.open_clip import export_model
from training.exports.transformers.directory import export_transformers
from training.learning.model import Model, create_model
from training.learning.pretrained import fingerprint_of, load_model
from training.train import train


@register_model
def openwit_test_pooled_vit(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """timm's ViT of SigLIP, small: the published ones begin at 93 M weights."""
    options = {"global_pool": "map"} | {
        name: options[name] for name in ("global_pool", "num_classes") if name in options
    }
    size = {"img_size": 32, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2}
    model = VisionTransformer(**size, class_token=False, **options)
    model.default_cfg = {}
    return model


TINY_SIGLIP: Mapping[str, Any] = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32,
        "timm_model_name": "openwit_test_pooled_vit",
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
        "pool_type": "last",
        "no_causal_mask": True,
        "proj_bias": True,
        "norm_kwargs": {"eps": 1e-6},
    },
}


def made(folder: Path, name: str, content: Mapping[str, Any], *, bias: float | None = None, seed: int = 3) -> Model:
    """A model with random weights."""
    text = json.dumps(content)
    path = folder / f"openwit-test-{name}-{zlib.crc32(text.encode())}.json"  # open_clip remembers what has a name
    path.write_text(text)
    config = ModelConfig(name=str(path))
    cpu = torch.device("cpu")
    return create_model(config, device=cpu, precision="fp32", init_logit_scale=2.0, init_logit_bias=bias, seed=seed)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_vit: Path) -> Path:
    output = tmp_path_factory.mktemp("exports") / "run"
    train(from_mapping(TrainConfig, tiny_run(output, tiny_data, tiny_vit) | {"samples": 32}))
    return output


# --- the command ------------------------------------------------------------------------------------


def test_a_run_is_exported_in_every_form(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = str(run / "config.yaml")
    assert main(["export", config, "--to", "transformers"]) == 0
    assert "from_pretrained('" in capsys.readouterr().out
    assert main(["export", str(run), "--to", "open_clip"]) == 0
    assert main(["export", str(run / "export"), "--directory", str(tmp_path / "again")]) == 0
    assert load_file(run / "export/open_clip_model.safetensors").keys() == load_model(run).clip.state_dict().keys()
    assert (run / "export-transformers/model.safetensors").is_file()
    models = [load_model(place, device="cpu") for place in (run, run / "export", tmp_path / "again")]
    assert len({fingerprint_of(model) for model in models}) == 1
    mark = json.loads((run / "export-transformers" / MARK).read_text())
    assert mark["model_fingerprint"] == fingerprint_of(models[0])
    assert mark["preprocessing"]["size"] == 32


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere", "--to", "onnx", "--directory", "x"], "nowhere: does not exist, and is no NAME:TAG"),
        (["RUN", "--to", "tflite"], "to"),
        (["RUN", "--push", "only-a-name"], "'only-a-name' is no ORGANISATION/NAME"),
        (["RUN", "--push", "a/b"], "goes to a network; set HF_HUB_OFFLINE=0"),
        (["ViT-B-32:x.pt"], "is no run, in which an export would stand; give --directory"),
        (["RUN", "--directory", "full"], "full: exists and is no exported model; give another directory"),
        (["RUN", "--to", "transformers", "--directory", "full"], "full: exists and is no exported model"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    says: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("{}")
    assert main(["export", *(str(run) if word == "RUN" else word for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "config.json"]


def test_missing_extra_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name))
    assert main(["export", str(run), "--to", "onnx"]) == 2
    assert capsys.readouterr().err == (
        "error: ONNX is not installed here (onnxruntime missing); pip install 'openwit[onnx]'\n"
    )


def test_an_export_that_fails_leaves_what_was_there(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(run, device="cpu", precision="fp32")
    target = tmp_path / "export"
    export_transformers(model, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.exports.transformers.directory.write_tokenizer", full)
    with pytest.raises(OutputError, match="No space left"):
        export_transformers(model, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert list(tmp_path.iterdir()) == [target]


# --- transformers -----------------------------------------------------------------------------------


def test_clip_has_the_names_and_shapes_of_transformers(tmp_path: Path) -> None:
    model = made(tmp_path, "clip", TINY_VIT)
    export_transformers(model, tmp_path / "out")
    weights = load_file(tmp_path / "out/model.safetensors")
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    assert {name for name in shapes if ".layers." not in name} == {
        "logit_scale",
        "text_projection.weight",
        "visual_projection.weight",
        *(f"text_model.embeddings.{kind}_embedding.weight" for kind in ("token", "position")),
        *(f"text_model.final_layer_norm.{part}" for part in ("weight", "bias")),
        *(f"vision_model.{norm}.{part}" for norm in ("pre_layrnorm", "post_layernorm") for part in ("weight", "bias")),
        *(f"vision_model.embeddings.{kind}_embedding.weight" for kind in ("patch", "position")),
        "vision_model.embeddings.class_embedding",
    }
    assert shapes["visual_projection.weight"] == (16, 32)
    assert shapes["vision_model.encoder.layers.1.mlp.fc1.weight"] == (128, 32)
    assert shapes["logit_scale"] == ()
    clip: Any = model.clip
    query, key, _ = clip.transformer.resblocks[0].attn.in_proj_weight.chunk(3)
    assert torch.equal(weights["text_model.encoder.layers.0.self_attn.q_proj.weight"], query)
    assert torch.equal(weights["text_model.encoder.layers.0.self_attn.k_proj.weight"], key)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vision_config"]["hidden_act"] == "gelu"
    assert config["text_config"]["eos_token_id"] == 49407
    processor = json.loads((tmp_path / "out/preprocessor_config.json").read_text())
    assert processor["crop_size"] == {"height": 32, "width": 32}
    assert processor["image_mean"] == [0.48145466, 0.4578275, 0.40821073]


def test_siglip_has_the_names_and_shapes_of_transformers(tmp_path: Path) -> None:
    model = made(tmp_path, "pooled", TINY_SIGLIP, bias=-10.0)
    _, told = export_transformers(model, tmp_path / "out")
    assert told == []
    weights = load_file(tmp_path / "out/model.safetensors")
    assert weights["logit_bias"].tolist() == [-10.0]
    assert tuple(weights["vision_model.head.probe"].shape) == (1, 1, 64)
    pool: Any = model.clip.visual.trunk.attn_pool  # type: ignore[union-attr]  # timm's
    assert torch.equal(weights["vision_model.head.attention.in_proj_weight"][64:], pool.kv.weight)
    assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] == "siglip"


def test_bias_that_clip_has_no_place_for_is_told(tmp_path: Path) -> None:
    _, (line,) = export_transformers(made(tmp_path, "biased", TINY_VIT, bias=-10.0), tmp_path / "out")
    assert line.startswith("its bias -10 has no place in CLIPModel")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (TINY_RESNET, "image tower ModifiedResNet"),
        (TINY_VIT | {"vision_cfg": {**TINY_VIT["vision_cfg"], "attentional_pool": True}}, "its class token"),
        (TINY_VIT | {"vision_cfg": {**TINY_VIT["vision_cfg"], "no_ln_pre": True}}, "Identity in place of a layer norm"),
        (TINY_VIT | {"vision_cfg": {**TINY_VIT["vision_cfg"], "ls_init_value": 0.1}}, "layer scale"),
        (
            TINY_VIT | {"custom_text": True, "text_cfg": {**TINY_VIT["text_cfg"], "no_causal_mask": True}},
            "not causal",
        ),
        (TINY_VIT | {"custom_text": True, "text_cfg": {**TINY_VIT["text_cfg"], "proj_bias": True}}, "with a bias"),
        (TINY_SIGLIP | {"text_cfg": {**TINY_SIGLIP["text_cfg"], "no_causal_mask": False}}, "is causal"),
        (TINY_SIGLIP | {"vision_cfg": {**TINY_SIGLIP["vision_cfg"], "timm_proj": "linear"}}, "behind the attention"),
    ],
)
def test_what_transformers_has_not_is_one_line(content: Mapping[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        export_transformers(made(tmp_path, "other", content), tmp_path / "out")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


# --- ONNX -------------------------------------------------------------------------------------------


# One of a small ViT runs by default, with the commands of docs/export.md (test_cards.py).
@pytest.mark.slow
@pytest.mark.parametrize(("content", "bias"), [(TINY_VIT, None), (TINY_SIGLIP, -10.0), (TINY_RESNET, None)])
def test_onnxruntime_says_the_same(content: Mapping[str, Any], bias: float | None, tmp_path: Path) -> None:
    model = made(tmp_path, "tower", content, bias=bias)
    target, difference = export_onnx(model, tmp_path / "out")
    check_onnx(model, Path(str(target)), difference)


def check_onnx(model: Model, target: Path, difference: float) -> None:
    import onnxruntime

    assert difference < 1e-5
    facts = json.loads((target / MARK).read_text())
    assert facts["model_fingerprint"] == fingerprint_of(model)
    assert sorted(path.name for path in target.iterdir()) == ["image.onnx", MARK, "text.onnx"]
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (7, 32, 32, 3), dtype=torch.uint8, generator=generator)
    tokens = model.tokenizer(["a red circle", "", "one two three"])
    for part, given, encode in (("image", pictures, model.encode_image), ("text", tokens, model.encode_text)):
        session = onnxruntime.InferenceSession(f"{target}/{part}.onnx")
        assert float(session.get_modelmeta().custom_metadata_map["logit_scale"]) == pytest.approx(np.exp(2.0))
        for batch in (given, given[:1]):
            assert found_by(session, batch) == pytest.approx(expected(encode, batch, model), abs=1e-5)


def found_by(session: Any, batch: Tensor) -> Any:
    (entry,) = session.get_inputs()
    return session.run(["features"], {entry.name: batch.numpy()})[0]


def expected(encode: Any, batch: Tensor, model: Model) -> Any:
    with model.evaluating():
        return encode(batch).numpy()


def test_towers_that_say_something_else_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx
    from onnx import TensorProto, helper

    def wrong(tower: object, given: Tensor, called: str, path: Path, *_: object) -> None:
        nodes = [helper.make_node("Cast", [called], ["cast"], to=TensorProto.FLOAT)]
        nodes += [helper.make_node("Flatten", ["cast"], ["features"])]
        taken = helper.make_tensor_value_info(called, TensorProto.UINT8, ["B", *given.shape[1:]])
        said = helper.make_tensor_value_info("features", TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "wrong", [taken], [said])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)

    monkeypatch.setattr("training.exports.onnx._write", wrong)
    with pytest.raises(
        ModelError, match=r"its image tower as ONNX says something else than torch \(inf at a batch of 1"
    ):
        export_onnx(made(tmp_path, "vit", TINY_VIT), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_in_memory_is_what_open_clip_reads_again(tmp_path: Path) -> None:
    model = made(tmp_path, "pooled", TINY_SIGLIP, bias=-10.0)
    export_model(model, tmp_path / "out")
    again = load_model(tmp_path / "out", device="cpu", precision="fp32")
    assert fingerprint_of(again) == fingerprint_of(model)
