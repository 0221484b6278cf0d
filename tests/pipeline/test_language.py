"""Language identification, held to the compiled fastText."""

from __future__ import annotations

import csv
import gzip
from functools import cache
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.load import ConfigError
from pipeline.errors import InputError
from pipeline.outcome import Outcome
from pipeline.reasons import REASONS
from pipeline.schema import CLEANED, IDENTIFIED
from pipeline.stages.language import LANGUAGES, LanguageConfig, identify
from pipeline.stages.language_model import load_model, model_path


@cache
def _library() -> Any:
    return fasttext.load_model(str(model_path()))


def _batch(captions: list[str]) -> pa.RecordBatch:
    rows = [
        {
            "uid": i.to_bytes(16, "big"),
            "url_id": i.to_bytes(16, "big"),
            "url": "http://h/p.jpg",
            "alt_text": caption,
            "text_source": "alt",
            "source": "a.wat.gz",
            "record": i,
            "link": 0,
            "caption": caption,
        }
        for i, caption in enumerate(captions)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=CLEANED)


def _identify(captions: list[str], config: LanguageConfig | None = None) -> Outcome:
    outcome = identify(_batch(captions), config or LanguageConfig())
    outcome.kept.validate(full=True)
    assert outcome.kept.schema == IDENTIFIED
    assert outcome.num_in == len(captions) == outcome.kept.num_rows + outcome.rejected.num_rows
    assert set(outcome.rejected["reason"].to_pylist()) <= set(REASONS["language"])
    return outcome


def _assert_same_as_library(texts: list[str], step: int = 1) -> None:
    """Equal likeliest labels, and probabilities to five digits (the library adds in another order)."""
    model = load_model()
    label, p_label, p_en = model.predict(pa.array(texts, pa.string()), "en")
    for i in range(0, len(texts), step):
        # The library refuses line breaks; for it they are white space like any other.
        names, probabilities = _library().predict(texts[i].replace("\n", " "), k=-1 if i % 50 == 0 else 1)
        assert names[0] == f"__label__{model.labels[label[i]]}", texts[i]
        assert p_label[i] == pytest.approx(min(probabilities[0], 1), abs=1e-5), texts[i]
        if "__label__en" in names:
            expected = probabilities[names.index("__label__en")]
            assert p_en[i] == pytest.approx(min(expected, 1), abs=1e-5), texts[i]


def test_english_is_kept_and_the_rest_rejected_with_language_and_probability() -> None:
    outcome = _identify(["A dog runs over the grass", "Ein Hund läuft über die Wiese", "一只狗在草地上奔跑，天气很好"])
    assert outcome.kept["lang"].to_pylist() == ["en"]
    assert outcome.kept["p_en"][0].as_py() > 0.7
    assert outcome.rejected["reason"].to_pylist() == ["other_language"] * 2
    assert [detail.split()[0] for detail in outcome.rejected["detail"].to_pylist()] == ["de", "zh"]


def test_least_probability_is_inclusive_on_both_sides_of_the_threshold() -> None:
    caption = "GK Software logo"
    _, p, _ = load_model().predict(pa.array([caption]), "en")
    assert load_model().labels[load_model().predict(pa.array([caption]), "en")[0][0]] == "en"
    at = LanguageConfig(min_probability=float(p[0]))
    above = LanguageConfig(min_probability=float(np.nextafter(p[0], np.float32(1))))
    assert _identify([caption], at).kept.num_rows == 1
    assert _identify([caption], above).rejected["reason"].to_pylist() == ["low_confidence"]


def test_several_targets_and_their_order() -> None:
    captions = ["A dog runs over the grass", "Ein Hund läuft über die Wiese", "Un chien court dans l'herbe"]
    outcome = _identify(captions, LanguageConfig(targets=("de", "en")))
    assert outcome.kept["lang"].to_pylist() == ["en", "de"]
    p_first = outcome.kept["p_en"].to_pylist()
    assert p_first[0] < 0.1 < 0.7 < p_first[1]


def test_unknown_language_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        LanguageConfig(targets=("eng",))
    with pytest.raises(ConfigError):
        LanguageConfig(targets=())
    with pytest.raises(ConfigError):
        LanguageConfig(min_probability=1.5)


def test_labels_are_those_of_the_model() -> None:
    assert frozenset(load_model().labels) == LANGUAGES


def test_damaged_model_is_an_input_error(tmp_path: Path) -> None:
    data = model_path().read_bytes()
    for content in (b"", b"hello", data[:-1], data[: len(data) // 2], data + b"x", b"\0" + data[1:]):
        path = tmp_path / "lid.176.ftz"
        path.write_bytes(content)
        load_model.cache_clear()
        with pytest.raises(InputError, match="not a usable"):
            load_model(path)


def test_backends_agree() -> None:
    captions = ["A dog runs over the grass", "Ein Hund", "x", "GK Software logo", "Мама мыла раму", "a b c 1 2 3"]
    ours, theirs = _identify(captions), _identify(captions, LanguageConfig(backend="fasttext"))
    assert ours.kept.drop_columns(["p_en"]).equals(theirs.kept.drop_columns(["p_en"]))
    assert ours.kept["p_en"].to_pylist() == pytest.approx(theirs.kept["p_en"].to_pylist(), abs=1e-5)
    assert ours.rejected["reason"].equals(theirs.rejected["reason"])


def test_empty_and_sliced_batches() -> None:
    assert _identify([]).kept.num_rows == 0
    outcome = identify(_batch(["Ein Hund läuft", "A dog runs over the grass"]).slice(1), LanguageConfig())
    assert outcome.kept["lang"].to_pylist() == ["en"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n",
        "a",
        "</s>",
        "a </s> Ein Hund läuft über die Wiese",
        "</s>x dog",
        "__label__en Hund",
        "__label__ dog",
        "__label_ dog",
        "x__label__en dog",
        "a\0b\x0bc\x0cd\x1ce\x85f",
        "A dog\nEin Hund",
        "no\u00a0break\u2003space",
        "😀" * 100,
        "x" * 20_000,
        "犬" * 5_000,
        "word " * 3_000,
        "<dog> <s>",
    ],
)
def test_odd_texts_equal_the_library(text: str) -> None:
    _assert_same_as_library([text])


@given(
    st.lists(
        st.one_of(
            st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40),
            st.text(alphabet="the andofdogcat der die und le la ", max_size=60),
            st.text(alphabet="абвгд еёжз 犬猫と αβγ</s>__label__", max_size=40),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_any_text_equals_the_library(texts: list[str]) -> None:
    _assert_same_as_library(texts)


def _real_texts(shared_data: Path) -> list[str]:
    def column(name: str, index: int) -> list[str]:
        with gzip.open(shared_data / name / f"{name}.tsv.gz", "rt", encoding="utf-8", newline="") as lines:
            return [row[index] for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)][1:]

    return column("captions", 4) + column("lid", 1)


def test_real_texts_equal_the_library(shared_data: Path) -> None:
    _assert_same_as_library(_real_texts(shared_data), step=23)


@pytest.mark.slow
def test_every_real_text_equals_the_library(shared_data: Path) -> None:
    _assert_same_as_library(_real_texts(shared_data))
