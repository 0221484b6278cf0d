"""BLIP-2's configs against what was published, and its twins on pictures that the test makes.

Li et al., arXiv 2301.12597, sections 3.1 and 3.4; blip2_qformer.py, pretrain_stage1.yaml and the processor
blip2_image_train of salesforce/LAVIS; OPT-2.7B's width: Zhang et al., arXiv 2205.01068, table 1.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.load import ConfigError, load
from tests.training.test_recipes import CONFIGS, RECIPES, differences
from tests.training.test_train import CrashError, assert_same_run, crash, interrupt_at, losses, weights_of
from tests.training.tiny_shards import make_evaluation, make_shards
from training.__main__ import main
from training.captions.load import load_with_heads
from training.config import TrainConfig
from training.errors import ModelError
from training.evaluation.evaluate import evaluate_checkpoint
from training.learning.heads import HEADS
from training.learning.memory import MARGIN, needs_of, without_weights
from training.learning.method import make_method
from training.learning.methods.blip2.causal_decoder import CausalDecoder, DecoderShape, save_decoder
from training.learning.model import create_model, register_model
from training.learning.pretrained import load_model
from training.train import train

STAGES = ("blip2-vit-g-14-stage1", "blip2-vit-g-14-stage2")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parents[1])


@pytest.mark.parametrize(
    ("stem", "batch", "steps", "last_rate"), [(STAGES[0], 1680, 250_000, 1e-5), (STAGES[1], 1920, 80_000, 5e-5)]
)
def test_settings_are_the_published_ones(stem: str, batch: int, steps: int, last_rate: float) -> None:
    config = load(TrainConfig, CONFIGS / f"{stem}.yaml")
    optimiser, augment = config.optimiser, config.data.augment
    assert (config.global_batch_size, config.samples) == (batch, batch * steps)
    assert (optimiser.learning_rate, optimiser.final_learning_rate) == (1e-4, last_rate)
    assert (optimiser.name, optimiser.schedule, optimiser.warmup_samples) == ("adamw", "cosine", 2000 * batch)
    assert (optimiser.beta1, optimiser.beta2, optimiser.weight_decay) == (0.9, 0.98, 0.05)
    assert (augment.flip_probability, augment.min_crop_area) == (0.5, 0.5)
    assert (config.model.lock_image, config.model.init_towers) == (True, "image")
    o = make_method(config.method, config.loss).options
    assert (o.queries, o.width, o.layers, o.heads, o.cross_every) == (32, 768, 12, 12, 2)
    if stem == STAGES[0]:
        assert (o.embed_dim, config.loss.label_smoothing, config.loss.init_temperature) == (256, 0.1, 0.07)
    else:
        assert o.language_model_width == 2560
        assert config.model.init_from == load(TrainConfig, CONFIGS / f"{STAGES[0]}.yaml").output
    head = (CONFIGS / f"{stem}.yaml").read_text()
    assert f"# For {config.plan.gpus} x GPU of {config.plan.gpu_memory_gb:g} GB (python -m training plan" in head


@pytest.mark.slow  # a tower of 40 layers is made
@pytest.mark.parametrize("stem", STAGES)
def test_model_has_its_published_size_and_fits(stem: str) -> None:
    config = load(TrainConfig, CONFIGS / f"{stem}.yaml")
    name = register_model(config.model.name)
    theirs, ours = open_clip.get_model_config("EVA01-g-14"), open_clip.get_model_config(name)
    assert ours["vision_cfg"] == theirs["vision_cfg"]
    assert ours["embed_dim"] == theirs["embed_dim"]
    assert ours["text_cfg"]["context_length"] == 32  # max_txt_len in LAVIS
    method = make_method(config.method, config.loss)
    made = without_weights(config, method, None, open_clip.get_tokenizer("ViT-B-32"))
    millions = {part: sum(p.numel() for p in made.head(part).parameters()) / 1e6 for part in getattr(made.clip, HEADS)}
    trained = sum(p.numel() for p in made.clip.parameters() if p.requires_grad) / 1e6
    if stem == STAGES[0]:
        places = 0.768e-3 * (512 - 32)  # BERT's, of which texts have 32
        assert millions["qformer"] + places == pytest.approx(188, rel=0.01)  # section 3.1
        assert trained == pytest.approx(millions["qformer"], abs=1e-5)  # and the temperature
        assert made.head("qformer").queries.shape == (32, 768)
    else:
        assert trained == pytest.approx(millions["qformer"] + millions["projection"])
        assert tuple(made.head("projection").weight.shape) == (2560, 768)
    looks = [layer.look is not None for layer in made.head("qformer").layers]
    assert looks == [True, False] * 6
    assert needs_of(config).total <= (1 - MARGIN) * config.plan.gpu_memory_gb * 1e9


def test_twin_differs_from_clips_where_the_systems_do() -> None:
    shape = {"queries": 8, "width": 64, "layers": 4, "heads": 4}
    assert differences("blip2-small") == {
        "global_batch_size": 64,
        "model.name": "configs/train/models/openwit-sample.json",
        "model.init_from": load(TrainConfig, CONFIGS / "sample.yaml").output,
        "model.init_towers": "image",
        "model.lock_image": True,
        "method.name": "qformer",
        **{f"method.options.{name}": value for name, value in {**shape, "embed_dim": 64}.items()},
        "loss.label_smoothing": 0.1,
        "optimiser.weight_decay": 0.05,
    }
    second = load(TrainConfig, CONFIGS / "blip2-small-stage2.yaml")
    assert second.model.init_from == load(TrainConfig, CONFIGS / "blip2-small.yaml").output
    assert {name: second.method.options[name] for name in shape} == shape


# --- the twins, in both stages ----------------------------------------------------------------------


def twin(stem: str, root: Path, data: Path, **changes: Any) -> TrainConfig:
    """The config `stem` in `root` over `data`, evaluated nowhere."""
    config = load(TrainConfig, CONFIGS / f"{stem}.yaml")
    options = dict(config.method.options)
    if "language_model" in options:
        options["language_model"] = str(root / "tiny-lm")
    start = root / Path(str(config.model.init_from)).name
    return replace(
        config,
        output=str(root / stem),
        data=replace(config.data, path=str(data), num_workers=0),
        model=replace(config.model, init_from=str(start) if start.is_dir() else f"{start}.safetensors"),
        method=replace(config.method, options=options),
        evaluation=replace(config.evaluation, path=None),
        log=replace(config.log, every_steps=1, tensorboard=False),
        device="cpu", precision="fp32", threads=1, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a tower and a language model lie, both as they were drawn."""
    root = tmp_path_factory.mktemp("twins")
    tower = load(TrainConfig, CONFIGS / "sample.yaml").model
    first = replace(tower, name=str(CONFIGS.parents[1] / tower.name))
    made = create_model(
        first, device=torch.device("cpu"), precision="fp32", init_logit_scale=2.0, init_logit_bias=None, seed=0
    )
    save_file(dict(made.clip.state_dict()), root / "sample.safetensors")
    torch.manual_seed(0)
    shape = DecoderShape(vocab_size=49408, context_length=48, end=49407, width=64, heads=4, layers=2)
    save_decoder(CausalDecoder(shape), root / "tiny-lm")
    return root


