"""Samplings in runs: the index they need, the batches that workers load, resumed runs, and what is refused."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import ConfigError, from_mapping
from configs.load import load as load_config
from pipeline.storage.bucket import BucketPath
from tests.conftest import REPOSITORY
from tests.object_store.fixtures import Bucket
from tests.training.conftest import in_window, put_tree, stop_run, tiny_run
from tests.training.test_data import LengthTokenizer, joined, same
from tests.training.test_in_bucket import assert_same_weights
from tests.training.test_train import assert_same_run, losses
from tests.training.tiny_shards import make_shards
from training.config import AugmentConfig, DataConfig, MetaclipConfig, TrainConfig, learns
from training.data.batches import Batch, BatchDataset, batches
from training.data.index import load_index, write_index
from training.data.lanes import lanes_of
from training.data.rows import read_rows
from training.data.sampling.make import make_sampling
from training.data.shards import balance_mode, find_shards
from training.data.stream import Segment, Stream
from training.errors import DataError, TrainingError
from training.train import train

CHOICES = [
    {"sampling": "metaclip", "metaclip": {"max_pairs_per_query": 9}},
    {"sampling": "concept", "concept": {"super_batch": 3}},
    {"sampling": "concept", "concept": {"super_batch": 2, "prefer": "frequency"}},
]
NAMES = ["metaclip", "diversity", "frequency"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """103 samples that have queries."""
    root = tmp_path_factory.mktemp("sampling-data")
    make_shards(root, counts=(60, 40, 3), size=40, queries=True)
    return root


def balanced(data: Path, mode: str) -> None:
    (data / "shards" / "config.yaml").write_text(yaml.safe_dump({"balance": {"mode": mode}}))


# --- the index ----------------------------------------------------------------------------------------------------


def test_the_index_holds_the_queries_of_what_it_holds(tmp_path: Path) -> None:
    make_shards(tmp_path / "data", counts=(9, 7), size=24, queries=True)
    path = tmp_path / "data" / "shards" / "00000.parquet"
    rows = pq.read_table(path)
    captions, ids = rows["caption"].to_pylist(), rows["query_ids"].to_pylist()
    captions[2], ids[4] = " ", None
    rows = rows.set_column(1, "caption", pa.array(captions)).drop_columns("query_ids")
    pq.write_table(rows.append_column("query_ids", pa.array(ids, pa.large_list(pa.int64()))), path)
    index = write_index(tmp_path / "data", root=tmp_path / "index", with_queries=True)
    assert isinstance(index.queries, np.memmap)
    assert index.query_end is not None
    found = [part.tolist() for part in np.split(index.queries, index.query_end[:-1])]
    there = ids + pq.read_table(tmp_path / "data" / "shards" / "00001.parquet")["query_ids"].to_pylist()
    assert found == [queries or [] for number, queries in enumerate(there) if number != 2]
    assert index.num_queries == max(max(queries, default=0) for queries in found) + 1
    assert load_index(tmp_path / "index" / index.fingerprint).num_queries == index.num_queries


def test_an_index_without_queries_is_what_it_was(data: Path, tiny_data: Path, tmp_path: Path) -> None:
    without = write_index(data, root=tmp_path / "without")
    with_queries = write_index(data, root=tmp_path / "with", with_queries=True)
    # The same samples without the column, and an index of an earlier version, have this fingerprint.
    assert write_index(tiny_data, root=tmp_path / "tiny").fingerprint == without.fingerprint
    assert with_queries.fingerprint != without.fingerprint
    assert without.queries is without.query_end is None
    assert not list((tmp_path / "without").rglob("quer*.npy"))
    (shard, *_) = find_shards(data)
    assert read_rows(shard).queries is None


def test_a_change_of_the_queries_is_a_change_of_the_data(tmp_path: Path) -> None:
    make_shards(tmp_path / "data", counts=(9,), size=24, queries=True)
    before = write_index(tmp_path / "data", root=tmp_path / "index", with_queries=True).fingerprint
    path = tmp_path / "data" / "shards" / "00000.parquet"
    rows = pq.read_table(path)
    ids = rows["query_ids"].to_pylist()
    changed = rows.drop_columns("query_ids").append_column(
        "query_ids", pa.array(ids[1:] + ids[:1], pa.list_(pa.int32()))
    )
    pq.write_table(changed, path)
    assert write_index(tmp_path / "data", root=tmp_path / "index", with_queries=True).fingerprint != before


def test_queries_of_a_second_directory_are_numbered_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(tmp_path / "other", counts=(9, 7), size=24, queries=True)
    first, second = (write_index(one, root=tmp_path / "alone", with_queries=True) for one in (data, tmp_path / "other"))
    both = write_index(data, tmp_path / "other", root=tmp_path / "both", with_queries=True)
    assert first.queries is not None
    assert second.queries is not None
    assert both.queries is not None
    assert both.queries.tolist() == first.queries.tolist() + (second.queries + first.num_queries).tolist()
    assert first.queries_end == (first.num_queries,)
    assert both.queries_end == (first.num_queries, first.num_queries + second.num_queries)
    assert both.num_queries == both.queries_end[1]
    assert load_index(tmp_path / "both" / both.fingerprint).queries_end == both.queries_end
    # They are int32.
    monkeypatch.setattr("training.data.index._MAX_QUERIES", both.num_queries)
    write_index(data, tmp_path / "other", root=tmp_path / "both", with_queries=True)
    monkeypatch.setattr("training.data.index._MAX_QUERIES", both.num_queries - 1)
    with pytest.raises(DataError, match=r"\.tar: query_ids up to \d+, too many for one run over several sets$"):
        write_index(data, tmp_path / "other", root=tmp_path / "both", with_queries=True)


@pytest.mark.parametrize("wrong", [[["dog"]] * 9, [[-1]] * 9, [[2**30]] * 9, [[None]] * 9])
def test_query_ids_that_are_none_are_one_clear_line(tmp_path: Path, wrong: Any) -> None:
    make_shards(tmp_path / "data", counts=(9,), size=24)
    path = tmp_path / "data" / "shards" / "00000.parquet"
    pq.write_table(pq.read_table(path).append_column("query_ids", pa.array(wrong)), path)
    write_index(tmp_path / "data", root=tmp_path / "index")  # nobody asks
    with pytest.raises(DataError, match=r"00000\.parquet: its query_ids are no .* the shard again$"):
        write_index(tmp_path / "data", root=tmp_path / "index", with_queries=True)


# --- batches ------------------------------------------------------------------------------------------------------


def load(
    data: Path, root: Path, options: dict[str, Any], *, window: int | None, ranks: int, start: int = 0, workers: int = 0
) -> list[Batch]:
    """Global batches of 10 over the first 60 samples of a run, as `ranks` processes load them."""
    config = from_mapping(DataConfig, {"path": str(data), "num_workers": workers, **options})
    index = write_index(data, root=root, with_queries=True)
    lanes = () if window is None else (lanes_of(index.shard_sizes, index.sizes, window=window, seed=1),)
    stream = Stream(segments=(Segment(sizes=index.sizes),), seed=1, global_batch_size=10, lanes=lanes)
    dataset = BatchDataset(
        index_dirs=(str(root / index.fingerprint),),
        stream=stream,
        augment=AugmentConfig(),
        image_size=32,
        tokenizer=LengthTokenizer(),
        seed=1,
    )
    parts = []
    for rank in range(ranks):
        sampling = make_sampling(config, stream, index)
        with closing(
            batches(dataset, start=start, stop=60, rank=rank, world_size=ranks, config=config, sampling=sampling)
        ) as found:
            parts.append(list(found))
    return [joined(list(pieces)) for pieces in zip(*parts, strict=True)]


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("options", CHOICES, ids=NAMES)
def test_batches_are_the_same_at_any_world_size_and_from_any_beginning(
    options: dict[str, Any], window: int | None, data: Path, tmp_path: Path
) -> None:
    alone = load(data, tmp_path, options, window=window, ranks=1)
    assert len(alone) == 6
    for ranks in (2, 3):
        found = load(data, tmp_path, options, window=window, ranks=ranks)
        assert all(same(a, b) for a, b in zip(alone, found, strict=True))
    later = load(data, tmp_path, options, window=window, ranks=2, start=40)
    assert all(same(a, b) for a, b in zip(alone[4:], later, strict=True))
    whole = load(data, tmp_path, {}, window=window, ranks=1)
    assert not all(same(a, b) for a, b in zip(alone, whole, strict=True))


def test_worker_processes_load_what_was_chosen(data: Path, tmp_path: Path) -> None:
    here = load(data, tmp_path, CHOICES[1], window=None, ranks=1)
    workers = load(data, tmp_path, CHOICES[1], window=None, ranks=1, workers=2)
    assert all(same(a, b) for a, b in zip(here, workers, strict=True))


# --- runs ---------------------------------------------------------------------------------------------------------


def run_of(output: Path, data: Path, model: Path, options: dict[str, Any]) -> dict[str, Any]:
    run = tiny_run(output, data, model)
    return run | {"data": {**run["data"], **options}}


@pytest.mark.parametrize(
    ("number", "window", "weights"),
    [(0, False, ()), (1, True, ()), (0, False, (2, 1)), (1, False, (None, None))],
    ids=["metaclip", "concept in a window", "metaclip of a mixture", "concept of several sets"],
)
def test_stopped_and_resumed_run_equals_uninterrupted_run(
    number: int, window: bool, weights: tuple[int | None, ...], data: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    runs = [run_of(tmp_path / name, data, tiny_vit, CHOICES[number]) for name in ("whole", "stopped")]
    whole, stopped = [in_window(run, run["output"], data) if window else run for run in runs]
    if weights:
        make_shards(tmp_path / "other", counts=(30, 20), size=40, queries=True)
        places = [str(data), str(tmp_path / "other")]
        mixture = [{"path": path, "weight": weight} for path, weight in zip(places, weights, strict=True)]
        whole, stopped = [run | {"data": {**run["data"], "path": None, "mixture": mixture}} for run in (whole, stopped)]
    assert train(from_mapping(TrainConfig, whole)).progress.samples_seen == 160
    stop_run(stopped, step=7)
    train(from_mapping(TrainConfig, stopped))
    assert_same_run(whole["output"], stopped["output"])
    assert losses(whole["output"])[-3:] == losses(stopped["output"])[-3:]


def test_a_run_in_a_bucket_chooses_what_one_on_a_disk_chooses(
    bucket: Bucket, data: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    run = run_of(tmp_path / "disk", data, tiny_vit, CHOICES[1])
    train(from_mapping(TrainConfig, in_window(run, tmp_path / "disk", data)))
    put_tree(data, f"{bucket.url}/data")
    there = in_window(run, f"{bucket.url}/run", f"{bucket.url}/data")
    stop_run(there, step=7)  # and from another machine's copy of the index
    train(from_mapping(TrainConfig, there))
    assert_same_weights(f"{bucket.url}/run", tmp_path / "disk", tmp_path)


def test_metaclip_refuses_a_balanced_set_in_a_bucket(
    bucket: Bucket, data: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    put_tree(data, f"{bucket.url}/data")
    (BucketPath.of(f"{bucket.url}/data/shards") / "config.yaml").put(b"balance: {mode: quota}")
    run = in_window(run_of(tmp_path / "run", data, tiny_vit, CHOICES[0]), tmp_path / "run", f"{bucket.url}/data")
    with pytest.raises(DataError, match=r"balanced already"):
        train(from_mapping(TrainConfig, run))


def test_epochs_count_passes_over_the_set(data: Path, tiny_vit: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", data, tiny_vit, {"sampling": "concept"}) | {"samples": None, "epochs": 2}
    # Two passes of 103 samples, of which a fifth is seen: 41.2, in batches of 16.
    assert train(from_mapping(TrainConfig, run)).progress.samples_seen == 48


def test_balance_that_does_nothing_is_told(
    data: Path, tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path / "run", data, tiny_vit, {"sampling": "metaclip"}) | {"samples": 16}
    train(from_mapping(TrainConfig, run))
    assert "metaclip passes nothing over" in " ".join(" ".join(capsys.readouterr()).split())


def test_another_sampling_does_not_go_on_where_one_stopped(data: Path, tiny_vit: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", data, tiny_vit, CHOICES[0]) | {"samples": 16}
    train(from_mapping(TrainConfig, run))
    with pytest.raises(TrainingError, match="other settings"):
        train(from_mapping(TrainConfig, run_of(tmp_path / "run", data, tiny_vit, CHOICES[1]) | {"samples": 16}))


def test_only_the_sampling_that_is_used_changes_what_is_learnt(data: Path, tiny_vit: Path, tmp_path: Path) -> None:
    config = from_mapping(TrainConfig, tiny_run(tmp_path / "run", data, tiny_vit))
    other = replace(config, data=replace(config.data, metaclip=MetaclipConfig(max_pairs_per_query=3)))
    assert learns(config) == learns(other)
    found = {learns(replace(c, data=replace(c.data, sampling="metaclip"))) for c in (config, other)}
    assert len(found | {learns(config), learns(replace(config, data=replace(config.data, sampling="concept")))}) == 4


def test_the_commands_of_the_docs_are_understood() -> None:
    section = (REPOSITORY / "docs/training.md").read_text(encoding="utf-8").split("## Sampling by queries")[1]
    commands = [line.split() for line in section.partition("\n## ")[0].splitlines() if line.startswith("    python")]
    training = [words[5:] for words in commands if words[2:5] == ["training", "run", "CONFIG.yaml"]]
    found = [load_config(TrainConfig, REPOSITORY / "configs/train/sample.yaml", words).data for words in training]
    assert [data.sampling for data in found] == ["metaclip", "concept"]
    assert [words[2] for words in commands if words[2] != "training"] == ["benchmarks.train_sampling"]


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["quota", "coordinated", "metaclip"])
def test_metaclip_refuses_a_set_that_is_balanced(mode: str, data: Path, tiny_vit: Path, tmp_path: Path) -> None:
    make_shards(tmp_path / "data", counts=(60, 43), size=40, queries=True)
    balanced(tmp_path / "data", mode)
    run = run_of(tmp_path / "run", tmp_path / "data", tiny_vit, CHOICES[0])
    with pytest.raises(
        DataError, match=rf"data: balanced already \(.*balance\.mode {mode}\).*uniform or concept.*none"
    ):
        train(from_mapping(TrainConfig, run))
    assert not list((tmp_path / "run").glob("*.json"))


def test_what_is_said_of_balance_is_read_and_nothing_else(tmp_path: Path) -> None:
    make_shards(tmp_path, counts=(2,), size=24)
    assert balance_mode(tmp_path) is None
    for text, mode in (
        ("balance: {mode: none}", "none"),
        ("balance: {mode: quota}", "quota"),
        ("{", None),
        ("- balance", None),
        ("balance: 3", None),
        ("balance: {mode: 3}", None),
    ):
        (tmp_path / "shards" / "config.yaml").write_text(text)
        assert balance_mode(tmp_path) == mode


@pytest.mark.parametrize("options", CHOICES[:2], ids=NAMES[:2])
def test_shards_of_other_tools_are_refused_in_one_line(
    options: dict[str, Any], tiny_data: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    run = run_of(tmp_path / "run", tiny_data, tiny_vit, options)
    with pytest.raises(DataError, match=r"00000\.tar: no Parquet with query_ids beside it.*--data\.sampling uniform$"):
        train(from_mapping(TrainConfig, run))
    assert not list((tmp_path / "run").glob("*.json"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"mixture": [{"path": "x", "weight": 1}], "sampling": "concept", "follow": True},
            "weighted data sets .* leave the weights out",
        ),
        ({"path": "x", "sampling": "concepts"}, "did you mean 'concept'"),
        ({"path": "x", "concept": {"super_batch": 1}}, "super_batch must be at least 2"),
        ({"path": "x", "concept": {"max_pairs_per_query": 0}}, "at least 1, or be null"),
        ({"path": "x", "metaclip": {"max_pairs_per_query": 0}}, "at least 1"),
        ({"path": "x", "metaclip": {"tail_share": 1.0}}, r"lie in \(0, 1\), or be null"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_read(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        from_mapping(DataConfig, options)
