"""The modes of balance: the list of them, what a mode decides, and the one chain that solves for all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from configs.help import describe
from configs.load import ConfigError, from_mapping
from pipeline.records.identity import text_hash
from pipeline.stages.balance import MODES, BalanceConfig, Mode, mode_of, modes
from pipeline.stages.balance.edges import edges_of, gather_from
from pipeline.stages.balance.limit import selection_limit
from pipeline.stages.balance.selection import balance
from pipeline.stages.balance.thresholds import Thresholds, solve
from pipeline.stages.balance.windows import Windows, find_windows

QUERIES = 8
NAMES = [mode.name for mode in MODES]


def test_every_file_of_the_room_is_a_mode_of_the_list() -> None:
    files = {path.stem for path in Path(modes.__file__).parent.glob("*.py")} - {"__init__", "mode"}
    assert [type(mode).__module__.rpartition(".")[2] for mode in MODES] == NAMES
    assert sorted(NAMES) == sorted(files)
    assert all(mode.says and type(mode).__doc__ for mode in MODES)


def test_mode_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=f"'quotas' is not one of {', '.join(NAMES)}; did you mean 'quota'"):
        from_mapping(BalanceConfig, {"mode": "quotas"})
    with pytest.raises(ConfigError, match=f"'quotas' is not one of {', '.join(NAMES)}"):
        BalanceConfig(mode="quotas")
    with pytest.raises(ConfigError, match=r"goes with mode .*none"):
        BalanceConfig(mode="metaclip", baseline_pairs=5)


def test_help_says_what_each_mode_is() -> None:
    text = describe(BalanceConfig)
    assert f'--mode  {" | ".join(NAMES)}  ["quota"]' in text
    lines = " ".join(text.split())
    assert all(f"{mode.name}: {mode.says}" in lines for mode in MODES)


def test_config_and_modes_load_no_arrays() -> None:
    code = (
        "import sys, pipeline.stages.balance.config, pipeline.stages.balance.modes as modes;"
        "print([name for name in ('numpy', 'pyarrow', 'numba') if name in sys.modules], bool(modes.MODES))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "True"]


def _batches(pieces: int) -> list[pa.RecordBatch]:
    generator = np.random.default_rng(2)
    rows = [(generator.bytes(16), sorted({int(q) for q in generator.integers(0, QUERIES, 3)})) for _ in range(900)]
    return [
        pa.RecordBatch.from_pydict(
            {
                "uid": pa.array([uid for uid, _ in rows[i::pieces]], pa.binary(16)),
                "query_ids": pa.array([ids for _, ids in rows[i::pieces]], pa.list_(pa.int32())),
                "source": pa.array(["s"] * len(rows[i::pieces])),
                "record": pa.array(range(len(rows[i::pieces])), pa.int64()),
                "link": pa.array([0] * len(rows[i::pieces]), pa.int32()),
            }
        )
        for i in range(pieces)
    ]


def _hashes() -> np.ndarray:
    return np.array([text_hash(f"query {i}") for i in range(QUERIES)], np.uint64)


class _Solved:
    """`solve` over pieces of one set, and how often it asked for them."""

    def __init__(self, mode: Mode, t: int, *, pieces: int = 3, windows: Windows | None = None) -> None:
        self.asked = 0
        self._held = _batches(pieces)
        matches = np.bincount(np.concatenate([b["query_ids"].flatten() for b in self._held]), minlength=QUERIES)
        self.counts = mode.counts(matches, 900)
        gather = gather_from(self._batches, mode, seed=5, query_hashes=_hashes())
        gathered = None
        if windows is not None:
            below = np.zeros(len(self.counts), np.int64)
            gathered = edges_of(gather(windows, below), below)
            self.asked = 0
        self.thresholds, self.again = solve(gather, self.counts, t, mode, gathered=gathered)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        self.asked += 1
        yield from self._held


def _equal(one: Thresholds, other: Thresholds) -> bool:
    return np.array_equal(one.hashes, other.hashes) and one.uids.tobytes() == other.uids.tobytes()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_edges_that_were_gathered_before_give_the_same_thresholds(mode: Mode) -> None:
    plain = _Solved(mode, 50)
    assert (plain.asked, plain.again) == (1, 0)
    given = _Solved(mode, 50, pieces=1, windows=find_windows(plain.counts, 50))
    assert (given.asked, given.again) == (0, 0)
    assert _equal(plain.thresholds, given.thresholds)


@pytest.mark.parametrize("mode", [mode_of("quota"), mode_of("coordinated")], ids=lambda mode: mode.name)
def test_queries_whose_window_failed_are_gathered_again_and_no_others(mode: Mode) -> None:
    plain = _Solved(mode, 50)
    windows = find_windows(plain.counts, 50)
    windows.lows[2], windows.highs[2] = 2**63, 2**64 - 1
    windows.highs[5] = windows.lows[5]
    missed = _Solved(mode, 50, windows=windows)
    assert (missed.asked, missed.again) == (1, 2)
    assert _equal(plain.thresholds, missed.thresholds)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_set_without_a_head_query_is_not_read(mode: Mode) -> None:
    solved = _Solved(mode, 900)
    assert (solved.asked, solved.again) == (0, 0)
    assert (solved.thresholds.hashes == np.uint64(2**64 - 1)).all()


def test_nameless_query_stands_for_the_whole_set() -> None:
    mode = mode_of("none")
    (batch,) = _batches(1)
    offsets, queries = mode.edges(batch["query_ids"])
    assert offsets.tolist() == list(range(901))
    assert not queries.any()
    assert selection_limit(np.full(QUERIES, 300), BalanceConfig(mode="none"), pairs=900) == 900
    limit = selection_limit(np.full(QUERIES, 300), BalanceConfig(mode="none", baseline_pairs=40), pairs=900)
    solved = _Solved(mode, limit)
    assert solved.counts.tolist() == [900]
    kept = balance(batch, mode, seed=5, query_hashes=_hashes(), thresholds=solved.thresholds).kept
    assert kept.num_rows == 40
    assert kept["selected_by"].to_pylist() == kept["query_ids"].to_pylist()


class _Tempered(Mode):
    """A mode of one's own: independent draws with the square root of MetaCLIP's probability."""

    name = "tempered"
    says = "independent draws with the square root of t / count"

    def share(self, counts: np.ndarray, limit: int) -> np.ndarray:
        return (limit / counts) ** 0.5


def test_another_share_needs_nothing_but_its_mode() -> None:
    (batch,) = _batches(1)
    solved = _Solved(_Tempered(), 50)
    kept = balance(batch, _Tempered(), seed=5, query_hashes=_hashes(), thresholds=solved.thresholds).kept
    selected = np.bincount(kept["selected_by"].flatten(), minlength=QUERIES)
    expected = (50 * solved.counts) ** 0.5
    assert (np.abs(selected - expected) < 5 * expected**0.5).all()
