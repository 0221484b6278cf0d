"""Order and coverage of the training stream."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.lanes import Lanes
from training.data.permute import permute, permute_each
from training.data.sampling.sampling import Uniform, chunks, parts
from training.data.stream import Drawn, Segment, Stream, share


@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 50))
def test_every_sample_comes_exactly_once_an_epoch(num_samples: int, seed: int, epoch: int) -> None:
    order = permute(np.arange(num_samples), num_samples=num_samples, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(num_samples))


def chunks_of(stream: Stream, start: int, stop: int, rank: int, world_size: int, size: int) -> list[list[int]]:
    return list(chunks(parts(Uniform(stream), start=start, stop=stop, rank=rank, world_size=world_size), size))


@given(st.integers(20, 200), st.integers(1, 12), st.integers(1, 7), st.integers(0, 5))
def test_global_batches_are_the_same_at_any_world_size(
    num_samples: int, world_size: int, chunk_size: int, first_step: int
) -> None:
    stream = Stream(segments=(Segment(sizes=(num_samples,)),), seed=1, global_batch_size=12)
    start, stop = 12 * first_step, 12 * first_step + 60
    per_rank = [
        [p for c in chunks_of(stream, start, stop, rank, world_size, chunk_size) for p in c]
        for rank in range(world_size)
    ]
    shares = [share(12, rank=r, world_size=world_size) for r in range(world_size)]
    joined = [
        p
        for step in range(5)
        for rank, (low, high) in zip(per_rank, shares, strict=True)
        for p in rank[step * (high - low) : (step + 1) * (high - low)]
    ]
    assert joined == list(range(start, stop))


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 13))
def test_chunks_never_cross_a_ranks_part_of_a_batch(local: int, world_size: int, chunk_size: int) -> None:
    stream = Stream(segments=(Segment(sizes=(50,)),), seed=0, global_batch_size=local * world_size)
    found = chunks_of(stream, 0, 3 * local * world_size, world_size - 1, world_size, chunk_size)
    sizes, filled = [len(chunk) for chunk in found], 0
    for size in sizes:
        filled += size
        assert filled <= local
        filled %= local
    assert sum(sizes) == 3 * local


def test_a_batch_may_span_two_epochs_and_each_epoch_stays_whole() -> None:
    stream = Stream(segments=(Segment(sizes=(10,)),), seed=7, global_batch_size=8)
    drawn = stream.draw(np.arange(20))
    epochs, samples = drawn.epochs, drawn.samples
    assert epochs.tolist() == [0] * 10 + [1] * 10
    assert sorted(samples[:10]) == sorted(samples[10:]) == list(range(10))
    assert samples[:10].tolist() != samples[10:].tolist()


def test_order_is_fixed_for_ever() -> None:
    order = permute(np.arange(12), num_samples=12, seed=5, epoch=2)
    assert order.tolist() == [5, 8, 4, 9, 6, 0, 10, 3, 2, 11, 7, 1]


def test_huge_data_sets_need_no_memory_for_their_order() -> None:
    number = 10**11
    places = np.array([0, 1, number // 2, number - 1])
    samples = permute(places, num_samples=number, seed=0, epoch=3)
    assert len(set(samples.tolist())) == 4
    assert ((samples >= 0) & (samples < number)).all()


def test_order_is_close_to_uniform() -> None:
    n = 4096
    sums = np.zeros(n)
    for epoch in range(64):
        sums += permute(np.arange(n), num_samples=n, seed=11, epoch=epoch)
    # A mean of 64 uniform draws: expectation (n - 1) / 2, standard deviation n / sqrt(12 * 64).
    deviations = (sums / 64 - (n - 1) / 2) / (n / np.sqrt(12 * 64))
    assert abs(deviations.mean()) < 0.1
    assert 0.9 < deviations.std() < 1.1


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(0, 2**40))
def test_each_domain_is_permuted_by_its_own_key(sizes: list[int], seed: int) -> None:
    places = np.concatenate([np.arange(size) for size in sizes])
    domains = np.repeat(np.arange(len(sizes)), sizes)
    keys = np.arange(len(sizes), dtype=np.uint64)[domains]
    found = permute_each(places, sizes=np.array(sizes)[domains], keys=keys, seed=seed)
    for domain, size in enumerate(sizes):
        assert sorted(found[domains == domain].tolist()) == list(range(size))


def lanes_over(sizes: list[int], window: int, *, seed: int = 3, batch: int = 8) -> Stream:
    lanes = Lanes.of(sizes, window=window, seed=seed)
    return Stream(segments=(Segment(sizes=(sum(sizes),)),), seed=seed, global_batch_size=batch, lanes=((lanes,),))


def by_batches(stream: Stream, count: int, *, first: int = 0) -> Drawn:
    """What `count` batches hold, from number `first` on."""
    sampling = Uniform(stream)
    return stream.draw(np.concatenate([sampling.batch(number) for number in range(first, first + count)]))


LANES_ORDER = [7, 6, 5, 8, 2, 0, 9, 10, 11, 3, 1, 4, 8, 9, 10, 5, 0, 4, 11, 7, 6, 2, 3, 1]
shard_sizes = st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any)


@given(shard_sizes, st.integers(1, 20), st.integers(0, 2**40), st.integers(0, 3), st.integers(1, 40))
def test_every_sample_comes_exactly_once_an_epoch_by_lanes(
    sizes: list[int], window: int, seed: int, epoch: int, batch: int
) -> None:
    count = sum(sizes)
    first, stop = epoch * count // batch, -(-(epoch + 1) * count // batch)
    drawn = by_batches(lanes_over(sizes, window, seed=seed, batch=batch), stop - first, first=first)
    assert sorted(drawn.samples[drawn.epochs == epoch].tolist()) == list(range(count))


@settings(max_examples=20)
@given(shard_sizes.filter(lambda sizes: sum(sizes) > 50), st.integers(1, 20), st.integers(1, 9), st.integers(0, 30))
def test_a_position_needs_no_other_position_by_lanes(sizes: list[int], window: int, step: int, first: int) -> None:
    stream = lanes_over(sizes, window)
    whole = stream.draw(np.arange(8 * 40))
    some = np.arange(first, 8 * 40, step)
    assert stream.draw(some).samples.tolist() == whole.samples[some].tolist()


@settings(max_examples=40)
@given(st.lists(st.integers(20, 60), min_size=4, max_size=12), st.integers(1, 4), st.integers(0, 40))
def test_few_shards_are_open_at_a_time_and_each_rank_reads_its_own(sizes: list[int], ranks: int, step: int) -> None:
    window, batch = 4, 16
    stream = lanes_over(sizes, window, batch=batch)
    count = sum(sizes)
    ends = np.cumsum(sizes)
    by_rank = []
    for rank in range(ranks):
        low, high = share(batch, rank=rank, world_size=ranks)
        positions = Uniform(stream).batch(step)[low:high]
        needed = [shard for _, shard in stream.shards(positions)]
        by_rank.append(needed)
        drawn = stream.draw(positions)
        assert set(needed) == set(np.searchsorted(ends, drawn.samples, side="right").tolist())
    if (step * batch) // count == (step * batch + batch - 1) // count:  # else two epochs' shards are open
        assert len({shard for needed in by_rank for shard in needed}) <= 2 * window
        if ranks in (1, 2, 4):
            assert all(len(set(needed)) <= 2 * window // ranks for needed in by_rank)


def test_a_shard_is_read_in_one_go() -> None:
    sizes = [50, 61, 47, 55, 59, 52, 58, 40]
    stream = lanes_over(sizes, 3, batch=6)
    ends = np.cumsum(sizes)
    steps: dict[int, list[int]] = {}
    for step in range(sum(sizes) // 6):
        drawn = by_batches(stream, 1, first=step)
        for shard in np.searchsorted(ends, drawn.samples, side="right"):
            steps.setdefault(int(shard), []).append(step)
    # Two samples of a lane in each batch: a shard that lies in one lane is through after half as many batches.
    lasting = {shard: max(found) - min(found) for shard, found in steps.items()}
    in_one_lane = [shard for shard, size in enumerate(sizes) if lasting[shard] <= size // 2]
    assert len(in_one_lane) >= len(sizes) - 2  # three lanes, two cuts


def test_the_order_by_lanes_is_fixed_for_ever() -> None:
    drawn = by_batches(lanes_over([5, 0, 3, 4], 2, seed=5, batch=6), 4)
    assert drawn.samples.tolist() == LANES_ORDER


def test_samples_of_a_shard_are_permuted_anew_in_each_epoch() -> None:
    drawn = by_batches(lanes_over([64], 1, batch=64), 3)
    first, second, third = drawn.samples.reshape(3, 64)
    assert (first != second).sum() > 50
    assert (second != third).sum() > 50
    assert abs(np.corrcoef(first, np.arange(64))[0, 1]) < 0.5


def test_lanes_mix_several_data_sets_by_weight() -> None:
    sizes = ([400, 300, 500], [90, 110])
    lanes = tuple(Lanes.of(part, window=4, seed=7 + number) for number, part in enumerate(sizes))
    stream = Stream(
        segments=(Segment(sizes=(1200, 200)),), seed=7, global_batch_size=64, weights=(3.0, 1.0), lanes=(lanes,)
    )
    drawn = stream.draw(np.arange(4096))
    assert (drawn.samples >= 1200).sum() == 1024
    second = drawn.samples[drawn.samples >= 1200]
    epochs = drawn.epochs[drawn.samples >= 1200]
    assert sorted(second[epochs == 0].tolist()) == list(range(1200, 1400))
    needed = stream.shards(np.arange(64))
    ends = np.cumsum(sizes[0] + sizes[1])
    assert {shard for _, shard in needed} == set(np.searchsorted(ends, drawn.samples[:64], side="right").tolist())
