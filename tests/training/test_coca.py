"""CoCa's two terms against open_clip's own loss over the whole batch, and what is refused."""

from __future__ import annotations

import json
import math
import re
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import openwit
from configs.load import ConfigError, from_mapping
from tests.conftest import REPOSITORY
from tests.training.conftest import TINY_VIT, run_ranks, stop_run, tiny_run
from tests.training.families import TINY_COCA, families, model_of
from tests.training.ranks_worker import GLOBAL_BATCH, Found, gradients_of, make_batch, make_model
from tests.training.test_gradient import load
from training.__main__ import main
from training.clip import Clip
from training.config import LossConfig, MethodConfig, TrainConfig
from training.distributed import World
from training.errors import ModelError
from training.evaluation.sets.open import open_set
from training.exports.transformers.directory import export_transformers
from training.learning.features import prepare
from training.learning.gradient import accumulate_gradient, make_gradients
from training.learning.marks import Marks, marks_of
from training.learning.method import make_method
from training.learning.model import Model
from training.learning.writing import write
from training.train import train

METHOD = make_method(MethodConfig(name="coca"), LossConfig(chunk_rows=4))


@pytest.fixture(scope="module")
def tiny_coca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_of("coca", tmp_path_factory.mktemp("coca"))


def theirs(model: Model, **weights: float) -> dict[str, Tensor]:
    """Both terms by open_clip's forward pass and loss, over the whole batch."""
    batch, clip = make_batch(model.image_size), cast(Any, model.clip)
    for dropout in model._dropouts:
        dropout.keys_B = batch.keys
    pixels = (batch.images.permute(0, 3, 1, 2).double() - model.mean_C11) / model.std_C11
    loss = open_clip.CoCaLoss(**{"caption_loss_weight": 2.0, "clip_loss_weight": 1.0, **weights})
    return cast("dict[str, Tensor]", loss(**clip(pixels, batch.tokens), output_dict=True))


@pytest.fixture(scope="module")
def reference(tiny_coca: Path) -> tuple[float, Tensor]:
    """Loss and gradient of all weights by open_clip, and plain autograd."""
    model = make_model(str(tiny_coca), METHOD)
    value = torch.stack(list(theirs(model).values())).sum()
    value.backward()
    return float(value.detach()), torch.cat([p.grad.flatten() for p in model.clip.parameters() if p.grad is not None])


def check(found: dict[tuple[str, int], Found], reference: tuple[float, Tensor]) -> None:
    assert {key[1] for key in found} == {1, 2, 4}
    for this in found.values():
        assert this.loss == pytest.approx(reference[0], rel=1e-12)
        torch.testing.assert_close(this.gradient, reference[1], rtol=1e-9, atol=1e-12)


def test_gradient_equals_that_of_open_clips_loss_over_the_whole_batch(
    tiny_coca: Path, reference: tuple[float, Tensor]
) -> None:
    check(gradients_of(str(tiny_coca), World(), methods={"coca": METHOD}), reference)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gradients", "sharded"])
def test_gradient_over_two_ranks_is_the_same(
    kind: str, two_ranks_of_others: Path, reference: tuple[float, Tensor]
) -> None:
    check(load(two_ranks_of_others / f"coca-{kind}.pt"), reference)


@pytest.mark.slow
def test_gradient_over_four_ranks_is_the_same(tiny_vit: Path, tmp_path: Path, reference: tuple[float, Tensor]) -> None:
    run_ranks({"folder": str(tmp_path), "model": str(tiny_vit), "families": families(tmp_path)}, 4)
    for kind in ("gradients", "sharded"):
        check(load(tmp_path / f"coca-{kind}.pt"), reference)


# --- a run, and what it leaves ----------------------------------------------------------------------


def coca_run(output: Path, data: Path, model: Path, **changes: Any) -> dict[str, Any]:
    run = tiny_run(output, data, model) | {"method": {"name": "coca"}, "samples": 32, "checkpoint": {}}
    return run | {"model": {"name": str(model)}} | changes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_coca: Path, tiny_evaluation: Path) -> Path:
    output = tmp_path_factory.mktemp("coca-run") / "run"
    options = coca_run(output, tiny_data, tiny_coca, evaluation={"path": str(tiny_evaluation)})
    train(from_mapping(TrainConfig, options))
    return output


