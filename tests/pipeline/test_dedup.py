"""What counts as the same pair, which caption of a picture stays, and captions that stand everywhere."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import ConfigError
from pipeline.engine import EngineConfig, open_engine
from pipeline.pages import is_reason
from pipeline.records.identity import first_64_bits, keyed_hash
from pipeline.records.ledger import Line, totals
from pipeline.steps.dedup import DedupConfig, dedup
from pipeline.steps.texts_config import TextsConfig
from tests.pipeline.pages import run_page
from tests.pipeline.test_steps_select import PARTITIONS, QUERIES, exchanged_data, make_rows, page_at, queries_data

Row = dict[str, Any]
SEED = 7


def _dedup(root: Path, rows: Sequence[Row], config: DedupConfig, files: int = 3) -> tuple[list[Row], list[Line]]:
    page = page_at(root, seed=SEED)
    texts = TextsConfig(partitions=PARTITIONS)
    unique = dedup(page, exchanged_data(page, rows, files), queries_data(page), texts, config)
    with open_engine(EngineConfig(kind="inline")) as engine:
        run_page(page, engine)
    kept = [row for part in unique.parts for row in pq.read_table(part.files.unique.path).to_pylist()]
    counts = sum(np.load(part.files.counts.path) for part in unique.parts)
    expected = np.bincount([q for row in kept for q in row["query_ids"]], minlength=QUERIES)
    assert np.array_equal(counts, expected) or not kept
    assert unique.total("kept") == len(kept)
    steps = [page[name].data for name in ("pairs", "dedup") if name in page]
    for part in [part for data in steps for part in data.parts]:
        for row in pq.read_table(part.files.rejections.path).to_pylist():
            assert is_reason(row["stage"], row["reason"])
    return kept, totals([told for data in steps for told in data.said()])


def _draw(row: Row) -> int:
    return int(keyed_hash(SEED, first_64_bits(row["uid"]))[0])


def _oracle(rows: Sequence[Row], config: DedupConfig) -> list[Row]:
    """Groups in plain Python: copies, then boilerplate, then one a picture."""
    pairs: dict[tuple[bytes, str], list[Row]] = defaultdict(list)
    for row in rows:
        pairs[row["url_id"], row["caption"]].append(row)
    where: Callable[[Row], tuple[Any, ...]] = lambda r: (r["uid"], r["source"], r["record"], r["link"])  # noqa: E731
    if config.max_urls_per_caption is not None:
        urls: dict[str, set[bytes]] = defaultdict(set)
        for url_id, caption in pairs:
            urls[caption].add(url_id)
        pairs = {pair: copies for pair, copies in pairs.items() if len(urls[pair[1]]) <= config.max_urls_per_caption}
        pairs = {pair: [min(copies, key=where)] for pair, copies in pairs.items()}
    if config.by == "pair":
        return [min(copies, key=where) for copies in pairs.values()]
    pictures: dict[bytes, list[Row]] = defaultdict(list)
    for (url_id, _), copies in pairs.items():
        pictures[url_id] += copies
    best = (lambda r: -r["p_en"]) if config.keep == "best" else (lambda _: 0)
    return [min(rows, key=lambda r: (best(r), _draw(r), *where(r))) for rows in pictures.values()]


CONFIGS = [
    DedupConfig(by=by, keep=keep, max_urls_per_caption=limit)
    for by, keep, limit in itertools.product(("pair", "url"), ("hash", "best"), (None, 3))
]


def _place(row: Row) -> tuple[Any, ...]:
    return row["uid"], row["source"], row["record"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.by}-{c.keep}-{c.max_urls_per_caption}")
def test_what_stays_equals_the_oracle(tmp_path: Path, config: DedupConfig) -> None:
    rows = make_rows(300, 40)
    for i, row in enumerate(rows):
        row["p_en"] = 0.25 * (hash_of(row["caption"]) % 4)
        if i % 3 == 0:  # captions of few pictures beside those that stand on many
            row["caption"] = f"{row['caption']} of {row['url']}"
    kept, lines = _dedup(tmp_path, rows, config)
    assert sorted(map(_place, kept)) == sorted(map(_place, _oracle(rows, config)))
    flow = {line.stage: line for line in lines}
    assert flow["dedup"].rows_in == 300
    last = flow.get("captions", flow["dedup"])
    assert last.kept == len(kept)
    if config.max_urls_per_caption is not None:
        assert last.rows_in == flow["dedup"].kept
        assert last.rejected["boilerplate_caption"] > 0


def hash_of(text: str) -> int:
    return sum(text.encode())


def test_boilerplate_is_cut_above_the_limit_and_counts_pictures_not_rows(tmp_path: Path) -> None:
    base = make_rows(1, 1)[0]

    def row(url: int, caption: str, record: int) -> Row:
        ids = {"url_id": bytes([url]) * 16, "uid": bytes([url, hash_of(caption) % 251]) * 8}
        return {**base, **ids, "url": f"http://a.b/{url}", "caption": caption, "record": record}

    rows = [row(url, "on three", url) for url in range(3)]
    rows += [row(url, "on four", 10 + url) for url in range(4)]
    rows += [row(9, "many copies of one", 20 + i) for i in range(9)]
    kept, lines = _dedup(tmp_path, rows, DedupConfig(by="pair", max_urls_per_caption=3))
    assert sorted(r["caption"] for r in kept) == ["many copies of one"] + ["on three"] * 3
    assert {line.stage: line.rejected for line in lines} == {
        "dedup": {"duplicate": 8},
        "captions": {"boilerplate_caption": 4},
    }


@settings(max_examples=10)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=14),
    st.sampled_from(CONFIGS),
    st.integers(1, 4),
)
def test_order_and_files_play_no_part(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[int, int]], config: DedupConfig, files: int
) -> None:
    rows = [
        {**row, "url_id": bytes([url]) * 16, "uid": bytes([url, text]) * 8, "caption": f"t{text}", "p_en": text / 4}
        for row, (url, text) in zip(make_rows(len(links), 5), links, strict=True)
    ]
    for row in rows:
        row["query_ids"] = [hash_of(row["caption"]) % QUERIES]
    one, _ = _dedup(tmp_path_factory.mktemp("one"), rows, config, files=1)
    other, _ = _dedup(tmp_path_factory.mktemp("other"), rows[::-1], config, files=files)
    assert one == other
    assert sorted(map(_place, one)) == sorted(map(_place, _oracle(rows, config)))


def test_memory_limit_spills_and_changes_nothing(tmp_path: Path) -> None:
    rows = make_rows(400, 60)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    small, _ = _dedup(tmp_path / "a", rows, DedupConfig(memory_mb=64))
    large, _ = _dedup(tmp_path / "b", rows, DedupConfig(memory_mb=4096))
    assert small == large
    assert not list(tmp_path.rglob("*.spill*"))


def test_impossible_limits_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="max_urls_per_caption"):
        DedupConfig(max_urls_per_caption=0)
    with pytest.raises(ConfigError, match="memory_mb"):
        DedupConfig(memory_mb=1)
