"""Metrics against naive formulas, and evaluation sets in CLIP_benchmark's form."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from configs.load import ConfigError, from_mapping, load
from tests.conftest import REPOSITORY
from tests.training.conftest import tiny_run
from tests.training.tiny_shards import CLASSES, TEMPLATES, make_evaluation
from training.config import EvaluationConfig, ModelConfig, TrainConfig, learns
from training.errors import EvaluationError, ModelError
from training.evaluation.encode import class_embeddings
from training.evaluation.evaluate import evaluate
from training.evaluation.metrics import label_ranks, retrieval, zero_shot
from training.evaluation.sets.open import open_set
from training.learning.features import prepare
from training.learning.fitting import fit
from training.learning.method import make_method
from training.learning.model import Model, create_model
from training.plan import plan
from training.train import train


@pytest.fixture(scope="module")
def model(tiny_vit: Path) -> Model:
    return create_model(
        ModelConfig(name=str(tiny_vit)),
        device=torch.device("cpu"),
        precision="fp32",
        init_logit_scale=2.66,
        init_logit_bias=None,
        seed=0,
    )


def features(seed: int, rows: int, width: int = 3) -> torch.Tensor:
    # Coarse values, so that ties happen.
    return torch.randint(-2, 3, (rows, width), generator=torch.Generator().manual_seed(seed)).double()


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 9))
def test_zero_shot_metrics_equal_the_naive_formulas(seed: int, n: int, classes: int) -> None:
    image, weights = features(seed, n), features(seed + 1, classes)
    labels = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(seed + 2))
    found = {metric.name: metric.value for metric in zero_shot(image, weights, labels)}
    right1, right5, per_class = [], [], {}
    for i in range(n):
        scores = [float(image[i] @ weights[c]) for c in range(classes)]
        order = sorted(range(classes), key=lambda c: (-scores[c], c))
        label = int(labels[i])
        right1.append(order[0] == label)
        right5.append(label in order[:5])
        per_class.setdefault(label, []).append(order[0] == label)
    assert found["zeroshot_top1"] == pytest.approx(np.mean(right1))
    assert found["zeroshot_top5"] == pytest.approx(np.mean(right5))
    assert found["zeroshot_mean_per_class"] == pytest.approx(np.mean([np.mean(v) for v in per_class.values()]))


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 3))
def test_retrieval_metrics_equal_the_naive_formulas(seed: int, n: int, per_image: int) -> None:
    owners = [i for i in range(n) for _ in range(1 + (i + seed) % per_image)]
    image, text = features(seed, n), features(seed + 1, len(owners))
    found = {metric.name: metric.value for metric in retrieval(image, text, torch.tensor(owners))}
    scores = (image @ text.T).tolist()
    for k in (1, 5, 10):
        to_text = []
        for i in range(n):
            top = sorted(range(len(owners)), key=lambda j, i=i: (-scores[i][j], j))[:k]
            to_text.append(any(owners[j] == i for j in top))
        to_image = []
        for j, owner in enumerate(owners):
            top = sorted(range(n), key=lambda i, j=j: (-scores[i][j], i))[:k]
            to_image.append(owner in top)
        assert found[f"image_to_text_recall_at_{k}"] == pytest.approx(np.mean(to_text))
        assert found[f"text_to_image_recall_at_{k}"] == pytest.approx(np.mean(to_image))


def test_chance_is_what_a_random_ranking_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    owners = torch.arange(30).repeat_interleave(2)
    values: dict[str, list[float]] = {}
    chances = {}
    for _ in range(200):
        image, text = (torch.randn(n, 8, generator=generator) for n in (30, 60))
        for metric in retrieval(image, text, owners):
            values.setdefault(metric.name, []).append(metric.value)
            chances[metric.name] = metric.chance
    for name, found in values.items():
        assert np.mean(found) == pytest.approx(chances[name], abs=0.02), name


def test_a_model_that_scores_everything_alike_is_at_chance() -> None:
    ranks = label_ranks(torch.zeros(8, 4), torch.arange(8) % 4)
    assert (ranks == 0).float().mean() == 0.25


def test_class_embeddings_equal_open_clips(model: Model) -> None:
    with model.evaluating():
        expected = open_clip.build_zero_shot_classifier(
            model.clip, model.tokenizer, CLASSES[:7], [t.replace("{c}", "{}") for t in TEMPLATES]
        ).T
    found = class_embeddings(model, CLASSES[:7], TEMPLATES, batch_size=5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (100, 40), (33, 70), (20, 31)])
def test_pictures_are_prepared_as_open_clip_does(shape: tuple[int, int], model: Model) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    transform = open_clip.image_transform(32, is_train=False)
    expected = transform(Image.fromarray(noise))
    prepared = prepare(buffer.getvalue(), model)
    assert prepared is not None
    pixels = torch.from_numpy(prepared).permute(2, 0, 1).float()
    torch.testing.assert_close((pixels - model.mean_C11) / model.std_C11, expected, rtol=1e-5, atol=1e-5)


def test_evaluation_reports_every_metric_and_leaves_training_mode_on(model: Model, tiny_evaluation: Path) -> None:
    metrics = evaluate(model, EvaluationConfig(path=str(tiny_evaluation), batch_size=5))
    names = [metric.name for metric in metrics]
    assert names[:3] == ["zeroshot_top1", "zeroshot_top5", "zeroshot_mean_per_class"]
    assert len(names) == 9
    assert metrics[0].chance == 1 / 8
    assert model.clip.training
    again = evaluate(model, EvaluationConfig(path=str(tiny_evaluation), batch_size=16))
    assert [m.value for m in again] == [m.value for m in metrics]


def test_incomplete_evaluation_sets_are_one_clear_line(tmp_path: Path, model: Model) -> None:
    with pytest.raises(EvaluationError, match=r"nshards\.txt"):
        open_set(tmp_path / "nowhere")
    make_evaluation(tmp_path / "eval", per_class=1, size=24, classes=CLASSES[:3])
    (tmp_path / "eval" / "test" / "1.tar").unlink()
    with pytest.raises(EvaluationError, match=r"1\.tar: missing"):
        open_set(tmp_path / "eval")


@pytest.mark.parametrize(("name", "content"), [("0.cls", b"3"), ("0.cls", b"cat"), ("0.jpg", b"nothing")])
def test_damaged_evaluation_examples_are_one_clear_line(
    name: str, content: bytes, tmp_path: Path, model: Model
) -> None:
    make_evaluation(tmp_path / "eval", per_class=1, size=24, classes=CLASSES[:3], num_tars=1)
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24)).save(buffer, "JPEG")
    members = {"0.jpg": buffer.getvalue(), "0.cls": b"0", name: content}
    with tarfile.open(tmp_path / "eval" / "test" / "0.tar", "w") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(EvaluationError) as caught:
        evaluate(model, EvaluationConfig(path=str(tmp_path / "eval")))
    assert "\n" not in str(caught.value)


def test_class_names_are_lines_of_utf8_and_nothing_else(tmp_path: Path) -> None:
    make_evaluation(tmp_path / "set", per_class=1, size=16, classes=CLASSES[:2])
    names = tmp_path / "set" / "classnames.txt"
    names.write_bytes("red\u2028circle\r\ncaf\u00e9\n".encode())
    assert open_set(tmp_path / "set").classes == ("red\u2028circle", "caf\u00e9")
    names.write_bytes(b"red circle\ncaf\xe9\n")
    with pytest.raises(EvaluationError, match=r"classnames\.txt: line 2 is not UTF-8"):
        open_set(tmp_path / "set")


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(50, 90), (70, 33), (20, 31), (32, 32), (3, 90)])
def test_pictures_of_any_shape_are_fitted_as_open_clip_does(
    mode: str, interpolation: str, shape: tuple[int, int]
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    transform = open_clip.image_transform(
        32, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode, interpolation=interpolation, fill_color=17
    )
    expected = (transform(Image.fromarray(noise)) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(fit(noise, 32, mode=mode, interpolation=interpolation, fill=17), expected)


def test_an_unknown_resize_mode_is_one_line() -> None:
    with pytest.raises(ModelError, match="none of shortest, squash, longest"):
        fit(np.zeros((4, 4, 3), np.uint8), 2, mode="crop")


def test_several_sets_of_a_config_have_their_names_before_their_metrics(
    model: Model, tiny_evaluation: Path, tmp_path: Path
) -> None:
    make_evaluation(tmp_path / "other", per_class=1, size=24, classes=CLASSES[:3])
    (tmp_path / "more").mkdir()
    make_evaluation(tmp_path / "more" / "other", per_class=1, size=24, classes=CLASSES[:2])
    sets = (str(tmp_path / "other"), str(tmp_path / "more" / "other"))
    metrics = {m.name: m for m in evaluate(model, EvaluationConfig(path=str(tiny_evaluation), sets=sets))}
    assert len(metrics) == 3 * 9
    for name, classes in (("", 8), ("other/", 3), ("other-2/", 2)):
        assert metrics[f"{name}zeroshot_top1"].chance == pytest.approx(1 / classes)
    alone = evaluate(model, EvaluationConfig(path=str(tiny_evaluation)))
    assert {m.name: m.value for m in alone}.items() <= {name: m.value for name, m in metrics.items()}.items()


def test_sets_change_nothing_that_is_learnt(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> None:
    config = from_mapping(TrainConfig, tiny_run(tmp_path / "run", tiny_data, tiny_vit))
    assert learns(config) == learns(replace(config, evaluation=EvaluationConfig(sets=("a", "b"), every_samples=5)))


def test_how_often_without_on_what_is_told(
    tiny_data: Path, tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(tmp_path / "run", tiny_data, tiny_vit) | {"samples": 16, "evaluation": {"every_samples": 8}}
    config = from_mapping(TrainConfig, run)
    assert any("evaluates  nothing" in line for line in plan(config))
    train(config)
    assert "nothing is evaluated: name a set by --evaluation.path" in " ".join(capsys.readouterr().err.split())
    measured = replace(config, evaluation=EvaluationConfig(every_samples=8, sets=("eval",)))
    assert not any("evaluates" in line for line in plan(measured))


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs/train").glob("*.yaml")), ids=lambda path: path.stem)
def test_published_configs_evaluate_or_say_that_they_do_not(path: Path) -> None:
    config = load(TrainConfig, path)
    method = make_method(config.method, config.loss)
    if not method.embeds:
        assert not config.evaluation.measures
        return
    assert config.evaluation.measures or "# of nothing, until a set is named" in path.read_text()


def test_mistakes_in_the_evaluation_of_a_config_are_found_before_work() -> None:
    for options, told in (({"every_samples": 0}, "every_samples"), ({"batch_size": 0}, "batch_size")):
        with pytest.raises(ConfigError, match=told):
            from_mapping(EvaluationConfig, options)
    with pytest.raises(ConfigError, match="sets"):
        from_mapping(EvaluationConfig, {"sets": ["ftp://host/set"]})