@pytest.fixture(scope="module")
def loaded(run: Path) -> Clip:
    return openwit.load(run, device="cpu")


def theirs_of(directory: Path) -> Any:
    clip = open_clip.create_model(f"local-dir:{directory}").eval()
    assert isinstance(clip, open_clip.CoCa)
    return clip


def test_checkpoints_go_to_open_clip_and_back(run: Path, loaded: Clip, tiny_coca: Path, tmp_path: Path) -> None:
    assert main(["export", str(run / "config.yaml"), "--directory", str(tmp_path / "export")]) == 0
    clip = theirs_of(tmp_path / "export")
    ours = loaded.module.state_dict()
    assert ours.keys() == clip.state_dict().keys()
    assert all(torch.equal(ours[name], value) for name, value in clip.state_dict().items())
    torch.save(clip.state_dict(), tmp_path / "theirs.pt")
    back = openwit.load(f"{tiny_coca}:{tmp_path / 'theirs.pt'}", device="cpu")
    assert all(torch.equal(value, ours[name]) for name, value in back.module.state_dict().items())
    with pytest.raises(ModelError, match="transformers has no model of this kind"):
        export_transformers(loaded._model, tmp_path / "transformers")


def test_drawn_weights_come_from_the_seed_alone(tiny_coca: Path) -> None:
    """open_clip leaves the decoder's projection as the memory was."""
    first, second = (make_model(str(tiny_coca), METHOD).clip.state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert float(first["text_decoder.text_projection"].std()) == pytest.approx(32**-0.5, rel=0.01)


def test_evaluation_says_how_well_captions_are_told(run: Path, loaded: Clip, tiny_evaluation: Path) -> None:
    found = json.loads((run / "metrics.json").read_text())["metrics"]
    assert {"zeroshot_top1", "image_to_text_recall_at_1"} <= found.keys()
    loss, right, tokens = 0.0, 0, 0
    grey_loss = 0.0
    model, clip = loaded._model, cast(Any, loaded.module)
    grey = model.mean_C11.round().to(torch.uint8).view(1, 1, 1, 3).expand(1, 32, 32, 3)
    for example in open_set(str(tiny_evaluation)).examples():
        pixels = prepare(example.image, model)
        assert pixels is not None
        text = model.tokenizer(list(example.captions))
        for images, is_grey in ((torch.from_numpy(pixels[None]), False), (grey, True)):
            with torch.no_grad():
                out = clip(model.pixels(images).expand(len(text), -1, -1, -1), text)
            value = F.cross_entropy(
                out["logits"].flatten(0, 1), out["labels"].flatten(), ignore_index=0, reduction="sum"
            )
            if is_grey:
                grey_loss += float(value)
            else:
                loss += float(value)
                right += int(((out["logits"].argmax(2) == out["labels"]) & (out["labels"] != 0)).sum())
                tokens += int((out["labels"] != 0).sum())
    assert found["caption_likelihood"]["value"] == pytest.approx(math.exp(-loss / tokens), rel=1e-4)
    assert found["caption_likelihood"]["chance"] == pytest.approx(math.exp(-grey_loss / tokens), rel=1e-4)
    assert found["caption_token_accuracy"]["value"] == pytest.approx(right / tokens)


def test_plan_counts_the_decoder(tiny_coca: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.name", str(tiny_coca), "--output", "nowhere", "--data.path", "nowhere", "--samples", "9"]
    assert main(["plan", *words, "--method.name", "coca", "--global_batch_size", "8"]) == 0
    told = capsys.readouterr().out
    assert re.search(
        r"coca over batches of 8.*image 0\.1 M, text 1\.6 M, decoder 1\.6 M, trained 3\.3 M", told, re.DOTALL
    )


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted_run(tiny_data: Path, tiny_coca: Path, tmp_path: Path) -> None:
    runs = [coca_run(tmp_path / name, tiny_data, tiny_coca, samples=160) for name in ("whole", "stopped")]
    for options in runs:
        options["checkpoint"] = {"every_samples": 48}
    stop_run(runs[1], step=6)
    weights = []
    for options in runs:
        train(from_mapping(TrainConfig, options))
        weights.append(openwit.load(options["output"], device="cpu").module.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.slow
def test_sharded_run_measures_what_a_whole_one_does(
    tiny_data: Path, tiny_coca: Path, tiny_vit: Path, tiny_evaluation: Path, tmp_path: Path
) -> None:
    evaluation = {"path": str(tiny_evaluation), "batch_size": 3}
    whole = coca_run(tmp_path / "whole", tiny_data, tiny_coca, evaluation=evaluation)
    sharded = coca_run(tmp_path / "sharded", tiny_data, tiny_coca, evaluation=evaluation) | {"distributed": "fsdp"}
    train(from_mapping(TrainConfig, whole))
    run_ranks({"folder": str(tmp_path), "model": str(tiny_vit), "runs": [sharded]}, 2, timeout_s=500)
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text())["metrics"] for name in ("whole", "sharded"))
    assert one.keys() == two.keys()
    assert all(one[name]["value"] == pytest.approx(two[name]["value"], rel=1e-3) for name in one)


# --- captions ---------------------------------------------------------------------------------------


def pictures(count: int, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def written_plainly(loaded: Clip, image: Tensor, *, least: int, most: int) -> list[int]:
    """The likest token each time, by open_clip's forward pass over the whole prefix of one picture."""
    model, clip, tokens = loaded._model, cast(Any, loaded.module), [49406]
    while tokens[-1] != 49407:
        with torch.no_grad():
            logits = clip(model.pixels(image[None]), torch.tensor([tokens]), output_labels=False)["logits"][0, -1]
        logits[[0, 49406]] = -torch.inf
        if len(tokens) < least:
            logits[49407] = -torch.inf
        tokens.append(49407 if len(tokens) == most - 1 else int(logits.argmax()))
    return tokens


def test_captions_are_the_likest_tokens_one_by_one(loaded: Clip) -> None:
    with torch.no_grad():  # so that captions end, and at different places
        cast(Any, loaded.module).text_decoder.text_projection[:, 49407] *= 3
    images = pictures(4)
    found = write(loaded._model, images, least_tokens=3, most_tokens=8)
    plain = [written_plainly(loaded, image, least=3, most=8) for image in images]
    decode = open_clip.SimpleTokenizer().decode
    assert found == [" ".join(decode(tokens[1:-1]).split()) for tokens in plain]


def test_a_loaded_coca_writes_captions_of_any_picture(loaded: Clip) -> None:
    small = pictures(2)
    of_arrays = loaded.captions([image.numpy() for image in small])
    assert len(of_arrays) == 2
    assert of_arrays == loaded.captions(small.permute(0, 3, 1, 2) / 255)
    assert loaded.captions([]) == []


def test_the_lines_of_the_docs_write_captions(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (REPOSITORY / "docs/recipes.md").read_text().partition("\n## CoCa\n")[2].partition("\n## ")[0]
    code = section[section.index("    import openwit") :].partition("\n\nWhat differs")[0]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/coca-small").symlink_to(run)
    for name, image in zip(("cat.jpg", "dog.jpg"), pictures(2), strict=True):
        Image.fromarray(image.numpy()).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(textwrap.dedent(code), "recipes.md", "exec"), {})


# --- in one line ------------------------------------------------------------------------------------


def refused(model: dict[str, Any], tmp_path: Path, data: Path, method: str = "coca", **of_model: Any) -> str:
    """What stops a run of `model` before it trains."""
    path = tmp_path / f"openwit-test-refused-{abs(hash(json.dumps(model)))}.json"
    path.write_text(json.dumps(model))
    options = coca_run(tmp_path / "refused", data, path, method={"name": method})
    options["model"] = {"name": str(path), **of_model}
    with pytest.raises(ModelError) as caught:
        train(from_mapping(TrainConfig, options))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "refused" / "checkpoints").glob("*"))
    return str(caught.value)


