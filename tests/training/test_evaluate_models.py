"""Many models on many sets: figures against naive rules and scikit-learn, files that resume, one line for mistakes."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import training.evaluation.compare as compare_module
from configs.load import ConfigError
from pipeline.storage.bucket import BucketPath
from tests.object_store.fixtures import Bucket
from tests.training.tiny_shards import CLASSES, draw_sample, encode, make_evaluation
from training.commands import main
from training.config import ModelConfig
from training.distributed import World
from training.errors import EvaluationError
from training.evaluation.config import EvaluateOptions
from training.evaluation.encode import Encoded, class_embeddings, encode_parts, template_embeddings
from training.evaluation.measure import per_class
from training.evaluation.metrics import classify, clip_score, label_ranks, positive_ranks, retrieval, template_spread
from training.evaluation.probe import fit_probe, probe, sweep
from training.evaluation.progress import Progress
from training.evaluation.sets.open import open_set
from training.learning.model import Model, create_model

NAMES = CLASSES[:6]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads over matrices of this size only wait for each other, on a machine that other work fills."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(tiny_vit: Path, seed: int) -> Model:
    return create_model(
        ModelConfig(name=str(tiny_vit)),
        device=torch.device("cpu"),
        precision="fp32",
        init_logit_scale=2.66,
        init_logit_bias=None,
        seed=seed,
    )


@pytest.fixture(scope="module")
def model(tiny_vit: Path) -> Model:
    return made(tiny_vit, 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path) -> Path:
    """Weights of two models, a set of tars, and one of folders with a train part."""
    root = tmp_path_factory.mktemp("evaluate")
    for seed in (0, 1):
        torch.save(made(tiny_vit, seed).clip.state_dict(), root / f"{seed}.pt")
    make_evaluation(root / "tars", per_class=3, size=32, classes=NAMES)
    for part, pictures in (("test", 3), ("train", 6)):
        for name in NAMES[:3]:
            for number in range(pictures):
                path = root / "folders" / part / name / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode(draw_sample(name, random.Random(f"{part}/{name}/{number}"), size=32)[0]))
    return root


def words(
    place: Path, tiny_vit: Path, to: Path | None, *models: int, sets: tuple[str, ...] = ("tars", "folders")
) -> list[str]:
    listed = ", ".join(str(place / name) for name in sets)
    more = [] if to is None else ["--to", str(to)]
    named = [f"{tiny_vit}:{place / f'{seed}.pt'}" for seed in models]
    return ["evaluate", *named, "--sets", f"[{listed}]", "--precision", "fp32", "--threads", "1", *more]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# --- the command ------------------------------------------------------------------------------------


def test_many_models_on_many_sets_give_one_table_and_resume_to_the_same_bytes(
    place: Path, tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [*words(place, tiny_vit, tmp_path / "whole", 0, 1), "--probe", "true"]
    assert main(whole) == 0
    printed = capsys.readouterr()
    assert "no linear probe is measured on it" in printed.err  # the tars have no train part
    for told in ("top-1", "probe", "image to text @1", "CLIP score", "results.html"):
        assert told in printed.out
    table = pq.read_table(tmp_path / "whole" / "results.parquet").to_pylist()
    assert len({(row["model"], row["set"]) for row in table}) == 4
    by_name = {row["metric"]: row for row in table if row["set"].endswith("folders") and "1.pt" in row["model"]}
    assert {"zeroshot_top1", "zeroshot_top5", "zeroshot_mean_per_class", "linear_probe_top1"} <= set(by_name)
    assert by_name["zeroshot_top1"]["chance"] == pytest.approx(1 / 3)

    classes = pq.read_table(tmp_path / "whole" / "classes.parquet").to_pylist()
    assert len(classes) == 2 * (len(NAMES) + 3)
    first = [row for row in classes if row["set"].endswith("tars") and "0.pt" in row["model"]]
    top1 = next(
        row["value"] for row in table if row["metric"] == "zeroshot_mean_per_class" and row["set"].endswith("tars")
    )
    assert np.mean([row["top1"] for row in first]) == pytest.approx(top1)
    page = (tmp_path / "whole" / "results.html").read_text()
    assert "red circle" in page
    assert "<svg" in page

    # Stopped after three pairs, then run again.
    real, calls = compare_module.measure, iter(range(9))

    def stopped(*arguments: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    again = [word.replace(str(tmp_path / "whole"), str(tmp_path / "again")) for word in whole]
    monkeypatch.setattr(compare_module, "measure", stopped)
    assert main(again) == 130
    assert len(list((tmp_path / "again" / "pairs").iterdir())) == 3
    monkeypatch.setattr(compare_module, "measure", real)
    assert main(again) == 0
    assert "3 of 4 known before" in capsys.readouterr().out
    assert files(tmp_path / "again") == files(tmp_path / "whole")

    # What decides a result is in the key: other options are measured anew.
    assert main([*words(place, tiny_vit, tmp_path / "again", 0, sets=("tars",)), "--flips", "true"]) == 0
    assert "known before" not in capsys.readouterr().out


def test_a_damaged_record_is_measured_again(
    place: Path, tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(place, tiny_vit, tmp_path, 0, sets=("folders",))
    assert main(command) == 0
    assert "zeroshot top1 " in capsys.readouterr().out
    before = files(tmp_path)
    (record,) = (tmp_path / "pairs").iterdir()
    record.write_text(record.read_text().replace("0", "1"))
    assert main(command) == 0
    assert "known before" not in capsys.readouterr().out
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--sets", "[]"], "sets is empty"),
        (["--sets", "[a, a]"], "sets names a twice"),
        (["--sets", "[/nowhere]"], "/nowhere: no evaluation set here"),
        (["--probe", "true"], "no labelled train part"),
        (["--batch_size", "0"], "batch_size must be at least 1"),
        (["--set", "[a]"], "sets"),
    ],
)
def test_mistakes_are_one_line_before_a_model_is_loaded(
    change: list[str], told: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "no-such-model", "--sets", f"[{place / 'tars'}]", *change]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_a_model_that_is_not_there_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "no-such-model", "--sets", f"[{place / 'tars'}]"]) == 2
    assert "error: no-such-model: does not exist" in capsys.readouterr().err.splitlines()[-1]
    assert main(["evaluate", "no-such-model"]) == 2
    assert "sets" in capsys.readouterr().err


def test_options_refuse_what_is_named_twice() -> None:
    with pytest.raises(ConfigError, match="models names a twice"):
        EvaluateOptions(models=("a", "a"), sets=("b",))


def test_progress_tells_rate_and_time_left() -> None:
    progress = Progress(pictures=100, console=None)
    progress.begin("a on b")
    progress.advance(20)
    progress.leave_out(20)
    progress._began -= 10
    assert progress.line() == "a on b  20/80 pictures  2 pictures/s  0:00:30 left"


# --- features ---------------------------------------------------------------------------------------


def test_flips_are_the_mean_of_a_picture_and_its_mirror(place: Path, model: Model) -> None:
    parts = open_set(place / "tars").parts
    plain = encode_parts(parts, model, batch_size=4)
    found = encode_parts(parts, model, batch_size=7, flips=True)
    blank = torch.full((1, 32, 32, 3), 200, dtype=torch.uint8)
    with model.evaluating():
        torch.testing.assert_close(model.encode_image(blank), model.encode_image(blank.flip(2)))
    assert not torch.allclose(plain.images, found.images, atol=1e-4)
    assert torch.allclose(found.images.norm(dim=1), torch.ones(len(found.images)))
    assert torch.equal(plain.labels, found.labels)


def test_template_embeddings_are_what_classes_are_made_of(model: Model) -> None:
    templates = ("a {c}", "{c}, a photo", "no {c}")
    every = template_embeddings(model, NAMES, templates, batch_size=5)
    assert every.shape == (6, 3, 16)
    mean = class_embeddings(model, NAMES, templates, batch_size=4)
    torch.testing.assert_close(F.normalize(every.mean(dim=1), dim=-1), mean, rtol=1e-5, atol=1e-6)


class Ranks(World):
    """Two ranks as two threads, which gather from each other."""

    barrier = threading.Barrier(2)
    told: ClassVar[dict[int, Any]] = {}

    def gather_objects(self, value: Any) -> list[Any]:
        self.told[self.rank] = value
        self.barrier.wait(60)
        values = [self.told[0], self.told[1]]
        self.barrier.wait(60)
        return values


def test_two_ranks_find_what_one_finds(place: Path, tiny_vit: Path) -> None:
    make_evaluation(place / "three", per_class=3, size=32, classes=NAMES, num_tars=3)  # one is read by both
    data, model = open_set(place / "three"), made(tiny_vit, 0)
    model.clip.eval()

    def work(rank: int) -> tuple[Encoded, Tensor]:
        world = Ranks(rank=rank, size=2)
        found = encode_parts(data.parts, model, batch_size=4, world=world)
        return found, class_embeddings(model, data.classes, data.templates, world=world)

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(work, (0, 1)))
    alone = encode_parts(data.parts, model, batch_size=5)
    classes = class_embeddings(model, data.classes, data.templates)
    for found, own_classes in both:
        for name in ("images", "labels", "texts", "owners"):
            torch.testing.assert_close(getattr(found, name), getattr(alone, name), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(own_classes, classes, rtol=1e-5, atol=1e-6)


def test_results_and_what_is_known_lie_in_a_bucket(
    place: Path,
    tiny_vit: Path,
    ranks_bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in ranks_bucket.environment.items():
        monkeypatch.setenv(name, value)
    command = [*words(place, tiny_vit, None, 0, sets=("folders",)), "--to", f"{ranks_bucket.url}/evaluation"]
    assert main(command) == 0
    assert main(command) == 0
    assert "1 of 1 known before" in capsys.readouterr().out
    results = BucketPath.of(f"{ranks_bucket.url}/evaluation") / "results.json"
    assert len(json.loads(results.read_bytes())["pairs"]) == 1


# --- figures ----------------------------------------------------------------------------------------


def unit(seed: int, rows: int, width: int = 8) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_classes_and_confusions_equal_the_naive_counts() -> None:
    image, weights = unit(0, 60), unit(1, 5)
    labels = torch.arange(60) % 4  # the last class has no picture
    found = classify(image, weights, labels)
    scores = image @ weights.T
    predicted = [max(range(5), key=lambda c, i=i: float(scores[i, c])) for i in range(60)]
    assert found.predicted.tolist() == predicted
    classes, confusions = per_class(found, labels, list("abcde"))
    for number, row in enumerate(classes[:4]):
        own = [p for p, label in zip(predicted, labels.tolist(), strict=True) if label == number]
        assert row.examples == len(own) == 15
        assert row.top1 == own.count(number) / 15
        wrong = {c: own.count(c) for c in range(5) if c != number and own.count(c)}
        assert row.confused == max(wrong.values(), default=0)
        assert row.confused_with == min(wrong, key=lambda c: (-wrong[c], c), default=None)
        assert {c.predicted: c.count for c in confusions if c.number == number} == wrong
    assert (classes[4].examples, classes[4].top1, classes[4].confused_with) == (0, None, None)
    assert [c.count for c in confusions] == sorted((c.count for c in confusions), reverse=True)


def test_spread_over_templates_is_of_single_ones() -> None:
    found = {metric.name: metric.value for metric in template_spread([0.25, 0.75, 0.5, 0.5], 4)}
    assert found["zeroshot_top1_worst_template"] == 0.25
    assert found["zeroshot_top1_best_template"] == 0.75
    assert found["zeroshot_top1_std_over_templates"] == pytest.approx(math.sqrt(0.125 / 4))


def test_clip_score_is_the_mean_of_positive_cosines() -> None:
    image, text = unit(2, 7), unit(3, 11)
    owners = torch.arange(11) % 7
    found = clip_score(image, text, owners)
    cosines = (text @ image.T).double()
    assert found.value == pytest.approx(np.mean([max(float(cosines[j, owners[j]]), 0) for j in range(11)]))
    assert found.chance == pytest.approx(float(cosines.clamp(min=0).mean()))


def test_a_model_that_gives_no_numbers_is_never_right() -> None:
    nothing = torch.full((3, 4), math.nan)
    assert label_ranks(nothing, torch.tensor([0, 1, 3])).tolist() == [4, 4, 4]
    assert positive_ranks(nothing, torch.eye(3, 4, dtype=torch.bool)).tolist() == [4, 4, 4]
    broken = torch.full((20, 2), math.nan)
    assert all(metric.value == 0 for metric in retrieval(broken, broken, torch.arange(20)))


# --- linear probe -----------------------------------------------------------------------------------


def blobs(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Unit features around three corners, which overlap."""
    labels = torch.arange(count) % 3
    noise = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return F.normalize(torch.eye(3, 6)[labels] * 1.5 + noise, dim=-1), labels


