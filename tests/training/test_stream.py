"""Order and coverage of the training stream."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.data.stream import Segment, Stream, permute, share


@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 50))
def test_every_sample_comes_exactly_once_an_epoch(num_samples: int, seed: int, epoch: int) -> None:
    order = permute(np.arange(num_samples), num_samples=num_samples, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(num_samples))


@given(st.integers(20, 200), st.integers(1, 12), st.integers(1, 7), st.integers(0, 5))
def test_global_batches_are_the_same_at_any_world_size(
    num_samples: int, world_size: int, chunk_size: int, first_step: int
) -> None:
    stream = Stream(segments=(Segment(sizes=(num_samples,)),), seed=1, global_batch_size=12)
    start, stop = 12 * first_step, 12 * first_step + 60
    per_rank = [
        [
            p
            for c in stream.chunks(start=start, stop=stop, rank=r, world_size=world_size, chunk_size=chunk_size)
            for p in c
        ]
        for r in range(world_size)
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
    chunks = stream.chunks(
        start=0, stop=3 * local * world_size, rank=world_size - 1, world_size=world_size, chunk_size=chunk_size
    )
    sizes, filled = [len(chunk) for chunk in chunks], 0
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