def changed(part: str, **values: Any) -> dict[str, Any]:
    return {**TINY_COCA, part: {**TINY_COCA[part], **values}}


def test_models_that_cannot_learn_captions_are_told(tmp_path: Path, tiny_data: Path) -> None:
    assert "has no decoder that could write captions; take coca_ViT-B-32" in refused(TINY_VIT, tmp_path, tiny_data)
    told = refused(TINY_COCA, tmp_path, tiny_data, method="contrastive")
    assert "has a decoder that writes captions, which this method does not train; set --method.name coca" in told
    told = refused(changed("multimodal_cfg", context_length=20), tmp_path, tiny_data)
    assert "room for 20 tokens; set the JSON's multimodal_cfg.context_length to at least 23" in told
    told = refused(changed("vision_cfg", output_tokens=False), tmp_path, tiny_data)
    assert "gives its decoder no tokens; set output_tokens: true" in told
    told = refused(changed("multimodal_cfg", width=64), tmp_path, tiny_data)
    assert "the decoder is 64 wide, what it gets of pictures 32, of texts 32" in told


class _Tokens:
    """A tokenizer of transformers, behind open_clip's wrapper."""

    def __init__(self, **ids: int | None) -> None:
        kinds = ("bos", "cls", "eos", "sep", "pad")
        self.tokenizer = SimpleNamespace(**{f"{kind}_token_id": ids.get(kind) for kind in kinds})