@pytest.mark.parametrize("l2", [100.0, 1.0, 0.01])
def test_probe_equals_scikit_learns(l2: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the oracle of the linear probe")
    features, labels = blobs(0, 150)
    found = fit_probe(features, labels, num_classes=3, l2=l2)
    limits = pytest.importorskip("threadpoolctl", reason="comes with scikit-learn").threadpool_limits
    with limits(1):
        peer = linear_model.LogisticRegression(C=1 / l2, tol=1e-8, max_iter=5000).fit(
            features.double().numpy(), labels.numpy()
        )
    ours = F.softmax(F.linear(features, found.weight, found.bias), dim=1)
    np.testing.assert_allclose(ours.numpy(), peer.predict_proba(features.double().numpy()), atol=2e-3)
    np.testing.assert_allclose(found.weight.numpy(), peer.coef_, rtol=0.02, atol=0.02)


def test_probe_starts_anywhere_and_finds_the_same() -> None:
    features, labels = blobs(1, 90)
    one = fit_probe(features, labels, num_classes=3, l2=1.0)
    far = fit_probe(features, labels, num_classes=3, l2=1e-3)
    two = fit_probe(features, labels, num_classes=3, l2=1.0, start=far)
    torch.testing.assert_close(one.weight, two.weight, rtol=1e-2, atol=5e-3)


def test_sweep_takes_the_penalty_that_is_right_on_what_was_held_out() -> None:
    features, labels = blobs(2, 300)
    test, test_labels = blobs(3, 300)
    metrics, found = probe(features, labels, test, test_labels, num_classes=3)
    assert 1e-6 <= found.l2 <= 1e6
    assert found.l2 == sweep(features, labels, num_classes=3)
    heavy = fit_probe(features, labels, num_classes=3, l2=1e6)
    top1 = float((F.linear(test, heavy.weight, heavy.bias).argmax(1) == test_labels).double().mean())
    assert metrics[0].name == "linear_probe_top1"
    assert metrics[0].value >= top1 - 0.02
    assert metrics[0].value > 0.6


def test_probe_of_too_few_examples_is_one_line() -> None:
    features, labels = blobs(4, 12)
    with pytest.raises(EvaluationError, match="5 examples of a class"):
        sweep(features, labels, num_classes=3)


def test_results_say_what_was_measured(place: Path, tiny_vit: Path, tmp_path: Path) -> None:
    assert main(words(place, tiny_vit, tmp_path, 0, sets=("tars",))) == 0
    (pair,) = json.loads((tmp_path / "results.json").read_text())["pairs"]
    assert pair["set"]["form"] == "tars"
    assert (pair["set"]["examples"], pair["set"]["classes"], pair["set"]["templates"]) == (18, 6, 4)
    assert pair["model"]["image_size"] == 32
    assert len(pair["templates"]) == 4
    assert pair["options"] == {"flips": False, "probe": False}
