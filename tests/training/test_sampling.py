"""Samplings as functions: against plain Python, against the pipeline's balance, and what they cover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records.identity import keyed_hash, keyed_state
from pipeline.stages.balance import BalanceConfig, mode_of
from pipeline.stages.balance.edges import Edges
from pipeline.stages.balance.limit import selection_limit
from pipeline.stages.balance.selection import balance
from pipeline.stages.balance.thresholds import find_thresholds
from training.config import ConceptConfig, MetaclipConfig
from training.data.index import SampleIndex
from training.data.lanes import Lanes, lanes_of
from training.data.sampling import kernel
from training.data.sampling.concept import Concept, flat_cap
from training.data.sampling.distribution import sampling_distribution
from training.data.sampling.followed import Followed, Passing
from training.data.sampling.metaclip import Metaclip, query_limit, seed_of_epoch, shares_of
from training.data.sampling.queries import queries_of, query_counts
from training.data.sampling.sampling import Sampling, Uniform, parts
from training.data.stream import Segment, Stream
from training.errors import DataError

Lists = list[list[int]]


def index_of(lists: Lists, *, num_queries: int | None = None, seed: int = 0) -> SampleIndex:
    """An index of samples that have these queries, and nothing else."""
    ids = np.array([query for queries in lists for query in queries], np.int32)
    none: Any = np.empty(0)
    return SampleIndex(
        paths=(),
        tar_bytes=(),
        versions=(),
        shard_sizes=(len(lists),),
        sizes=(len(lists),),
        shard=np.zeros(len(lists), np.int32),
        offset=none,
        num_bytes=none,
        uid=keyed_hash(seed, np.arange(len(lists), dtype=np.uint64)),
        caption_end=none,
        captions=none,
        num_without_text=0,
        num_without_image=0,
        fingerprint="",
        query_end=np.cumsum([len(queries) for queries in lists], dtype=np.int64),
        queries=ids,
        num_queries=num_queries or int(ids.max(initial=-1)) + 1,
    )


def stream_over(size: int, batch: int, *, seed: int = 3, window: int | None = None) -> Stream:
    shards = [size - size // 3 - size // 4, size // 3, size // 4]
    lanes = () if window is None else ((Lanes.of(shards, window=window, seed=seed),),)
    return Stream(segments=(Segment(sizes=(size,)),), seed=seed, global_batch_size=batch, lanes=lanes)


def zipf(size: int, queries: int, *, seed: int = 0, mean: float = 2.5) -> Lists:
    """Samples with few frequent queries and many rare ones."""
    generator = np.random.default_rng(seed)
    weights = 1 / (np.arange(queries) + 1.0)
    return [
        sorted(set(generator.choice(queries, 1 + generator.poisson(mean), p=weights / weights.sum()).tolist()))
        for _ in range(size)
    ]


def batches_of(sampling: Sampling, count: int) -> list[list[int]]:
    return [sampling.batch(number).tolist() for number in range(count)]


samples_with_queries = st.lists(st.lists(st.integers(0, 12), max_size=5, unique=True), min_size=30, max_size=90)
orders = st.sampled_from([None, 1, 4])


# --- metaclip -----------------------------------------------------------------------------------------------------


def drawn_by_pipeline(lists: Lists, index: SampleIndex, *, limit: int, seed: int) -> list[int]:
    """The samples that a `balance` with mode metaclip keeps where the query's place stands for its text."""
    mode, counts = mode_of("metaclip"), query_counts(index)
    nothing = Edges(
        queries=np.empty(0, np.int32),
        hashes=np.empty(0, np.uint64),
        uids=np.empty(0, "V16"),
        below=np.zeros_like(counts),
    )
    thresholds, _ = find_thresholds(nothing, counts, limit, mode)
    uids = [int(uid).to_bytes(8, "big") + number.to_bytes(8, "big") for number, uid in enumerate(index.uid)]
    batch = pa.RecordBatch.from_pydict(
        {
            "uid": pa.array(uids, pa.binary(16)),
            "query_ids": pa.array(lists, pa.list_(pa.int32())),
            **{name: pa.array([""] * len(lists)) for name in ("source",)},
            **{name: pa.array([0] * len(lists), kind) for name, kind in (("record", pa.int64()), ("link", pa.int32()))},
        }
    )
    hashes = np.arange(len(counts), dtype=np.uint64)
    kept = balance(batch, mode, seed=seed, query_hashes=hashes, thresholds=thresholds).kept
    return [int.from_bytes(uid[8:], "big") for uid in kept["uid"].to_pylist()]