def test_tokenizers_that_bound_no_text_are_told() -> None:
    def marks(**ids: int | None) -> Marks:
        return marks_of(cast(Any, _Tokens(**ids)), "model")

    assert marks(bos=1, eos=2, pad=0) == Marks(start=1, end=2)
    assert marks(cls=101, sep=102, pad=0) == Marks(start=101, end=102)
    assert marks_of(open_clip.get_tokenizer("ViT-B-32"), "ViT-B-32") == Marks(start=49406, end=49407)
    for ids, lacks in (
        ({"eos": 2, "pad": 0}, "no mark before a text"),
        ({"bos": 1, "pad": 0}, "no mark behind a text"),
        ({"bos": 1, "eos": 2, "pad": 1}, "token 1 behind its texts, where padding is 0"),
    ):
        with pytest.raises(ModelError, match=f"{lacks}.*take a model with CLIP's own tokenizer"):
            marks(**ids)


def test_what_cannot_be_written_is_told(loaded: Clip, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip.coca_model, "_has_transformers", False)
    with pytest.raises(ModelError, match=r"wants the package transformers below version 5.*or take greedy"):
        loaded.captions([], way="beam_search")
    with pytest.raises(ModelError, match="has no decoder that could write captions; take a run of method coca"):
        openwit.load(tiny_model, device="cpu").captions([])


@pytest.mark.parametrize("options", [{"caption_weight": -1.0}, {"caption_weight": 0.0, "contrastive_weight": 0.0}])
def test_weights_that_say_nothing_are_told(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="weight"):
        make_method(MethodConfig(name="coca", options=options), LossConfig())


def test_each_term_can_be_learnt_alone(tiny_coca: Path) -> None:
    for options, kept in (({"caption_weight": 0.0}, "contrastive"), ({"contrastive_weight": 0.0}, "caption")):
        method = make_method(MethodConfig(name="coca", options=options), LossConfig())
        model = make_model(str(tiny_coca), method)
        gradients = make_gradients(model.clip, list(model.clip.parameters()), World())
        terms = accumulate_gradient(
            model, method, make_batch(model.image_size), gradients, World(),
            global_batch_size=GLOBAL_BATCH, micro_batches=2,
        )  # fmt: skip
        assert terms.keys() == {kept}
        weights = {"caption_loss_weight": options.get("caption_weight", 2.0)}
        expected = theirs(model, **weights, clip_loss_weight=options.get("contrastive_weight", 1.0))
        assert float(terms[kept]) == pytest.approx(float(expected[f"{kept}_loss"].detach()), rel=1e-12)
