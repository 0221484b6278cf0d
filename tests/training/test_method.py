"""A method of one's own is one file and one config: trained, resumed, evaluated and exported like the others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from configs.load import ConfigError, from_mapping
from tests.training.conftest import run_ranks, tiny_run
from tests.training.test_train import CrashError, assert_same_run, crash, interrupt_at, weights_of
from training.__main__ import main
from training.config import LossConfig, MethodConfig, TrainConfig, learns
from training.data.batches import Batch
from training.data.index import write_index
from training.errors import DataError
from training.learning.heads import HEADS
from training.learning.method import Method, Output, Rows, Terms, make_method
from training.learning.model import Model
from training.train import train

OWN = {"name": "tests.training.own_method:Everything", "options": {"predict_weight": 0.25}}


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run of the method, to be read only."""
    run = tiny_run(tmp_path_factory.mktemp("own") / "run", tiny_data, tiny_vit)
    config = from_mapping(TrainConfig, run | {"method": OWN, "micro_batches": 2})
    train(config)
    return config


def test_each_term_is_logged_and_learnt(trained: TrainConfig) -> None:
    lines = [json.loads(line) for line in (Path(trained.output) / "log.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss_distil"] + line["loss_predict"] + line["loss_judge"])
    for name in ("loss_predict", "loss_judge"):
        assert lines[-1][name] < lines[0][name]


def test_heads_are_saved_and_follow(trained: TrainConfig) -> None:
    weights = weights_of(trained.output)
    leader, follower = (weights[f"{HEADS}.{name}.0.weight"] for name in ("predictor", "follower"))
    assert not torch.equal(leader, follower)
    assert (leader - follower).abs().max() < 0.2, "a moving average of it"