STEPS: dict[str, Any] = {"global_batch_size": 16, "epochs": None}


@pytest.fixture(scope="module")
def trained(started: Path, tiny_data: Path) -> list[TrainConfig]:
    """Both stages, two steps each, to be read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(CONFIGS.parents[1])
        configs = []
        for stem in ("blip2-small", "blip2-small-stage2"):
            configs.append(twin(stem, started, tiny_data, samples=32, **STEPS))
            train(configs[-1])
    return configs


def test_twins_take_two_steps(trained: list[TrainConfig]) -> None:
    first, second = ([loss for _, loss in losses(Path(config.output))] for config in trained)
    assert len(first) == len(second) == 2
    assert all(0 < loss < math.log(16) + math.log(49_409) + 3 for loss in first)
    assert all(0 < loss < 12 for loss in second)


def test_the_second_stage_goes_on_from_the_first(trained: list[TrainConfig], started: Path, tiny_data: Path) -> None:
    config = twin("blip2-small-stage2", started, tiny_data, samples=16, **STEPS)
    train(replace(config, output=str(started / "still"), optimiser=replace(config.optimiser, learning_rate=1e-12)))
    theirs, ours = weights_of(trained[0].output), weights_of(started / "still")
    for name, value in ours.items():
        if name.startswith((f"{HEADS}.qformer.", "visual.")):
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-6)


def test_what_is_locked_stays_and_the_language_model_is_not_saved(trained: list[TrainConfig], started: Path) -> None:
    tower = load_file(started / "sample.safetensors")
    for config in trained:
        saved = weights_of(config.output)
        assert all(torch.equal(saved[name], value) for name, value in tower.items() if name.startswith("visual."))
    assert not [name for name in saved if name.startswith(HEADS) and "qformer" not in name and "projection" not in name]


@pytest.mark.slow  # four runs
def test_stopped_run_goes_on_to_the_same_end(
    trained: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, done in enumerate(trained):
        checkpoint = replace(done.checkpoint, every_samples=16)
        config = replace(done, output=str(tmp_path / str(number)), checkpoint=checkpoint)
        with monkeypatch.context() as patch:
            interrupt_at(patch, 1, crash)
            with pytest.raises(CrashError):
                train(config)
        train(config)
        assert_same_run(config.output, done.output)


def test_first_stage_is_evaluated_by_its_queries(trained: list[TrainConfig], tiny_evaluation: Path) -> None:
    config = replace(trained[0].evaluation, path=str(tiny_evaluation))
    last = next((Path(trained[0].output) / "checkpoints").iterdir())
    found, _ = evaluate_checkpoint(config, last, trained[0].model, trained[0].method, trained[0].loss, "fp32", "cpu")
    assert {"zeroshot_top1", "image_to_text_recall_at_1"} <= {metric.name for metric in found}


def test_towers_by_themselves_are_refused(trained: list[TrainConfig], capsys: pytest.CaptureFixture[str]) -> None:
    for config, says in zip(trained, ("features are the queries' of a Q-Former", "has no features"), strict=True):
        with pytest.raises(ModelError, match=says):
            load_model(config.output)
        assert main(["export", str(Path(config.output) / "config.yaml")]) != 0
        assert says in capsys.readouterr().err


def test_second_stage_with_something_to_evaluate_stops_before(trained: list[TrainConfig], tmp_path: Path) -> None:
    evaluation = replace(trained[1].evaluation, path="data/anything")
    with pytest.raises(ConfigError, match="no features to evaluate"):
        train(replace(trained[1], output=str(tmp_path / "run"), evaluation=evaluation))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_second_stage_without_a_first_stops_before(trained: list[TrainConfig], started: Path, tmp_path: Path) -> None:
    model = replace(trained[1].model, init_from=str(started / "sample.safetensors"))
    with pytest.raises(ModelError, match="does not hold qformer"):
        train(replace(trained[1], output=str(tmp_path / "run"), model=model))


def test_captions_are_what_the_language_model_says(trained: list[TrainConfig]) -> None:
    captioner = load_with_heads(str(trained[1].output), device="cpu", precision="fp32", tokenizer=None).captioner
    assert captioner is not None
    assert len(captioner.beside) == 32
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = captioner.captions(pixels, keys=[0, 0, 0])
    assert [len(each) for each in found] == [1, 1, 1]
    assert captioner.captions(pixels[1:2], keys=[0]) == found[1:2]
    assert all(isinstance(text, str) for (text,) in found)


@pytest.mark.slow  # activations are counted twice
def test_plan_counts_the_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(CONFIGS / "blip2-small.yaml"), "--data.path", "nowhere"]) == 0
    assert "qformer over batches of 128" in capsys.readouterr().out
    config = load(TrainConfig, CONFIGS / "blip2-small.yaml")
    method = type(make_method(config.method, config.loss))
    with pytest.MonkeyPatch.context() as patch:
        whole = needs_of(config).memory["activations"]
        patch.setattr(method, "second", lambda *_: {})
        assert whole > 1.2 * needs_of(config).memory["activations"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twins_learn(tmp_path: Path) -> None:
    """On shapes in colours as the sample has them, on the tower of a CLIP; chance is 1 of 80."""
    make_shards(tmp_path / "data", counts=(800, 800, 800, 884))
    make_evaluation(tmp_path / "evaluation", per_class=2)
    tower = load(TrainConfig, CONFIGS / "sample.yaml")
    data = replace(tower.data, path=str(tmp_path / "data"), num_workers=0)
    train(
        replace(
            tower, output=str(tmp_path / "sample"), data=data, device="cpu", precision="fp32", threads=1,
            epochs=6, evaluation=replace(tower.evaluation, path=None),
        )
    )  # fmt: skip
    first = twin("blip2-small", tmp_path, tmp_path / "data")
    result = train(replace(first, evaluation=replace(first.evaluation, path=str(tmp_path / "evaluation"))))
    assert next(metric.value for metric in result.metrics if metric.name == "zeroshot_top1") > 8 / 80
    _language_model_of_the_docs(tmp_path)
    second = twin("blip2-small-stage2", tmp_path, tmp_path / "data")
    train(second)
    told = [loss for _, loss in losses(Path(second.output))]
    assert told[-1] < 0.7 * told[0]


@pytest.mark.slow  # a vocabulary of CLIP's size
def test_the_language_model_of_the_docs_is_made_and_read(
    trained: list[TrainConfig], tiny_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").symlink_to(tiny_data)
    _language_model_of_the_docs(tmp_path, rounds=1)
    options = {**trained[1].method.options, "language_model": str(tmp_path / "tiny-lm")}
    method = replace(trained[1].method, options=options)
    train(replace(trained[1], output=str(tmp_path / "run"), method=method, samples=16))


def _language_model_of_the_docs(root: Path, rounds: int = 6) -> None:
    """Made of the captions in `root`/data, at `root`/tiny-lm."""
    code = next(c for c in re.findall(r"```python\n(.*?)```", RECIPES.read_text(), re.DOTALL) if "CausalDecoder" in c)
    code = code.replace("data/sample/", f"{root}/data/").replace("data/tiny-lm", f"{root}/tiny-lm")
    assert "range(6)" in code
    torch.manual_seed(0)
    exec(compile(code.replace("range(6)", f"range({rounds})"), "recipes.md", "exec"), {})
