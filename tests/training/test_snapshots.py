"""Several data sets with weights, and data sets that grow while they are trained on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import training.run.begin as begin_module
import training.train as train_module
from configs.load import ConfigError, from_mapping
from tests.training.conftest import index_of, tiny_run
from tests.training.test_train import assert_same_run, losses
from tests.training.tiny_shards import make_shards
from training.checkpoints.layout import find_last, read_progress
from training.config import CheckpointConfig, DataConfig, DataSet, TrainConfig
from training.data.shards import find_shards
from training.data.stream import Segment, Stream, block_shares
from training.errors import CheckpointError, DataError
from training.train import train


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9))
def test_shares_of_a_block_add_up_and_follow_the_weights(weights: list[float]) -> None:
    shares = block_shares(tuple(weights))
    assert sum(shares) == 4096
    assert min(shares) >= 1
    exact = [4096 * weight / sum(weights) for weight in weights]
    assert all(abs(share - wanted) <= len(weights) for share, wanted in zip(shares, exact, strict=True))


@settings(max_examples=10)
@given(st.integers(300, 900), st.integers(300, 900), st.floats(0.2, 5), st.integers(0, 2**30))
def test_every_data_set_keeps_its_weight_and_its_epochs(first: int, second: int, weight: float, seed: int) -> None:
    stream = Stream(segments=(Segment(sizes=(first, second)),), seed=seed, global_batch_size=8, weights=(weight, 1.0))
    drawn = stream.draw(np.arange(3 * 4096))
    shares = block_shares((weight, 1.0))
    for low, size, share in ((0, first, shares[0]), (first, second, shares[1])):
        mine = (drawn.samples >= low) & (drawn.samples < low + size)
        assert mine.reshape(3, 4096).sum(axis=1).tolist() == [share] * 3
        # Epoch by epoch, each sample once; the last epoch is under way.
        for epoch in range(3 * share // size):
            assert sorted(drawn.samples[mine & (drawn.epochs == epoch)]) == list(range(low, low + size))


def test_a_position_needs_no_other_position() -> None:
    stream = Stream(segments=(Segment(sizes=(50, 7)),), seed=3, global_batch_size=8, weights=(2.0, 1.0))
    whole = stream.draw(np.arange(9000))
    some = stream.draw(np.array([8999, 17, 4096]))
    assert some.samples.tolist() == [whole.samples[i] for i in (8999, 17, 4096)]


def test_the_order_of_a_mixture_is_fixed_for_ever() -> None:
    stream = Stream(segments=(Segment(sizes=(5, 4)),), seed=5, global_batch_size=8, weights=(2.0, 1.0))
    assert stream.draw(np.arange(12)).samples.tolist() == MIXTURE_ORDER


def test_a_new_segment_begins_where_the_old_epoch_ends() -> None:
    segments = (Segment(sizes=(10,)), Segment(sizes=(14,), start=10, first_epoch=1))
    drawn = Stream(segments=segments, seed=0, global_batch_size=4).draw(np.arange(24))
    assert drawn.segments.tolist() == [0] * 10 + [1] * 14
    assert drawn.epochs.tolist() == [0] * 10 + [1] * 14
    assert sorted(drawn.samples[:10]) == list(range(10))
    assert sorted(drawn.samples[10:]) == list(range(14))


@pytest.fixture
def config(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> TrainConfig:
    return from_mapping(TrainConfig, tiny_run(tmp_path / "run", tiny_data, tiny_vit))


def test_a_weighted_mixture_trains_and_resumes_exactly(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(tmp_path / "second", counts=(12,), size=24, seed=9)
    mixture = (DataSet(path=str(config.data.path), weight=3), DataSet(path=str(tmp_path / "second"), weight=1))
    mixed = replace(config, data=DataConfig(mixture=mixture, num_workers=0))
    train(replace(mixed, output=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        crash_in(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            train(mixed)
    train(mixed)
    assert_same_run(mixed.output, tmp_path / "whole")
    with pytest.raises(CheckpointError, match="other settings"):
        train(replace(mixed, data=DataConfig(mixture=(mixture[0], replace(mixture[1], weight=2)), num_workers=0)))


def test_data_sets_without_weights_are_one(config: TrainConfig, tiny_data: Path, tmp_path: Path) -> None:
    make_shards(tmp_path / "second", counts=(12,), size=24, seed=9)
    index = index_of(tiny_data, tmp_path / "second")
    assert index.sizes == (103, 12)
    assert index.caption(103) == index_of(tmp_path / "second").caption(0)
    mixture = (DataSet(path=str(tiny_data)), DataSet(path=str(tmp_path / "second")))
    train(replace(config, samples=None, epochs=1.0, data=DataConfig(mixture=mixture, num_workers=0)))
    last, _ = find_last(Path(config.output) / "checkpoints")
    assert last is not None
    assert read_progress(last).samples_seen == 128  # 115 samples in whole batches of 16


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "either path or mixture"),
        ({"path": "a", "mixture": [{"path": "b"}]}, "either path or mixture"),
        ({"mixture": [{"path": "a", "weight": 1}, {"path": "b"}]}, "all entries a weight, or none"),
        ({"mixture": [{"path": "a", "weight": 0}]}, "weight must be positive"),
    ],
)
def test_mistakes_in_a_mixture_are_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(DataConfig, data)


def grow(root: Path, source: Path, number: int) -> None:
    """Publish one more shard, as a writer does: the tar, then the list."""
    name = f"{number:05d}"
    for suffix in ("tar", "parquet"):
        shutil.copyfile(source / f"00000.{suffix}", root / "shards" / f"{name}.{suffix}")
    sizes = root / "shards" / "sizes.json"
    sizes.write_text(sizes.read_text().rstrip("}") + f', "{name}.tar": 40}}')


def crash_in(patch: pytest.MonkeyPatch, step: int, action: Any = None) -> None:
    """Call `action` (or die) before the gradient of `step`."""
    real, calls = train_module.accumulate_gradient, iter(range(1000))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == step:
            if action is None:
                raise KeyboardInterrupt
            action()
        return real(*args, **kwargs)

    patch.setattr(train_module, "accumulate_gradient", wrapped)


@pytest.fixture
def growing(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    make_shards(tmp_path / "growing", counts=(50,), size=24)
    make_shards(tmp_path / "more", counts=(40,), size=24, seed=4)
    return replace(
        config,
        data=DataConfig(path=str(tmp_path / "growing"), num_workers=0, follow=True),
        checkpoint=CheckpointConfig(every_samples=32, keep=10),
    )


def test_shards_written_during_a_run_are_trained_on_from_the_next_epoch(
    growing: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_in(patch, 1, lambda: grow(tmp_path / "growing", tmp_path / "more" / "shards", 1))
        train(growing)
    last, _ = find_last(Path(growing.output) / "checkpoints")
    assert last is not None
    segments = read_progress(last).segments
    assert [(s.start, s.sizes, s.first_epoch) for s in segments][-1] == (140, (90,), 2)
    assert read_progress(last.with_name("000000000064")).segments[-1].start == 50


def test_a_resumed_run_reads_what_the_stopped_one_would_have_read(
    growing: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = lambda: grow(tmp_path / "growing", tmp_path / "more" / "shards", 1)  # noqa: E731  # used twice below
    with monkeypatch.context() as patch:
        crash_in(patch, 1, publish)
        train(replace(growing, output=str(tmp_path / "whole")))
    shutil.rmtree(tmp_path / "growing")
    make_shards(tmp_path / "growing", counts=(50,), size=24)
    with monkeypatch.context() as patch:
        crash_in(patch, 1, publish)
        real = train_module.accumulate_gradient
        calls = iter(range(1000))

        def dying(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == 6:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        patch.setattr(train_module, "accumulate_gradient", dying)
        with pytest.raises(KeyboardInterrupt):
            train(growing)
    # In the second epoch now; what is published meanwhile belongs to the third.
    train(growing)
    assert losses(growing.output) == losses(tmp_path / "whole")
    assert_same_run(growing.output, tmp_path / "whole")


@pytest.mark.parametrize(
    "sampling",
    [
        {"sampling": "metaclip", "metaclip": {"max_pairs_per_query": 4}},
        {"sampling": "concept", "concept": {"super_batch": 2}},
    ],
    ids=["metaclip", "concept"],
)
def test_samplings_go_by_the_queries_of_each_snapshot_and_resume_exactly(
    sampling: dict[str, Any], config: TrainConfig, tmp_path: Path
) -> None:
    make_shards(tmp_path / "more", counts=(40,), size=24, seed=4, queries=True)
    data = {"path": str(tmp_path / "growing"), "num_workers": 0, "follow": True, **sampling}
    growing = replace(
        config, data=from_mapping(DataConfig, data), checkpoint=CheckpointConfig(every_samples=32, keep=10)
    )
    segments = []
    for name, died in (("whole", None), ("stopped", 7)):
        shutil.rmtree(tmp_path / "growing", ignore_errors=True)
        make_shards(tmp_path / "growing", counts=(50,), size=24, queries=True)
        run = replace(growing, output=str(tmp_path / name))
        with pytest.MonkeyPatch.context() as patch:
            crash_in(patch, 0, lambda: grow(tmp_path / "growing", tmp_path / "more" / "shards", 1))
            if died is not None:
                crash_in(patch, died)
                with pytest.raises(KeyboardInterrupt):
                    train(run)
            # The shard that came in the first pass is there in the second.
            train(run)
        last, _ = find_last(Path(run.output) / "checkpoints")
        assert last is not None
        segments.append(read_progress(last).segments)
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert segments[0] == segments[1]
    newest = segments[0][-1]
    assert newest.sizes == (90,)
    assert 0 < newest.first_sample < newest.start  # less was taken than passed through


def test_indexes_that_nothing_needs_are_removed(growing: TrainConfig, tmp_path: Path) -> None:
    train(replace(growing, checkpoint=CheckpointConfig(keep=1)))
    assert len(list((Path(growing.output) / "index").iterdir())) == 1


def test_a_lost_snapshot_is_one_clear_line(growing: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        crash_in(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(growing)
    shutil.rmtree(Path(growing.output) / "index")
    with pytest.raises(CheckpointError, match="missing, so the run cannot go on exactly"):
        train(growing)


def test_following_needs_a_length_in_samples(growing: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="set --samples N --epochs null"):
        replace(growing, samples=None, epochs=2.0)


def test_a_tar_that_is_still_being_written_waits_for_the_next_look(tmp_path: Path) -> None:
    make_shards(tmp_path / "data", counts=(5, 4), size=24)
    shards = tmp_path / "data" / "shards"
    (shards / "sizes.json").unlink()
    whole = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").write_bytes(whole[:3000])
    assert [shard.path.name for shard in find_shards(shards, skip_unfinished=True)] == ["00000.tar"]
    assert len(find_shards(shards)) == 2
    (shards / "00001.tar").write_bytes(whole)
    assert len(find_shards(shards, skip_unfinished=True)) == 2


def test_a_shard_that_changed_during_the_run_is_one_clear_line(config: TrainConfig, tmp_path: Path) -> None:
    shutil.copytree(str(config.data.path), tmp_path / "copy")
    data = replace(config, data=DataConfig(path=str(tmp_path / "copy"), num_workers=0))
    tar = tmp_path / "copy" / "shards" / "00000.tar"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(begin_module, "write_run", changing(tar, begin_module.write_run))
        with pytest.raises(DataError, match=r"00000\.tar: \d+ bytes, but \d+ when the run looked at it") as caught:
            train(data)
    assert "\n" not in str(caught.value)


def changing(tar: Path, real: Any) -> Any:
    """`real`, which also rewrites `tar`: at a time when the index was read and no sample was."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        tar.write_bytes(tar.read_bytes() + bytes(512))
        return real(*args, **kwargs)

    return wrapped


MIXTURE_ORDER = [2, 1, 0, 8, 4, 3, 4, 8, 3, 8, 7, 8]
