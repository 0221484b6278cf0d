"""Matching, held to two naive oracles: the published rule letter by letter, and words one by one."""

from __future__ import annotations

import csv
import gzip
import io
import re
import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import ConfigError
from pipeline.errors import QueryListError
from pipeline.matching.characters import fold_case, word_spans, words
from pipeline.matching.config import MatchConfig
from pipeline.matching.matcher import Matcher, can_match, normal_form
from pipeline.records.queries import query_list_of
from pipeline.stages.match import Match, match
from pipeline.storage.location import Files

Case = Literal["smart", "fold", "exact"]
CASES: tuple[Case, ...] = ("smart", "fold", "exact")
METACLIP = MatchConfig(rule="metaclip")


SOUTH_EAST = ("THAI", "LAO", "KHMER", "MYANMAR")


# --- the oracles --------------------------------------------------------------------------------


def naive_settled(text: str) -> str:
    """Letters and numbers in their plain form, where that is letters, numbers and marks."""

    def is_word(c: str) -> bool:
        return unicodedata.category(c)[0] in "LNM"

    plain = ""
    for c in unicodedata.normalize("NFC", text):
        other = unicodedata.normalize("NFKC", c)
        is_form = unicodedata.category(c)[0] in "LN" and all(map(is_word, other))
        plain += other if is_form else c
    return unicodedata.normalize("NFC", plain)


def naive_words(text: str, forms: bool = True) -> list[str]:
    """Character by character, straight from docs/matching.md."""
    found: list[str] = []
    current = ""
    spaceless = False
    for c in naive_settled(text) if forms else unicodedata.normalize("NFC", text):
        category = unicodedata.category(c)
        if (category == "Cf" and c != "\u200b") or 0xFE00 <= ord(c) <= 0xFE0F or 0xE0100 <= ord(c) <= 0xE01EF:
            continue
        if category.startswith("M"):
            current += c
            continue
        if not category.startswith(("L", "N")):
            found.append(current)
            current, spaceless = "", False
            continue
        script = unicodedata.name(c, "").replace("HALFWIDTH ", "")
        alone = script.startswith(
            ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", *SOUTH_EAST)
        )
        if alone or spaceless:
            found.append(current)
            current = ""
        current += c
        spaceless = alone
    found.append(current)
    return [word for word in found if word]


def naive_fold(text: str) -> str:
    return "".join(
        next((f for f in (c.casefold(), c.lower()) if len(f) == 1), c) if unicodedata.category(c)[0] in "LN" else c
        for c in text
    )


def naive_has_capital(text: str) -> bool:
    """A letter that folding changes, and whose lower-case form is another."""
    return any(naive_fold(c) != c and c.lower() != c for c in text)


def naive_words_match(queries: list[str], text: str, case: Case, forms: bool = True) -> list[int]:
    have = "\0" + "\0".join(naive_words(text, forms)) + "\0"
    folded = naive_fold(have)
    found = []
    for q, query in enumerate(queries):
        want = "\0".join(naive_words(query, forms))
        if not want:
            continue
        any_case = case == "fold" or (case == "smart" and not naive_has_capital(want))
        if f"\0{naive_fold(want) if any_case else want}\0" in (folded if any_case else have):
            found.append(q)
    return found


def naive_metaclip_match(queries: list[str], text: str) -> list[int]:
    text = f" {text} "
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    text = text.replace("\t", " ").replace("\n", " ").replace("\r", " ")
    return [q for q, query in enumerate(queries) if f" {query} " in text]