def test_metaclip_draws_what_the_pipelines_balance_would_select() -> None:
    lists = zipf(900, 60)
    index = index_of(lists)
    stream = stream_over(900, 50)
    sampling = Metaclip(stream, index, MetaclipConfig(max_pairs_per_query=25))
    drawn = stream.draw(np.concatenate([sampling.batch(number) for number in range(70)]))
    assert drawn.epochs.max() > 3
    for epoch in range(3):
        selected = drawn_by_pipeline(lists, index, limit=25, seed=seed_of_epoch(3, epoch))
        assert sorted(drawn.samples[drawn.epochs == epoch].tolist()) == sorted(selected)
        assert len(selected) < 800


def test_metaclip_keeps_each_sample_as_often_as_the_rule_says() -> None:
    lists = zipf(400, 40, seed=1)
    index = index_of(lists)
    shares = shares_of(query_counts(index), 12)
    chances = np.array([1 - np.prod([1 - shares[query] for query in queries]) for queries in lists])
    stream = stream_over(400, 20)
    sampling = Metaclip(stream, index, MetaclipConfig(max_pairs_per_query=12))
    assert sampling.shares_kept == (pytest.approx(chances.mean()),)
    epochs = 150
    drawn = stream.draw(np.concatenate([sampling.batch(n) for n in range(int(epochs * chances.sum() / 20) + 20)]))
    seen = np.bincount(drawn.samples[drawn.epochs < epochs], minlength=400)
    assert (np.abs(seen - epochs * chances) <= 5 * np.sqrt(epochs * chances * (1 - chances)) + 1e-6).all()
    # The draws of different epochs have nothing to do with each other: the sum varies as that of independent ones.
    sizes = np.bincount(drawn.epochs)[:epochs]
    assert sizes.std() == pytest.approx(np.sqrt((chances * (1 - chances)).sum()), rel=0.3)


def test_samples_with_a_rare_query_come_once_in_every_epoch() -> None:
    lists = zipf(300, 80)
    index = index_of(lists)
    counts = query_counts(index)
    stream = stream_over(300, 15)
    sampling = Metaclip(stream, index, MetaclipConfig(max_pairs_per_query=6))
    drawn = stream.draw(np.concatenate(batches_of(sampling, 60)))
    rare = [number for number, queries in enumerate(lists) if min(counts[queries]) <= 6]
    for epoch in range(int(drawn.epochs.max())):
        here = Counter(drawn.samples[drawn.epochs == epoch].tolist())
        assert max(here.values()) == 1
        assert set(rare) <= set(here)


@settings(max_examples=20)
@given(samples_with_queries.filter(any), st.integers(1, 12), st.integers(2, 17), orders, st.data())
def test_metaclip_takes_the_kept_positions_in_turn_and_any_batch_alone(
    lists: Lists, limit: int, batch: int, window: int | None, data: st.DataObject
) -> None:
    index = index_of(lists)
    stream = stream_over(len(lists), batch, window=window)
    config = MetaclipConfig(max_pairs_per_query=limit)
    shares = shares_of(query_counts(index), limit)
    kept: list[int] = []
    drawn = stream.draw(np.arange(9 * len(lists)))
    for position, (sample, epoch) in enumerate(zip(drawn.samples.tolist(), drawn.epochs.tolist(), strict=True)):
        uids = np.full(len(lists[sample]), index.uid[sample])
        hashes = keyed_hash(seed_of_epoch(3, epoch), uids, np.array(lists[sample], np.uint64))
        if any(h < s * 2**64 for h, s in zip(hashes.tolist(), shares[lists[sample]].tolist(), strict=True)):
            kept.append(position)
    in_turn = batches_of(Metaclip(stream, index, config), 6)
    wanted = [kept[number * batch : (number + 1) * batch] for number in range(6)]
    for found, expected in zip(in_turn, wanted, strict=True):
        if len(expected) == batch:  # else the reference did not go on for long enough
            assert found == stream.in_lanes(np.array(expected)).tolist()
    sampling = Metaclip(stream, index, config)
    for number in data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=5)):
        assert sampling.batch(number).tolist() == in_turn[number]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.floats(0.01, 0.99), st.integers(1, 60))