def test_resumed_run_is_the_same(trained: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(trained, output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, crash)
        with pytest.raises(CrashError):
            train(config)
    train(config)
    assert_same_run(config.output, trained.output)


def test_export_is_open_clips_and_evaluation_knows_the_heads(
    trained: TrainConfig, tiny_evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained.output, tmp_path / "run")
    saved = str(tmp_path / "run" / "config.yaml")
    words = [saved, "--output", str(tmp_path / "run"), "--evaluation.path", str(tiny_evaluation)]
    assert main(["evaluate", *words]) == 0
    assert "zeroshot" in capsys.readouterr().out
    assert main(["export", *words]) == 0
    model = open_clip.create_model(f"local-dir:{tmp_path / 'run' / 'export'}")
    assert not any(name.startswith(HEADS) for name in model.state_dict())
    torch.testing.assert_close(model.state_dict()["visual.proj"], weights_of(tmp_path / "run")["visual.proj"])


@pytest.mark.parametrize("towers", ["both", "image", "text"])
def test_another_run_starts_from_it_without_its_heads(
    trained: TrainConfig, tmp_path: Path, towers: Literal["both", "image", "text"]
) -> None:
    first = MethodConfig(name=f"{__name__}:Predictor")
    model = replace(trained.model, init_from=trained.output, init_towers=towers)
    optimiser = replace(trained.optimiser, learning_rate=1e-12)
    train(replace(trained, output=str(tmp_path / "run"), method=first, model=model, optimiser=optimiser, samples=16))
    theirs, ours = weights_of(trained.output), weights_of(tmp_path / "run")
    assert not any(name.startswith(HEADS) for name in ours)
    for name, is_taken in (("visual.proj", towers != "text"), ("text_projection", towers != "image")):
        assert torch.allclose(ours[name], theirs[name], atol=1e-6) == is_taken, name


@pytest.mark.slow
def test_two_ranks_learn_the_same_with_sharded_heads(trained: TrainConfig, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", Path(str(trained.data.path)), Path(trained.model.name))
    run |= {"method": OWN, "micro_batches": 2, "distributed": "fsdp"}
    run_ranks({"folder": str(tmp_path), "model": trained.model.name, "runs": [run]}, 2)
    from training.checkpoints.layout import find_last
    from training.checkpoints.loading import read_weights

    last, _ = find_last(tmp_path / "run" / "checkpoints")
    assert last is not None
    for name, value in read_weights(last).items():
        torch.testing.assert_close(value, weights_of(trained.output)[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ({"name": "contrastiv"}, ", and no MODULE:CLASS"),
        ({"name": "no.such:Method"}, "cannot be imported"),
        ({"name": "tests.training.own_method:teacher"}, "is no subclass"),
        ({"name": f"{__name__}:Taken"}, "asks for columns named image, key, as batches call what they have anyway"),
        ({"name": OWN["name"], "options": {"predict_wieght": 1.0}}, "did you mean 'predict_weight'"),
        ({"name": OWN["name"], "options": {"momentum": "much"}}, "method.options: momentum: expected a number"),
        ({"options": {"anything": 1}}, "unknown key 'anything'"),
    ],
)
def test_a_mistake_in_the_config_is_one_line(method: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_method(from_mapping(MethodConfig, method), LossConfig())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


class NoForward(Method):
    """Nothing but a scale."""

    init_logit_scale = 0.0


class Near(Method):
    """The distance of picture and text; what others below get wrong."""

    init_logit_scale = 0.0

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        image_BD, text_BD = model.encode_image(batch.images, batch.keys), model.encode_text(batch.tokens)
        return Output(rows={"image": image_BD}, sums={"near": (image_BD - text_BD).square().sum()})

    def counts(self, batch: Batch) -> Terms:
        return {"near": torch.tensor(float(len(batch)))}


class NoScale(Near):
    init_logit_scale = None  # type: ignore[assignment]


class NoCounts(Near):
    def counts(self, batch: Batch) -> Terms:
        return {}


class CountsNumbers(Near):
    def counts(self, batch: Batch) -> Terms:
        return {"near": len(batch)}  # type: ignore[dict-item]


class SecondWithoutCount(Near):
    def second(self, model: Model, batch: Batch, output: Output, found: Rows) -> Terms:
        return {"judge": output.rows["image"].sum()}


class SecondAlone(NoForward):
    forward = Near.forward
    second = SecondWithoutCount.second


class Twice(Near):
    def second(self, model: Model, batch: Batch, output: Output, found: Rows) -> Terms:
        return {"near": output.rows["image"].sum()}


class NoLoss(Near):
    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        return Output(rows={"image": model.encode_image(batch.images, batch.keys)})


class OtherArguments(Near):
    def forward(self, model: Model, batch: Batch) -> Output:  # type: ignore[override]
        return super().forward(model, batch)


class PlainOptions(Near):
    class Options:  # type: ignore[assignment]
        weight = 1.0


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (NoForward, "NoForward has no forward; write it as"),
        (NoScale, "NoScale has no init_logit_scale, the logarithm"),
        (SecondAlone, "SecondAlone has second and no counts"),
        (OtherArguments, r"OtherArguments: forward(model: 'Model', batch: 'Batch') -> 'Output' cannot be called"),
        (PlainOptions, "PlainOptions: its Options are no dataclass"),
    ],
)
def test_a_method_that_lacks_something_is_one_line_before_the_data_is_looked_at(
    own: type[Method], says: str, tiny_vit: Path, tmp_path: Path
) -> None:
    run = tiny_run(tmp_path / "run", tmp_path / "no-data", tiny_vit)
    config = from_mapping(TrainConfig, {**run, "method": {"name": f"{__name__}:{own.__name__}"}})
    with pytest.raises(ConfigError) as caught:
        train(config)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


class Taken(Method):
    """One whose columns would stand where pictures and keys do."""

    fields = ("weight", "image", "key")

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        raise NotImplementedError


class Weighted(Method):
    """The likeness of picture and text, by a weight of each sample and to a teacher's vector."""

    fields = ("weight", "teacher")
    init_logit_scale = 0.0
    seen: ClassVar[dict[int, tuple[float, float]]] = {}

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        weight_B, teacher_BK = batch.fields["weight"], batch.fields["teacher"]
        assert (weight_B.dtype, teacher_BK.dtype, teacher_BK.shape[1]) == (torch.float32, torch.float16, 3)
        for size, weight, first in zip(batch.tokens.sum(1).tolist(), weight_B.tolist(), teacher_BK[:, 0], strict=True):
            self.seen[size] = (weight, float(first))
        image_BD, text_BD = model.encode_image(batch.images, batch.keys), model.encode_text(batch.tokens)
        return Output(rows={}, sums={"near": (weight_B * (image_BD - text_BD).square().sum(1)).sum()})

    def counts(self, batch: Batch) -> Terms:
        return {"near": batch.fields["weight"].sum()}


class WeightedWithoutCounts(Weighted):
    def counts(self, batch: Batch) -> Terms:
        return {}


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (NoCounts, "NoCounts: counts has no entry for near, which forward gives; return there"),
        (CountsNumbers, "CountsNumbers: counts gives no tensor of one number for 'near'"),
        (SecondWithoutCount, "SecondWithoutCount: counts has no entry for judge, which second gives"),
        (Twice, "Twice: forward and second both give a loss named near"),
        (NoLoss, "NoLoss: none of forward, coupled and second gives a loss"),
        (WeightedWithoutCounts, "WeightedWithoutCounts: counts has no entry for near, which forward gives"),
    ],
)
def test_what_only_a_step_can_show_of_a_method_is_one_line_in_the_first(
    own: type[Method], says: str, tiny_data: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    data = with_columns(tiny_data, tmp_path / "data") if own.fields else tiny_data
    run = tiny_run(tmp_path / "run", data, tiny_vit)
    config = from_mapping(TrainConfig, {**run, "method": {"name": f"{__name__}:{own.__name__}"}})
    with pytest.raises(ConfigError) as caught:
        train(config)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def with_columns(data: Path, to: Path) -> Path:
    """The shards with a weight and a vector beside each sample: the number of its caption's letters."""
    shutil.copytree(data, to)
    for path in to.rglob("*.parquet"):
        table = pq.read_table(path)
        letters = [float(len(caption or "")) for caption in table["caption"].to_pylist()]
        vectors = pa.array([[n, 0.0, 1.0] for n in letters], pa.list_(pa.float16(), 3))
        table = table.append_column("weight", pa.array(letters, pa.float64())).append_column("teacher", vectors)
        pq.write_table(table, path)
    return to


def test_columns_of_the_shards_come_with_their_samples(trained: TrainConfig, tiny_data: Path, tmp_path: Path) -> None:
    data = with_columns(tiny_data, tmp_path / "data")
    method = MethodConfig(name=f"{__name__}:Weighted")
    config = replace(trained, output=str(tmp_path / "run"), method=method, data=replace(trained.data, path=str(data)))
    train(config)
    tokenize = open_clip.get_tokenizer("ViT-B-32")
    captions = [c for p in data.rglob("*.parquet") for c in pq.read_table(p)["caption"].to_pylist()]
    expected = {int(tokenize([c], context_length=24).sum()): float(len(c)) for c in captions}
    assert Weighted.seen
    assert all(expected[size] == weight == first for size, (weight, first) in Weighted.seen.items())


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_lists_of_one_length_need_no_type_of_their_own(
    tiny_data: Path, tmp_path: Path, kind: Callable[[pa.DataType], pa.DataType]
) -> None:
    """DuckDB, Spark and pandas write no other."""
    data = with_columns(tiny_data, tmp_path / "data")
    fixed = write_index(data, root=tmp_path / "fixed", fields=("teacher",))
    paths = sorted(data.rglob("*.parquet"))
    for path in paths:
        table = pq.read_table(path)
        at, lists = table.column_names.index("teacher"), table["teacher"].to_pylist()
        table = table.set_column(at, "teacher", pa.array(lists, kind(pa.float16())))
        pq.write_table(table, path)
    found = write_index(data, root=tmp_path / "index", fields=("teacher",))
    assert found.fingerprint == fixed.fingerprint
    np.testing.assert_array_equal(found.fields["teacher"], fixed.fields["teacher"])

    lists[-1] = [1.0]
    pq.write_table(table.set_column(at, "teacher", pa.array(lists, kind(pa.float16()))), paths[-1])
    with pytest.raises(DataError, match="column teacher must be a number in each row, or a list of numbers of one"):
        write_index(data, root=tmp_path / "index", fields=("teacher",))


def test_a_column_that_the_data_lacks_stops_before_training(trained: TrainConfig, tmp_path: Path) -> None:
    config = replace(trained, output=str(tmp_path / "run"), method=MethodConfig(name=f"{__name__}:Weighted"))
    with pytest.raises(DataError, match=r"no column weight in a Parquet beside it, which method\.name asks for"):
        train(config)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_column_that_is_no_number_stops_before_training(
    trained: TrainConfig, tiny_data: Path, tmp_path: Path
) -> None:
    data = with_columns(tiny_data, tmp_path / "data")
    path = sorted(data.rglob("*.parquet"))[1]
    table = pq.read_table(path)
    texts = table["weight"].cast(pa.string())
    pq.write_table(table.set_column(table.column_names.index("weight"), "weight", texts), path)
    method = MethodConfig(name=f"{__name__}:Weighted")
    config = replace(trained, output=str(tmp_path / "run"), method=method, data=replace(trained.data, path=str(data)))
    with pytest.raises(DataError, match=r"column weight must be a number in each row.* it is string"):
        train(config)


def test_runs_of_before_are_told_by_the_same_options(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> None:
    """The fingerprint of a config that says nothing of methods is that of the version without them."""
    run = tiny_run(tmp_path, tiny_data, Path("ViT-B-32"))
    assert learns(from_mapping(TrainConfig, run)) == "7f38669f42a2371ad421d1e7b87e79d0"
    other = from_mapping(TrainConfig, run | {"method": OWN})
    assert learns(other) != learns(from_mapping(TrainConfig, run))


def test_every_method_of_the_trainer_says_what_it_is() -> None:
    made = make_method(MethodConfig(), LossConfig())
    assert isinstance(made, Method)
    assert made.__class__.__doc__


def test_a_method_may_have_single_samples_losses_alone(trained: TrainConfig, tmp_path: Path) -> None:
    config = replace(trained, output=str(tmp_path / "run"), method=MethodConfig(name=f"{__name__}:Predictor"))
    train(config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]


class Predictor(Method):
    """Texts' features from pictures', by the samples themselves."""

    init_logit_scale = 0.0

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        image_BD, text_BD = model.encode_image(batch.images, batch.keys), model.encode_text(batch.tokens)
        return Output(rows={}, sums={"predict": (image_BD - text_BD).square().sum()})

    def counts(self, batch: Batch) -> Terms:
        return {"predict": torch.tensor(float(len(batch)))}