def found_by(matcher: Matcher, texts: list[str]) -> list[list[int]]:
    offsets, ids = matcher.find(texts)
    return [ids[a:b].tolist() for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


# --- properties ---------------------------------------------------------------------------------

PIECES = (
    *(
        "dog",
        "Dog",
        "DOG",
        "dogs",
        "cat",
        "New",
        "York",
        "new york",
        "St",
        "Louis",
        "U.S.",
        "s",
        "a",
        "café",
        "cafe\u0301",
    ),
    *(
        "straße",
        "STRASSE",
        "ẞ",
        "ß",
        "İstanbul",
        "ı",
        "ǅ",
        "狗",
        "一只狗",
        "犬かな",
        "カタカナ",
        "สุนัข",
        "한국어",
        "ㄱㅏ",
    ),
    *("\u1100\u1161\u11a8", "हिन्दी", "ﬁ", "Ⅳ", "²", "\U0001f436", "❤\ufe0f", "\u00ad", "\u200b", "\u200d", "\u0301"),
    *(
        " ",
        "  ",
        "\t",
        "\n",
        "\r",
        "\u00a0",
        "\u3000",
        ",",
        ".",
        ";",
        ":",
        "?",
        "!",
        "`",
        "'",
        "’",
        "-",
        "_",
        "/",
        "(",
        ")",
    ),
    *(
        "ＤＯＧ",
        "ｄｏｇ",
        "dog²",
        "ﬁsh",
        "fish",
        "ℌ",
        "½",
        "㎡",
        "™",
        "ｶﾞ",
        "ガ",
        "น้ำ",
        "ﷺ",
        "λόγος",
        "λόγοσ",
        "ΛΌΓΟΣ",
        "ſ",
        "𝐃og",
        "Ꭰ",
        "ꭰ",
    ),
    *("12345678", "123456789", "ABCDEFGHIJKLMNOPQ", "\x00", "|", "", "Σ", "ς", "Å", "\u212b", "\U00013000", "ˈ", "ͅ"),
)
text_strategy = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=8).map(" ".join),
    st.text(max_size=20),
)
query_strategy = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(" ".join),
    st.text(max_size=6),
)


@settings(max_examples=300)
@given(
    st.lists(query_strategy, max_size=12),
    st.lists(text_strategy, max_size=8),
    st.sampled_from(["smart", "fold", "exact"]),
    st.booleans(),
)
def test_words_rule_equals_the_naive_one(queries: list[str], texts: list[str], case: Case, forms: bool) -> None:
    matcher = Matcher.build(query_list_of(queries), MatchConfig(case=case, compatibility_forms=forms))
    assert found_by(matcher, texts) == [naive_words_match(queries, text, case, forms) for text in texts]


@settings(max_examples=300)
@given(st.lists(query_strategy, max_size=12), st.lists(text_strategy, max_size=8))
def test_metaclip_rule_equals_the_published_one(queries: list[str], texts: list[str]) -> None:
    matcher = Matcher.build(query_list_of(queries), METACLIP)
    assert found_by(matcher, texts) == [naive_metaclip_match(queries, text) for text in texts]


@settings(max_examples=150)
@given(
    st.lists(query_strategy, max_size=12), st.lists(text_strategy, max_size=6), st.sampled_from([0, 1, 7, 0xFF << 40])
)
def test_a_weak_hash_changes_no_match(queries: list[str], texts: list[str], mask: int) -> None:
    query_list = query_list_of(queries)
    for config in (MatchConfig(), MatchConfig(case="fold"), METACLIP):
        weak = Matcher.build(query_list, config, hash_mask=mask)
        assert found_by(weak, texts) == found_by(Matcher.build(query_list, config), texts)


@settings(max_examples=300)
@given(text_strategy)
def test_words_are_the_naive_words(text: str) -> None:
    assert words(text) == naive_words(text)
    assert words(text, compatibility_forms=False) == naive_words(text, forms=False)
    normal, starts, ends = word_spans(text)
    assert [normal[a:b] for a, b in zip(starts, ends, strict=True)] == naive_words(text)
    assert fold_case(text) == naive_fold(text)


@settings(max_examples=200)
@given(query_strategy)
def test_a_query_matches_itself_exactly_when_it_can_match(query: str) -> None:
    configs = [MatchConfig(case=case, compatibility_forms=forms) for case in CASES for forms in (True, False)]
    for config in configs:
        assert found_by(Matcher.build(query_list_of([query]), config), [query]) == [
            [0] if can_match(query, config) else []
        ]


@settings(max_examples=200)
@given(query_strategy, query_strategy, text_strategy)
def test_queries_of_one_normal_form_match_the_same_texts(first: str, second: str, text: str) -> None:
    for config in (MatchConfig(), MatchConfig(case="fold"), METACLIP):
        if normal_form(first, config) == normal_form(second, config):
            matcher = Matcher.build(query_list_of([first, second]), config)
            assert found_by(matcher, [text]) in ([[]], [[0, 1]])


