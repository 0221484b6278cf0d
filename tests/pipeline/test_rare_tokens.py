"""Rare tokens, pictures with many captions, captions of many words: what ALIGN's curation asks for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import ConfigError
from pipeline.engine import EngineConfig, open_engine
from pipeline.stages.clean.clean import Clean, clean
from pipeline.stages.clean.config import CleanConfig
from pipeline.steps import rare_tokens
from pipeline.steps.dedup import dedup
from pipeline.steps.dedup_config import DedupConfig
from pipeline.steps.rare_tokens import tokens_of
from pipeline.steps.step import Page
from pipeline.steps.texts_config import TextsConfig
from tests.pipeline.pages import run_page
from tests.pipeline.test_steps_select import PARTITIONS, exchanged_data, make_rows, page_at, queries_data

Row = dict[str, Any]


def _rows(pairs: Sequence[tuple[int, str]]) -> list[Row]:
    """Links of (picture, caption)."""
    base = make_rows(1, 1)[0]
    return [
        {
            **base,
            "url_id": bytes([url]) * 16,  # spreads over the partitions
            "uid": bytes([url]) * 8 + f"{sum(caption.encode()):08d}".encode(),
            "url": f"http://a.b/{url}",
            "caption": caption,
            "record": record,
        }
        for record, (url, caption) in enumerate(pairs)
    ]


def _run(root: Path, rows: Sequence[Row], config: DedupConfig, files: int = 3) -> tuple[list[Row], list[Row], Page]:
    """(kept, rejected, page) of all steps."""
    page = page_at(root)
    texts = TextsConfig(partitions=PARTITIONS)
    unique = dedup(page, exchanged_data(page, rows, files), queries_data(page), texts, config)
    with open_engine(EngineConfig(kind="inline")) as engine:
        run_page(page, engine)
    kept = [row for part in unique.parts for row in pq.read_table(part.files.unique.path).to_pylist()]
    rejected = [row for part in unique.parts for row in pq.read_table(part.files.rejections.path).to_pylist()]
    return kept, rejected, page


def _oracle(rows: Sequence[Row], config: DedupConfig) -> dict[tuple[bytes, str], str | None]:
    """(picture, caption) -> why it goes, in plain Python."""
    pairs = dict.fromkeys((row["url_id"], row["caption"]) for row in rows)
    captions: dict[bytes, int] = Counter(url for url, _ in pairs)
    urls: dict[str, int] = Counter(caption for _, caption in pairs)
    counts = Counter(token for _, caption in pairs for token in tokens_of(caption))
    frequent: set[str] = set()
    if config.frequent_tokens is not None:
        by_count: dict[int, list[str]] = defaultdict(list)
        for token, count in counts.items():
            by_count[count].append(token)
        for count in sorted(by_count, reverse=True):
            if len(frequent) + len(by_count[count]) > config.frequent_tokens:
                break
            frequent.update(by_count[count])

    def why(url: bytes, caption: str) -> str | None:
        if config.max_urls_per_caption is not None and urls[caption] > config.max_urls_per_caption:
            return "boilerplate_caption"
        if config.frequent_tokens is not None and not frequent.issuperset(tokens_of(caption)):
            return "rare_token"
        if config.max_captions_per_url is not None and captions[url] > config.max_captions_per_url:
            return "too_many_captions"
        return None

    return {pair: why(*pair) for pair in pairs}


_LIMITS = st.builds(
    DedupConfig,
    by=st.just("pair"),
    max_urls_per_caption=st.sampled_from([None, 2]),
    max_captions_per_url=st.sampled_from([None, 1, 2]),
    frequent_tokens=st.sampled_from([None, 1, 3, 5, 100]),
)
_CAPTIONS = st.lists(st.sampled_from(["A", "b", "ü-c"]), max_size=4).map(" ".join)


@settings(max_examples=5)
@given(st.lists(st.tuples(st.integers(0, 255), _CAPTIONS), max_size=25), _LIMITS, st.integers(1, 3))
def test_what_goes_equals_the_oracle_whatever_the_files(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int, str]], config: DedupConfig, files: int
) -> None:
    rows = _rows([(url // 64 * 64, caption) for url, caption in pairs])
    kept, rejected, _ = _run(tmp_path_factory.mktemp("run"), rows, config, files)
    expected = _oracle(rows, config)
    assert {(row["url_id"], row["caption"]) for row in kept} == {pair for pair, why in expected.items() if why is None}
    found = Counter(row["reason"] for row in rejected if row["reason"] != "duplicate")
    assert found == Counter(why for why in expected.values() if why is not None)


def test_equal_tokens_are_frequent_together_or_not_at_all(tmp_path: Path) -> None:
    rows = _rows([(0, "a b"), (100, "a b"), (200, "a c"), (250, "a d")])
    # a: 4; b, "a b": 2; c, "a c", d, "a d": 1
    for number, (most, least) in enumerate([(2, 3), (3, 2), (6, 2), (7, 1)]):
        config = DedupConfig(by="pair", frequent_tokens=most)
        kept, rejected, page = _run(tmp_path / str(number), rows, config)
        told = page["token_limit"].data.only.info
        assert (told["least"], told["tokens"]) == (least, 7)
        assert sorted(row["caption"] for row in kept) == {3: [], 2: ["a b"] * 2, 1: ["a b", "a b", "a c", "a d"]}[least]
        details = sorted(row["detail"] for row in rejected)
        assert details == {3: ["b", "b", "c", "d"], 2: ["c", "d"], 1: []}[least]  # the first of each, words first


def test_copies_of_a_pair_count_once_and_a_word_twice_in_a_caption_twice(tmp_path: Path) -> None:
    rows = _rows([(0, "x x"), (0, "x x"), (0, "x x"), (100, "y z"), (200, "y z")])
    _, rejected, page = _run(tmp_path, rows, DedupConfig(by="pair", frequent_tokens=4))
    told = page["token_limit"].data.only.info
    assert (told["least"], told["tokens"], told["frequent"]) == (2, 5, 4)  # x, y, z, "y z"; and "x x" once
    assert [(row["reason"], row["detail"]) for row in rejected] == [("rare_token", "x x")]


def test_a_picture_with_too_many_captions_loses_all_of_them(tmp_path: Path) -> None:
    rows = _rows([(0, f"caption {n}") for n in range(3)] + [(100, f"caption {n}") for n in range(2)])
    kept, rejected, _ = _run(tmp_path, rows, DedupConfig(by="url", max_captions_per_url=2))
    assert [row["url_id"][0] for row in kept] == [100]
    assert sorted((row["reason"], row["detail"]) for row in rejected) == [
        ("other_caption", None),
        *[("too_many_captions", "3")] * 3,
    ]


def test_tokens_that_are_counted_twice_are_the_same_bytes_and_memory_changes_nothing(tmp_path: Path) -> None:
    rows = make_rows(200, 40)
    one = _run(tmp_path / "one", rows, DedupConfig(by="pair", frequent_tokens=3, memory_mb=64))
    other = _run(tmp_path / "other", rows[::-1], DedupConfig(by="pair", frequent_tokens=3), files=1)
    assert one[0] == other[0]
    for name in ("tokens", "token_counts", "token_limit", "rare_tokens"):
        files = [sorted(page.run.directory(name).glob("*.[np]*")) for page in (one[2], other[2])]
        assert len(files[0]) == len(files[1]) > 0
        assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_tokens_are_words_as_matching_has_them_and_their_bigrams() -> None:
    assert tokens_of("Red car, RED-hot!") == ["red", "car", "red", "hot", "red car", "car red", "red hot"]
    assert tokens_of("...") == []


def test_of_many_digests_only_equal_ones_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros at the end of a digest count, though NumPy's strings of bytes end before them."""
    digests = {"a": b"\1" + bytes(15), "b": b"\1" + bytes(14) + b"\1", "c": bytes(16)}
    monkeypatch.setattr(rare_tokens.xxhash, "xxh3_128_digest", lambda text: digests.get(text.decode(), b"\2" * 16))
    found = rare_tokens.RareTokens.__new__(rare_tokens.RareTokens)
    found._digests = rare_tokens._bytes_of(pa.chunked_array([pa.array([digests["a"]], pa.binary(16))]))
    assert found.first_in(pa.array(["b c", "b a", "a"])).to_pylist() == [None, "a", "a"]