def test_t_is_that_of_the_pipeline(counts: list[int], share: float, limit: int) -> None:
    matches = np.array(counts)
    for theirs in (BalanceConfig(mode="metaclip", tail_share=share), BalanceConfig(max_pairs_per_query=limit)):
        ours = MetaclipConfig(max_pairs_per_query=theirs.max_pairs_per_query, tail_share=theirs.tail_share)
        assert query_limit(matches, ours) == selection_limit(matches, theirs, pairs=99)
    head = matches > limit
    theirs_shares = mode_of("metaclip").share(matches[head], limit)
    assert np.array_equal(shares_of(matches, limit)[head], theirs_shares)
    assert (shares_of(matches, limit)[~head] == 1).all()


def test_the_kernels_hash_is_the_keyed_hash() -> None:
    generator = np.random.default_rng(0)
    uids = generator.integers(0, 2**64, 500, np.uint64)
    queries = generator.integers(0, 40, 500).astype(np.int32)
    hashes = keyed_hash(11, uids, queries.astype(np.uint64))
    kept = np.empty(1, np.bool_)
    for number in range(500):
        of = kernel.Queries(np.array([1]), queries[[number]])
        limits = np.zeros(40, np.uint64)
        for limit, holds in ((hashes[number], True), (hashes[number] - np.uint64(1), False)):
            limits[queries[number]] = limit
            kernel.mark_kept(np.array([0]), of, uids[[number]], limits, keyed_state(11), kept)
            assert kept[0] == holds


# --- concept ------------------------------------------------------------------------------------------------------


def slowly_chosen(lists: Lists, batch: int, cap: int) -> list[int]:
    """CABS-DM as its paper describes it, one sample after the other."""
    in_super_batch = Counter(query for queries in lists for query in queries)
    chosen: list[int] = []
    taken: Counter[int] = Counter()

    def gain(queries: list[int]) -> int:
        worth = [
            kernel.UNIT * (cap - taken[query]) // cap + kernel.UNIT // in_super_batch[query]
            for query in queries
            if taken[query] < cap
        ]
        return sum(worth) // max(len(queries), 1)

    while len(chosen) < batch:
        rest = [number for number in range(len(lists)) if number not in chosen]
        best = max(rest, key=lambda number: (gain(lists[number]), -number))
        chosen.append(best)
        taken.update(lists[best])
    return chosen


@settings(max_examples=40)
@given(samples_with_queries, st.integers(1, 12), st.integers(1, 10))
def test_the_fast_choice_is_the_slow_one(lists: Lists, batch: int, cap: int) -> None:
    index = index_of(lists, num_queries=13)
    found = kernel.choose_diverse(queries_of(index), query_counts(index), cap, batch)
    assert found.tolist() == slowly_chosen(lists, batch, cap)