@settings(max_examples=100)
@given(
    st.lists(query_strategy, max_size=10),
    st.lists(st.tuples(st.integers(40, 140), text_strategy), min_size=1, max_size=5),
    st.sampled_from(["a", "A b. ", "é"]),
)
def test_nothing_changes_where_a_text_crosses_a_block_of_64_bytes(
    queries: list[str], ends: list[tuple[int, str]], filler: str
) -> None:
    texts = [(filler * size)[:size] + text for size, text in ends]
    queries = [*queries, "a", "A b", "b", "a" * 70, " ".join(["A b"] * 9)]
    matcher = Matcher.build(query_list_of(queries), MatchConfig())
    assert found_by(matcher, texts) == [naive_words_match(queries, text, "smart") for text in texts]
    matcher = Matcher.build(query_list_of(queries), METACLIP)
    assert found_by(matcher, texts) == [naive_metaclip_match(queries, text) for text in texts]


@pytest.mark.parametrize("size", [1, 15, 16, 17, 63, 64, 65, 200])
def test_matches_are_ascending_and_single_however_many_there_are(size: int) -> None:
    queries = [f"w{i * 7919 % 1009}" for i in range(size)]
    text = " ".join([*queries, *reversed(queries)])
    for config in (MatchConfig(), METACLIP):
        # Many such texts, with others between them: the matcher makes room for all, and mixes none.
        texts = [text, "nothing", text, "", queries[0]] * 20
        found = [list(range(size)), [], list(range(size)), [], [0]] * 20
        assert found_by(Matcher.build(query_list_of(queries), config), texts) == found


# --- whole corpora ------------------------------------------------------------------------------