def test_impossible_limits_are_config_errors() -> None:
    for name in ("max_captions_per_url", "frequent_tokens"):
        with pytest.raises(ConfigError, match=name):
            DedupConfig(**{name: 0})


# --- captions of many words -----------------------------------------------------------------------


def _batch(texts: list[str]) -> pa.RecordBatch:
    rows = [{**make_rows(1, 1)[0], "alt_text": text} for text in texts]
    names = ["uid", "source", "record", "link", "alt_text"]
    return pa.RecordBatch.from_pylist([{name: row[name] for name in names} for row in rows])


def test_captions_of_too_many_words_are_too_long() -> None:
    texts = ["one two three", " one  two three four ", "one two", "\u00fcber two three four", "IMG_1234.jpg"]
    outcome = clean(_batch(texts), CleanConfig(max_words=3))
    assert outcome.kept["caption"].to_pylist() == ["one two three", "one two"]
    assert outcome.rejected["reason"].to_pylist() == ["too_long", "too_long", "file_name"]


def test_who_sets_no_limit_of_words_does_no_work_again() -> None:
    parts = Clean(config=CleanConfig()).key_parts()
    assert "max_words" not in parts[2]["config"]
    assert "max_words" in str(Clean(config=CleanConfig(max_words=9)).key_parts())


def test_words_limit_below_the_least_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="max_words"):
        CleanConfig(min_words=3, max_words=2)