@settings(max_examples=20)
@given(
    samples_with_queries,
    st.integers(2, 9),
    st.integers(2, 3),
    st.sampled_from([None, 1, 3]),
    st.sampled_from(["diversity", "frequency"]),
    orders,
    st.integers(0, 12),
)
def test_a_batch_is_chosen_from_its_own_super_batch(
    lists: Lists, batch: int, ratio: int, cap: int | None, prefer: Any, window: int | None, number: int
) -> None:
    index = index_of(lists, num_queries=13)
    stream = stream_over(len(lists), batch, window=window)
    sampling = Concept(stream, index, ConceptConfig(prefer=prefer, super_batch=ratio, max_pairs_per_query=cap))
    found = sampling.batch(number)
    size = ratio * batch
    assert len(set(stream.draw(found).samples.tolist())) == batch  # no sample twice
    assert set(found.tolist()) <= set(range(number * size, (number + 1) * size))
    # As plain Python chooses.
    positions = np.arange(number * size, (number + 1) * size)
    first = {sample: k for k, sample in reversed(list(enumerate(stream.draw(positions).samples.tolist())))}
    places = sorted(first.values())
    queries = [lists[sample] for sample in stream.draw(positions[places]).samples]
    if prefer == "frequency":
        chosen = sorted(range(len(queries)), key=lambda k: (-len(queries[k]), k))[:batch]
    else:
        counts = Counter(query for one in queries for query in one)
        wanted = counts.total() * batch // len(queries)
        flat = next(
            (c for c in range(1, len(lists) + 1) if sum(min(c, n) for n in counts.values()) >= wanted),
            1,
        )
        chosen = slowly_chosen(queries, batch, cap or flat)
    expected = stream.in_lanes(positions[[places[k] for k in sorted(chosen)]])
    assert found.tolist() == expected.tolist()


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(0, 400))
def test_the_flattest_cap_is_the_smallest_that_gives_enough(counts: list[int], wanted: int) -> None:
    cap = flat_cap(np.array(counts), wanted)
    assert 1 <= cap <= max(1, *counts)
    if sum(counts) >= wanted:
        assert sum(min(count, cap) for count in counts) >= wanted
    assert cap == 1 or sum(min(count, cap - 1) for count in counts) < wanted


def test_concept_sees_a_part_of_each_epoch_and_all_rare_queries() -> None:
    lists = zipf(600, 100, seed=4)
    index, stream = index_of(lists), stream_over(600, 24)
    sampling = Concept(stream, index, ConceptConfig())
    drawn = stream.draw(np.concatenate(batches_of(sampling, 25)))  # five epochs of 600, of which a fifth is taken
    assert set(drawn.epochs.tolist()) == set(range(5))
    assert [int((drawn.epochs == epoch).sum()) for epoch in range(5)] == [120] * 5
    assert max(Counter(zip(drawn.epochs.tolist(), drawn.samples.tolist(), strict=True)).values()) == 1
    # Whatever is rare in a super-batch is in its batch.
    for number in range(25):
        samples = stream.draw(np.arange(120 * number, 120 * (number + 1))).samples
        counts = Counter(query for sample in samples for query in lists[sample])
        taken = {query for s in stream.draw(sampling.batch(number)).samples for query in lists[s]}
        alone = {lists[s][0] for s in samples if len(lists[s]) == 1 and counts[lists[s][0]] == 1}
        assert alone <= taken


def test_frequency_never_takes_what_has_fewer_queries_than_the_batchs_share() -> None:
    lists = [list(range(1 + number % 10)) for number in range(500)]  # a tenth of each length from 1 to 10
    index, stream = index_of(lists), stream_over(500, 20)
    sampling = Concept(stream, index, ConceptConfig(prefer="frequency"))
    lengths = [len(lists[s]) for s in stream.draw(np.concatenate(batches_of(sampling, 50))).samples]
    assert min(lengths) >= 7  # a fifth is taken: those of 9 and 10, as far as a super-batch has its share of them
    assert np.mean(lengths) > 9


def test_a_super_batch_beyond_the_set_is_one_clear_line() -> None:
    with pytest.raises(DataError, match=r"super_batch 5 of a global batch of 20 is more than the 99 samples.*lower"):
        Concept(stream_over(99, 20), index_of([[0]] * 99), ConceptConfig())
    with pytest.raises(DataError, match="no caption of the set contains a query"):
        Metaclip(stream_over(99, 20), index_of([[]] * 99), MetaclipConfig())