def real_captions(shared_data: Path, limit: int) -> list[str]:
    path = shared_data / "captions" / "captions.tsv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(io.StringIO(file.read()), delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        texts = [row[4] for row in rows]
    step = max(1, len(texts) // limit)
    return texts[::step][:limit]


def adversarial(texts: list[str]) -> list[str]:
    """Each text once more, disturbed in one of several ways."""
    changes = (
        lambda t: unicodedata.normalize("NFD", t),
        lambda t: t.replace(" ", "\u00a0"),
        lambda t: t.replace(" ", "-"),
        lambda t: t.upper(),
        lambda t: t.replace("a", "a\u00ad"),
        lambda t: "".join(f"({w})" for w in t.split()),
        lambda t: t.replace(" ", "  ").replace("e", "e."),
        lambda t: t.title() + "\u3000" + t[::-1],
    )
    return [changes[i % len(changes)](text) for i, text in enumerate(texts)]


def list_for(texts: list[str], size: int) -> list[str]:
    """Words, pairs and triples of the texts themselves, as they stand, with punctuation and without."""
    found: dict[str, None] = {}
    for i, text in enumerate(texts):
        raw, clean = text.split(" "), words(text)
        for parts in (raw, clean):
            if parts:
                at = (i * 7919) % len(parts)
                found.setdefault(" ".join(parts[at : at + 1 + i % 3]))
        if len(found) >= size:
            break
    return list(found)[:size]


def indexed_oracle(queries: list[str], config: MatchConfig) -> dict[tuple[str, ...], list[int]]:
    """The same rules, by looking up every run of tokens in a dictionary: slow, but not Q times slow."""
    index: dict[tuple[str, ...], list[int]] = {}
    for q, query in enumerate(queries):
        tokens = tuple(query.split(" ")) if config.rule == "metaclip" else tuple(naive_words(query))
        if config.rule == "words" and not any(map(naive_has_capital, tokens)):
            tokens = tuple(map(naive_fold, tokens))
        if tokens:
            index.setdefault(tokens, []).append(q)
    return index


def indexed_match(index: dict[tuple[str, ...], list[int]], longest: int, text: str, config: MatchConfig) -> list[int]:
    if config.rule == "metaclip":
        for mark in ",.;:?!`":
            text = text.replace(mark, f" {mark} ")
        tokens = re.sub("[\t\n\r]", " ", text).split(" ")
        variants = [tokens]
    else:
        tokens = naive_words(text)
        variants = [tokens, [naive_fold(token) for token in tokens]]
    found: set[int] = set()
    for v, variant in enumerate(variants):
        for i in range(len(variant)):
            for n in range(1, longest + 1):
                run = tuple(variant[i : i + n])
                if len(run) == n and run in index and (v == 0 or not any(map(naive_has_capital, run))):
                    found.update(index[run])
    return sorted(found)


@pytest.mark.parametrize("rule", ["words", "metaclip"])
@pytest.mark.parametrize("limit", [2_000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_no_difference_on_real_and_adversarial_texts(shared_data: Path, rule: str, limit: int) -> None:
    texts = real_captions(shared_data, limit)
    queries = list_for(texts, limit)
    texts += adversarial(texts)
    config = METACLIP if rule == "metaclip" else MatchConfig()
    index = indexed_oracle(queries, config)
    longest = max(map(len, index))
    matches = found_by(Matcher.build(query_list_of(queries), config), texts)
    wrong = [
        (text, ours)
        for text, ours in zip(texts, matches, strict=True)
        if ours != indexed_match(index, longest, text, config)
    ]
    assert wrong == []
    assert sum(map(len, matches)) > len(texts)


# --- the stage ----------------------------------------------------------------------------------


def batch_of(captions: list[str]) -> pa.RecordBatch:
    size = len(captions)
    return pa.RecordBatch.from_pydict(
        {
            "uid": pa.array([i.to_bytes(16) for i in range(size)], pa.binary(16)),
            "source": pa.array(["s"] * size),
            "record": pa.array(range(size), pa.int64()),
            "link": pa.array([0] * size, pa.int32()),
            "caption": pa.array(captions, pa.string()),
        }
    )


def test_stage_adds_query_ids_and_rejects_captions_without_a_query() -> None:
    matcher = Matcher.build(query_list_of(["dog", "cat", "a dog"]), MatchConfig())
    outcome = match(batch_of(["no animal", "a dog, a cat", "", "Dog dog"]), MatchConfig(), matcher)
    assert outcome.kept.column("query_ids").to_pylist() == [[0, 1, 2], [0]]
    assert outcome.kept.schema.field("query_ids").type == pa.list_(pa.int32())
    assert outcome.rejected.column("record").to_pylist() == [0, 2]
    assert set(outcome.rejected.column("reason").to_pylist()) == {"no_query"}
    assert outcome.num_in == outcome.kept.num_rows + outcome.rejected.num_rows == 4


def test_stage_keeps_captions_without_a_query_where_it_is_asked_to() -> None:
    matcher = Matcher.build(query_list_of(["dog"]), MatchConfig())
    outcome = match(batch_of(["bird", "dog"]), MatchConfig(), matcher, keep_unmatched=True)
    assert outcome.kept.column("query_ids").to_pylist() == [[], [0]]
    assert outcome.rejected.num_rows == 0
    tables = Files(())
    was = Match(config=MatchConfig(), tables=tables).key_parts()
    assert "keep_unmatched" not in was[0][2]  # what was matched before the option came is matched still
    assert Match(config=MatchConfig(), tables=tables, keep_unmatched=True).key_parts() != was


def test_stage_takes_slices_and_empty_batches() -> None:
    matcher = Matcher.build(query_list_of(["dog", "cat"]), MatchConfig())
    whole = batch_of(["dog", "caf\u0065\u0301 cat", "dog cat", "bird"])
    parts = [match(whole.slice(i, 2), MatchConfig(), matcher).kept for i in (0, 2)]
    assert [part.column("query_ids").to_pylist() for part in parts] == [[[0], [1]], [[0, 1]]]
    assert match(whole.slice(0, 0), MatchConfig(), matcher).num_in == 0


def test_a_text_with_more_matches_than_there_was_room_for_is_complete() -> None:
    queries = [f"w{i}" for i in range(500)]
    text = " ".join(reversed(queries))
    for config in (MatchConfig(), METACLIP):
        assert found_by(Matcher.build(query_list_of(queries), config), ["", text, "w3 w1 w3"]) == [
            [],
            list(range(500)),
            [1, 3],
        ]


def test_saved_tables_match_as_the_built_ones_do(tmp_path: Path) -> None:
    built = Matcher.build(query_list_of(["dog", "New York", "狗"]), MatchConfig(case="fold"))
    built.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(Matcher.FILES)
    opened = Matcher.open(tmp_path)
    assert opened.config == built.config
    assert opened.fingerprint == built.fingerprint
    texts = ["DOG in new york", "狗!", "none"]
    assert found_by(opened, texts) == found_by(built, texts) == [[0, 1], [2], []]


def test_equal_lists_give_equal_tables(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Matcher.build(query_list_of(["dog", "New York", "狗"]), MatchConfig()).save(tmp_path / name)
    for file in Matcher.FILES:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    Matcher.build(query_list_of(["dog"]), MatchConfig()).save(tmp_path)
    (tmp_path / "slots.npy").write_bytes(b"no table")
    with pytest.raises(QueryListError, match="delete the directory"):
        Matcher.open(tmp_path)


def test_tables_of_another_rule_are_refused() -> None:
    matcher = Matcher.build(query_list_of(["dog"]), METACLIP)
    with pytest.raises(ConfigError, match="build them again"):
        match(batch_of(["dog"]), MatchConfig(), matcher)


def test_fingerprint_follows_list_and_rule() -> None:
    marks = {
        Matcher.build(query_list_of(queries), config).fingerprint
        for queries in (["dog"], ["cat"])
        for config in (MatchConfig(), MatchConfig(case="fold"), METACLIP)
    }
    assert len(marks) == 6


def test_forms_of_letters_match_unless_the_option_is_off() -> None:
    queries = ["dog", "fish", "m2", "cafe\u0301"]
    texts = ["ｄｏｇ", "a ﬁsh", "12 m²", "ｃａｆｅ\u0301", "a dog"]
    assert found_by(Matcher.build(query_list_of(queries), MatchConfig()), texts) == [[0], [1], [2], [3], [0]]
    off = Matcher.build(query_list_of(queries), MatchConfig(compatibility_forms=False))
    assert found_by(off, texts) == [[], [], [], [], [0]]
    assert found_by(Matcher.build(query_list_of(["ｄｏｇ", "m²"]), MatchConfig()), ["dog", "5 m2"]) == [[0], [1]]
    # The published rule compares letters as they are.
    assert found_by(Matcher.build(query_list_of(queries), METACLIP), texts) == [[], [], [], [], [0]]


def test_letters_that_only_fold_are_no_capitals() -> None:
    for query, text in (("λόγος", "ΛΌΓΟΣ"), ("ſea", "SEA"), ("λόγοσ", "λόγος")):
        config = MatchConfig(compatibility_forms=False)
        assert found_by(Matcher.build(query_list_of([query]), config), [text]) == [[0]]
        assert normal_form(query, config) == fold_case(query)
    assert found_by(Matcher.build(query_list_of(["Λόγος"]), MatchConfig()), ["λόγος", "Λόγος"]) == [[], [0]]


def test_tables_are_read_only() -> None:
    matcher = Matcher.build(query_list_of(["dog"]), MatchConfig())
    with pytest.raises(ValueError, match="read-only"):
        matcher.slots[0] = np.uint64(1)


# --- the documentation --------------------------------------------------------------------------


def test_the_table_of_examples_in_the_documentation_holds() -> None:
    text = (Path(__file__).parents[2] / "docs" / "matching.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| `") and line.count("|") == 7
    ]
    assert len(rows) >= 20
    columns = (MatchConfig(), MatchConfig(case="fold"), MatchConfig(case="exact"), METACLIP)
    for query, caption, *verdicts in rows:
        for config, verdict in zip(columns, verdicts, strict=True):
            matcher = Matcher.build(query_list_of([query.strip("`")]), config)
            shown = caption.strip("`")
            if "\\" in shown:  # an escape for what a table cannot show
                shown = shown.encode("ascii").decode("unicode_escape")
            assert found_by(matcher, [shown]) == [[0] if verdict == "yes" else []], (query, caption, config)