# --- several data sets --------------------------------------------------------------------------------------------


SIZES, WEIGHTS = (400, 90, 150), (6.0, 1.0, 3.0)


def mixed(
    *, weights: tuple[float, ...] = WEIGHTS, window: int | None = None, batch: int = 20
) -> tuple[SampleIndex, Stream]:
    """Three data sets, whose lists of queries have nothing to do with each other."""
    sets = [zipf(size, 30 + size // 10, seed=size) for size in SIZES]
    ends, lists = list[int](), Lists()
    for one in sets:
        first = ends[-1] if ends else 0
        lists += [[first + query for query in queries] for queries in one]
        ends.append(first + 30 + len(one) // 10)
    index = replace(index_of(lists, num_queries=ends[-1]), sizes=SIZES, queries_end=tuple(ends))
    lanes: tuple[tuple[Lanes, ...], ...] = ()
    if window is not None:
        shards = [part for size in SIZES for part in (size // 3, size - size // 3)]
        lanes = (lanes_of(shards, SIZES if weights else (sum(SIZES),), window=window, seed=3),)
    segment = Segment(sizes=SIZES if weights else (sum(SIZES),))
    return index, Stream(segments=(segment,), seed=3, global_batch_size=batch, weights=weights, lanes=lanes)


@pytest.mark.parametrize("window", [None, 2])
def test_metaclip_takes_of_each_data_set_what_it_keeps_by_itself_and_by_weight(window: int | None) -> None:
    index, stream = mixed(window=window)
    sampling = Metaclip(stream, index, MetaclipConfig(max_pairs_per_query=7))
    assert len(set(sampling.shares_kept)) == 3
    limits, counts = shares_of(query_counts(index), 7), Counter[int]()
    kept: list[Iterator[tuple[int, int]]] = []
    of = queries_of(index)
    for number, size in enumerate(SIZES):
        first = sum(SIZES[:number])
        drawn = stream.set_of(number).draw(np.arange(25 * size))
        one: list[tuple[int, int]] = []
        for sample, epoch in zip((drawn.samples + first).tolist(), drawn.epochs.tolist(), strict=True):
            queries = of.queries[of.ends[sample - 1] if sample else 0 : of.ends[sample]].astype(np.uint64)
            hashes = keyed_hash(seed_of_epoch(3, epoch), np.full(len(queries), index.uid[sample]), queries)
            if any(h < limits[q] * 2**64 for h, q in zip(hashes.tolist(), queries.tolist(), strict=True)):
                one.append((epoch, sample))
        kept.append(iter(one))
    for number in range(80):
        drawn = stream.draw(sampling.batch(number))
        sets = stream.sets(np.arange(20 * number, 20 * number + 20)).tolist()
        expected = [next(kept[one]) for one in sets]
        found = list(zip(drawn.epochs.tolist(), drawn.samples.tolist(), strict=True))
        assert sorted(found) == sorted(expected)
        assert window is not None or found == expected
        counts.update(sets)
        if number in (7, 79):  # and from the middle, by one that has seen nothing
            again = Metaclip(stream, index, MetaclipConfig(max_pairs_per_query=7))
            assert again.batch(number).tolist() == sampling.batch(number).tolist()
    assert [counts[number] / 1600 for number in range(3)] == pytest.approx([0.6, 0.1, 0.3], abs=0.03)


def test_each_data_set_has_a_t_of_its_own() -> None:
    index, stream = mixed()
    config = MetaclipConfig(tail_share=0.3)
    parts_of = np.split(query_counts(index), index.queries_end[:-1])
    wanted = tuple(query_limit(counts, config) for counts in parts_of)
    assert len(set(wanted)) > 1
    assert Metaclip(stream, index, config).limits == wanted
    as_one, stream = mixed(weights=())
    assert Metaclip(stream, as_one, config).limits == wanted


def test_positions_of_a_data_set_are_where_it_stands_in_the_stream() -> None:
    _, stream = mixed()
    positions = np.arange(10_000)
    sets, drawn = stream.sets(positions), stream.draw(positions)
    for number, size in enumerate(SIZES):
        there = stream.set_positions(number, np.arange(500))
        assert (sets[there] == number).all()
        alone = stream.set_of(number).draw(np.arange(500))
        assert (drawn.samples[there] == alone.samples + sum(SIZES[:number])).all()
        assert (drawn.epochs[there] == alone.epochs).all()
        assert drawn.epochs[there].max() == 499 // size
    for stop in (0, 1, 4095, 4096, 9_999):
        assert stream.set_counts(stop).tolist() == np.bincount(sets[:stop], minlength=3).tolist()


@pytest.mark.parametrize("prefer", ["diversity", "frequency"])
def test_concept_chooses_from_the_mixtures_positions(prefer: Any) -> None:
    # The second: so small, and of so large a weight, that it comes several times in a super-batch.
    for weights, batch in ((WEIGHTS, 20), ((1.0, 1000.0, 1.0), 60)):
        index, stream = mixed(weights=weights, batch=batch)
        sampling = Concept(stream, index, ConceptConfig(prefer=prefer))
        for number in range(6):
            found = sampling.batch(number)
            assert len(set(found.tolist())) == batch
            assert set(found.tolist()) <= set(range(5 * batch * number, 5 * batch * (number + 1)))
            samples = stream.draw(found).samples
            assert len(set(samples.tolist())) == batch


def test_a_set_without_queries_is_told_by_its_place() -> None:
    index = replace(index_of([[0]] * 50 + [[]] * 40, num_queries=1), sizes=(50, 40), queries_end=(1, 1))
    stream = Stream(segments=(Segment(sizes=(50, 40)),), seed=1, global_batch_size=10, weights=(1.0, 1.0))
    with pytest.raises(DataError, match="no caption of data set 2 of the mixture contains a query"):
        Metaclip(stream, index, MetaclipConfig())


# --- data that grows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("name", ["metaclip", "diversity"])
def test_each_snapshot_is_sampled_by_its_own_queries_for_one_pass(name: str, window: int | None) -> None:
    lists = zipf(700, 60)
    indexes = [index_of(lists[:size]) for size in (300, 450, 700)]
    segments: list[Segment] = []
    lanes: list[tuple[Lanes, ...]] = []
    alone: list[Passing] = []
    samples: list[int] = []  # of the whole stream, in the order of the run
    for number, index in enumerate(indexes):
        start = sum(map(len, indexes[:number]))
        segments.append(Segment(sizes=(len(index),), start=start, first_epoch=number, first_sample=len(samples)))
        lanes.append((Lanes.of([100, len(index) - 100], window=window or 1, seed=3),))
        stream = Stream(segments=tuple(segments), seed=3, global_batch_size=20, lanes=tuple(lanes) if window else ())
        by_itself = stream.segment_of(number)
        made = samplings(by_itself, index)[name]
        assert isinstance(made, Metaclip | Concept)
        alone.append(made)
        taken = made.samples_a_pass
        assert 0 < taken < len(index)
        if name == "diversity":
            assert taken == len(index) // 100 * 20
        passed = np.concatenate([made.batch(n) for n in range(-(-taken // 20))])
        epochs = by_itself.draw(passed).epochs
        assert (epochs[: taken - 20] == number).all()
        if window is None:
            assert (epochs[:taken] == number).all()
            assert (epochs[taken:] == number + 1).all()  # what the batch took of a pass that there is not
        samples += (start + passed[:taken]).tolist()
        followed = Followed(stream, alone)
        assert followed.end == len(samples)
    for first in range(len(samples) // 20):
        found = followed.batch(first)
        assert stream.draw(found).segments.tolist() == sorted(stream.draw(found).segments.tolist()) or window
        if window is None:
            assert found.tolist() == samples[20 * first : 20 * first + 20]
        else:
            assert len(set(found.tolist())) == 20
    later = Followed(replace(stream, segments=stream.segments[1:], lanes=stream.lanes[1:]), alone[1:])
    number = segments[2].first_sample // 20
    assert later.batch(number).tolist() == followed.batch(number).tolist()


# --- all ----------------------------------------------------------------------------------------------------------


def samplings(stream: Stream, index: SampleIndex) -> dict[str, Sampling]:
    return {
        "uniform": Uniform(stream),
        "metaclip": Metaclip(stream, index, MetaclipConfig(max_pairs_per_query=20)),
        "diversity": Concept(stream, index, ConceptConfig()),
        "frequency": Concept(stream, index, ConceptConfig(prefer="frequency")),
    }


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("name", ["uniform", "metaclip", "diversity", "frequency", "metaclip of a mixture"])
def test_every_world_size_sees_the_same_batches_from_wherever_it_begins(name: str, window: int | None) -> None:
    index, stream = index_of(zipf(500, 50)), stream_over(500, 24, window=window)
    if name.endswith("mixture"):
        name, (index, stream) = "metaclip", mixed(window=window, batch=24)
    alone = batches_of(samplings(stream, index)[name], 30)
    for ranks in (1, 2, 5):
        for first in (0, 11, 29):
            found = [
                list(parts(samplings(stream, index)[name], start=24 * first, stop=720, rank=rank, world_size=ranks))
                for rank in range(ranks)
            ]
            joined = [np.concatenate(pieces).tolist() for pieces in zip(*found, strict=True)]
            assert joined == alone[first:]


def test_an_error_of_the_choice_is_raised_where_the_batch_is_waited_for() -> None:
    class Later:
        batch_size = 4
        positions_a_batch = 4.0

        def batch(self, number: int) -> Any:
            if number == 2:
                raise DataError("no such batch")
            return np.arange(4)

    found = parts(Later(), start=0, stop=16, rank=0, world_size=1)
    assert [len(next(found)), len(next(found))] == [4, 4]
    with pytest.raises(DataError, match="no such batch"):
        next(found)


@pytest.mark.parametrize("name", ["uniform", "metaclip"])
def test_the_distribution_over_a_mixture_goes_by_its_weights(name: str) -> None:
    index, stream = mixed(batch=50)
    sampling = samplings(stream, index)[name]
    told, of = sampling_distribution(sampling, stream, index), queries_of(index)
    counts = np.zeros(index.num_queries, np.int64)
    samples = stream.draw(np.concatenate(batches_of(sampling, 300))).samples
    kernel.add_counts(kernel.gather(samples, of).queries, counts)
    assert np.abs(counts / counts.sum() - told.shares).max() < 0.005
    assert told.queries_a_sample == pytest.approx(counts.sum() / len(samples), rel=0.02)


def test_the_distribution_over_queries_is_that_of_many_batches() -> None:
    lists = zipf(1000, 80)
    index, stream = index_of(lists), stream_over(1000, 50)
    tails = {}
    for name, sampling in samplings(stream, index).items():
        told = sampling_distribution(sampling, stream, index, num_batches=40)
        assert told.shares.sum() == pytest.approx(1)
        number = 40 if name in ("diversity", "frequency") else 400
        samples = stream.draw(np.concatenate(batches_of(sampling, number))).samples
        seen = Counter(query for sample in samples for query in lists[sample])
        shares = np.array([seen[query] for query in range(index.num_queries)]) / seen.total()
        assert np.abs(shares - told.shares).max() < 0.005
        assert told.queries_a_sample == pytest.approx(seen.total() / len(samples), rel=0.02)
        tails[name] = told.tail_share(20)
    assert tails["frequency"] < 2 * tails["uniform"]
    assert min(tails["metaclip"], tails["diversity"]) > 1.2 * tails["uniform"]
    assert sampling_distribution(Uniform(stream), stream, index).samples_an_epoch == 1000
    assert sampling_distribution(Concept(stream, index, ConceptConfig()), stream, index).samples_an_epoch == 200
