"""Language identification, held to the compiled fastText fed with `str.lower`, and to a plain reading of the words."""

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

from configs.load import ConfigError, load
from pipeline.config import WitConfig
from pipeline.errors import InputError
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome
from pipeline.records.schema import CLEANED, IDENTIFIED
from pipeline.stages.language.config import LANGUAGES, LanguageConfig
from pipeline.stages.language.kernel import NUM_CHARACTERS
from pipeline.stages.language.language import Language, identify, lexicon_fingerprints
from pipeline.stages.language.model import load_model, model_path
from pipeline.stages.language.words import BUILTIN_LANGUAGES, Lexicon, count_words, is_letter, load_lexicon
from pipeline.steps.judge_links import JudgeLinks
from pipeline.storage.location import Location
from pipeline.wit import build

NO_LEXICON: dict[str, tuple[str, ...]] = {"en": ()}


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
    assert set(outcome.rejected["reason"].to_pylist()) <= set(Language.reasons)
    return outcome


@cache
def _lexicon() -> Lexicon:
    return load_lexicon("en", ("builtin",))


def _assert_same_as_library(texts: list[str], step: int = 1) -> None:
    """Equal likeliest labels, and probabilities to five digits (the library adds in another order); equal words."""
    model = load_model()
    found = model.predict(pa.array(texts, pa.string()), "en", _lexicon())
    for i in range(0, len(texts), step):
        # The library refuses line breaks; for it they are white space like any other.
        text = texts[i].lower().replace("\n", " ")
        names, probabilities = _library().predict(text, k=-1 if i % 50 == 0 else 1)
        assert names[0] == f"__label__{model.labels[found.label[i]]}", texts[i]
        assert found.p_label[i] == pytest.approx(min(probabilities[0], 1), abs=1e-5), texts[i]
        if "__label__en" in names:
            expected = probabilities[names.index("__label__en")]
            assert found.p_target[i] == pytest.approx(min(expected, 1), abs=1e-5), texts[i]
        assert (found.words[i], found.known[i]) == count_words(texts[i], _lexicon().words), texts[i]


def test_english_is_kept_and_the_rest_rejected_with_language_and_probability() -> None:
    outcome = _identify(["A dog runs over the grass", "Ein Hund läuft über die Wiese", "一只狗在草地上奔跑，天气很好"])
    assert outcome.kept["lang"].to_pylist() == ["en"]
    assert outcome.kept["p_en"][0].as_py() > 0.7
    assert outcome.rejected["reason"].to_pylist() == ["other_language"] * 2
    assert [detail.split()[0] for detail in outcome.rejected["detail"].to_pylist()] == ["de", "zh"]


def test_least_probability_is_inclusive_on_both_sides_of_the_threshold() -> None:
    caption = "GK Software logo"
    found = load_model().predict(pa.array([caption]), "en")
    p = found.p_label
    assert load_model().labels[found.label[0]] == "en"
    at = LanguageConfig(min_probability=float(p[0]), lexicons=NO_LEXICON)
    above = LanguageConfig(min_probability=float(np.nextafter(p[0], np.float32(1))), lexicons=NO_LEXICON)
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
    for name in ("min_probability", "known_min_probability", "short_min_probability"):
        with pytest.raises(ConfigError, match=name):
            LanguageConfig(**{name: 1.5})
    with pytest.raises(ConfigError, match="short_words"):
        LanguageConfig(short_words=-1)


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
    captions += ["MY FRIEND IS A BIRD", "cow", "Crocodile!", "İSTANBUL ΟΔΟΣ", "zzxqy", "", "2019", "Une rue à PARIS"]
    for options in ({}, {"targets": ("de", "en")}, {"rule": "probability", "min_probability": 0.1}):
        ours = _identify(captions, LanguageConfig(**options))  # type: ignore[arg-type]  # of several types
        theirs = _identify(captions, LanguageConfig(backend="fasttext", **options))  # type: ignore[arg-type]
        assert ours.kept.drop_columns(["p_en"]).equals(theirs.kept.drop_columns(["p_en"]))
        assert ours.kept["p_en"].to_pylist() == pytest.approx(theirs.kept["p_en"].to_pylist(), abs=1e-5)
        assert ours.rejected["reason"].equals(theirs.rejected["reason"])


def test_empty_and_sliced_batches() -> None:
    assert _identify([]).kept.num_rows == 0
    outcome = identify(_batch(["Ein Hund läuft", "A dog runs over the grass"]).slice(1), LanguageConfig())
    assert outcome.kept["lang"].to_pylist() == ["en"]


def test_case_changes_no_verdict() -> None:
    captions = ["My friend is a bird", "Une rue dans le centre de Paris", "Ein Hund läuft über die Wiese", "Blue car"]
    lower, upper = ([style(caption) for caption in captions] for style in (str.lower, str.upper))
    outcomes = [_identify(style) for style in (captions, lower, upper)]
    for outcome in outcomes:
        assert outcome.kept["lang"].to_pylist() == ["en", "en"]
        assert outcome.kept["p_en"].equals(outcomes[0].kept["p_en"])
        assert outcome.rejected["detail"].equals(outcomes[0].rejected["detail"])


def test_words_decide_where_the_model_knows_nothing_or_leans_elsewhere() -> None:
    captions = ["cow", "dog", "rainbow", "Santa Claus", "An apricot.", "TRACTOR", "crocodile", "girl"]
    outcome = _identify([*captions, "a brown cow in the rain"])
    assert outcome.kept["caption"].to_pylist() == [*captions, "a brown cow in the rain"]
    assert set(outcome.kept["lang"].to_pylist()) == {"en"}
    assert outcome.kept["lang_by"].to_pylist() == ["lexicon"] * len(captions) + ["model"]
    assert outcome.kept["p_en"][6].as_py() < 0.2  # what the model says stays as it is
    without = _identify(captions, LanguageConfig(lexicons=NO_LEXICON))
    assert without.kept.num_rows == 0
    assert without.rejected["reason"].to_pylist()[:2] == ["unknown_language"] * 2


def test_what_neither_model_nor_lexicon_knows_is_unknown_whatever_the_threshold() -> None:
    captions = ["cuchara", "低亮度按钮", "2019", "???", ""]
    for options in ({}, {"min_probability": 0.0}, {"min_probability": 0.0, "rule": "probability"}):
        for lexicons in (NO_LEXICON, {}):
            config = LanguageConfig(lexicons=lexicons, short_min_probability=0.0, **options)  # type: ignore[arg-type]
            outcome = _identify(captions, config)
            assert outcome.kept.num_rows == 0
            assert outcome.rejected["reason"].to_pylist() == ["unknown_language"] * len(captions)


def test_known_words_do_not_outweigh_a_language_that_is_sure() -> None:
    caption = "die chat und der hut die hand"
    assert _identify([caption]).rejected["reason"].to_pylist() == ["other_language"]
    p = float(load_model().predict(pa.array(["chat"]), "en").p_target[0])
    assert _identify(["chat"], LanguageConfig(known_min_probability=p)).kept.num_rows == 1
    above = LanguageConfig(known_min_probability=float(np.nextafter(np.float32(p), np.float32(1))))
    assert _identify(["chat"], above).kept.num_rows == 0


def test_short_captions_of_unknown_words_need_more_probability() -> None:
    caption = "Author Stacey Longo."
    found = load_model().predict(pa.array([caption]), "en", _lexicon())
    assert (found.words[0], found.known[0]) == (3, False)
    p = float(found.p_target[0])
    assert load_model().labels[found.label[0]] == "en"
    assert 0.2 < p < 0.3
    assert _identify([caption]).rejected["reason"].to_pylist() == ["low_confidence"]
    for config in (
        LanguageConfig(short_words=2),
        LanguageConfig(lexicons=NO_LEXICON),
        LanguageConfig(short_min_probability=p),
    ):
        assert _identify([caption], config).kept["lang_by"].to_pylist() == ["model"]
    stricter = LanguageConfig(short_min_probability=0.1, min_probability=0.5)
    assert _identify([caption], stricter).kept.num_rows == 0


def test_probability_rule_keeps_a_target_that_is_not_the_likeliest() -> None:
    captions = ["Screen shot: git commit", "Ein Hund läuft über die Wiese", "A dog runs over the grass"]
    found = load_model().predict(pa.array(captions), "en")
    likeliest = [load_model().labels[i] for i in found.label]
    assert likeliest[0] != "en"
    p = float(found.p_target[0])
    assert p > 0.1
    at = LanguageConfig(rule="probability", min_probability=p, lexicons=NO_LEXICON)
    assert _identify(captions, at).kept["lang"].to_pylist() == ["en", "en"]
    assert _identify(captions, at).kept["lang_by"].to_pylist() == ["model", "model"]
    above = float(np.nextafter(np.float32(p), np.float32(1)))
    stricter = LanguageConfig(rule="probability", min_probability=above, lexicons=NO_LEXICON)
    assert _identify(captions, stricter).kept["lang"].to_pylist() == ["en"]
    both = LanguageConfig(rule="probability", targets=("fr", "de", "en"), min_probability=0.3)
    assert _identify(captions, both).kept["lang"].to_pylist()[1:] == ["de", "en"]


def test_each_target_has_its_own_lexicon() -> None:
    captions = ["Schildkröte", "turtle", "écureuil", "a dog runs over the grass"]
    assert _identify(captions).kept["lang"].to_pylist() == ["en", "en"]
    several = _identify(captions, LanguageConfig(targets=("en", "de", "fr")))
    assert several.kept["lang"].to_pylist() == ["de", "en", "fr", "en"]
    some = _identify(captions, LanguageConfig(targets=("en", "de", "fr"), lexicons={"de": (), "fr": ()}))
    assert "de" not in some.kept.filter(pa.compute.equal(some.kept["lang_by"], "lexicon"))["lang"].to_pylist()


def test_own_word_lists(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("Zzxqy\nsleeping qwrtzp\n", encoding="utf-8")
    packed = tmp_path / "packed.txt.gz"
    packed.write_bytes(gzip.compress("ꙮ\n".encode()))
    captions = ["ZZXQY", "a qwrtzp", "qwrtzp ꙮ"]
    assert _identify(captions).kept.num_rows == 0
    several = LanguageConfig(lexicons={"en": ("builtin", str(own), str(packed))}, known_min_probability=0)
    assert _identify(captions, several).kept["lang_by"].to_pylist() == ["lexicon"] * 3
    only = LanguageConfig(lexicons={"en": (str(own),)}, known_min_probability=0)
    assert _identify(captions, only).kept["caption"].to_pylist() == ["ZZXQY"]
    before = lexicon_fingerprints(only)
    assert before.keys() == {"en"}
    own.write_text("qwrtzp\n", encoding="utf-8")
    assert lexicon_fingerprints(only) != before
    assert _identify(captions, only).kept.num_rows == 0
    assert lexicon_fingerprints(LanguageConfig(lexicons=NO_LEXICON)) == {}


def test_unusable_word_lists_are_errors_of_one_line(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("café\n".encode("latin-1"))
    broken = tmp_path / "broken.txt.gz"
    broken.write_bytes(gzip.compress(b"cow\n" * 99)[:-9])
    for path in (tmp_path / "missing.txt", tmp_path, latin, broken):
        config = LanguageConfig(lexicons={"en": (str(path),)})
        with pytest.raises(InputError, match="cannot read the word list") as caught:
            lexicon_fingerprints(config)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no built-in list for pl"):
        LanguageConfig(targets=("pl",), lexicons={"pl": ("builtin",)})
    with pytest.raises(ConfigError, match="de is no target"):
        LanguageConfig(lexicons={"de": ("builtin",)})


def test_every_builtin_list_is_there() -> None:
    assert set(BUILTIN_LANGUAGES) <= LANGUAGES
    for language in BUILTIN_LANGUAGES:
        assert len(lexicon_fingerprints(LanguageConfig(targets=(language,)))[language]) == 64
    words = _lexicon().words
    assert {"a", "an", "the", "of", "with", "dog", "dogs", "running", "men", "crocodile"} <= words
    assert not {"", "'", "hund", "perro"} & words


def test_python_changes_case_only_where_the_kernel_looks() -> None:
    beyond = range(NUM_CHARACTERS, 0x110000)
    assert all(chr(code).lower() == chr(code) for code in beyond if not 0xD800 <= code < 0xE000)
    assert all(chr(code).isalpha() == is_letter(chr(code)) for code in range(0x20000, 0x2A6E0))
    assert not any(chr(code).isalpha() for code in range(0x40000, 0x110000))


@pytest.mark.parametrize("code", [0x130, 0x3A3, 0x23A, 0x1E9E, 0x2126, 0x212A, 0x212B, 0x2C62, 0x10400, 0x1E921])
@pytest.mark.parametrize("context", ["{}", "a{}", "{}A", "A{}B c", "1.{}'", "the {} dog", "ΟΔΟ{} ΟΔΟ{}. ΟΔΟ{}Α"])
def test_letters_that_change_their_length_or_their_neighbours(code: int, context: str) -> None:
    _assert_same_as_library([context.replace("{}", chr(code)), context.replace("{}", chr(code) * 20)])


def test_every_letter_is_lowered_as_python_does() -> None:
    letters = [chr(code) for code in range(NUM_CHARACTERS) if not 0xD800 <= code < 0xE000]
    changed = [letter for letter in letters if letter.lower() != letter]
    found = load_model().predict(pa.array([f"x{letter}y" for letter in changed]), "en", _lexicon())
    expected = load_model().predict(pa.array([f"x{letter.lower()}y" for letter in changed]), "en", _lexicon())
    assert len(changed) > 1300
    for name in ("label", "p_label", "p_target", "words", "known"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


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
        "</S> Ein Hund",
        "__LABEL__en Hund",
        "It's 12 o'clock, don't you—know?",
        "a1b 2 (dogs) x\u0301y 🐶 🏴\U000e0067\U000e007f",
        "𠀀 犬 İİİ ΣΣΣ.Σ " * 50,
        "Ⱥ" * 3_000,
        "LONGWORDSTHATTHECACHEDOESNOTKEEP longwordsthatthecachedoesnotkeep",
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
            st.text(alphabet="TheİΣσςΑ'.·\u0345\u00ad ȺAẞ", max_size=30),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_any_text_equals_the_library(texts: list[str]) -> None:
    _assert_same_as_library(texts)


def test_what_the_cache_holds_changes_no_answer() -> None:
    """More words than it has room for, in two orders, so that words push each other out."""
    texts = [" ".join(f"{i * 10 + k:x}" for k in range(10)) for i in range(70_000)]
    model = load_model()
    found = model.predict(pa.array(texts), "en", _lexicon())
    again = model.predict(pa.array(texts[::-1]), "en", _lexicon())
    for name in ("label", "p_label", "p_target", "words", "known"):
        assert np.array_equal(getattr(found, name), getattr(again, name)[::-1])
    _assert_same_as_library(texts, step=999)


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


def test_a_changed_list_is_read_anew_and_a_missing_one_stops_before_work(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"

    def key(config: LanguageConfig) -> str:
        task = JudgeLinks(
            partition="part",
            candidates=Location("c.parquet", "1"),
            stages=(Language(config=config),),
            batch_rows=1,
            ledger=LedgerConfig(),
        )
        return task.key

    config = LanguageConfig(lexicons={"en": (str(own),)})
    page = build(
        load(
            WitConfig,
            None,
            [
                *("--sources=[x.parquet]", "--queries=q.txt", f"--output={tmp_path / 'out'}"),
                *("--fetch.user_agent=test (+http://a.b)", f"--language.lexicons={{en: [{own}]}}"),
            ],
        )
    )
    (tmp_path / "x.parquet").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(InputError, match=r"own\.txt: cannot read the word list"):
            page.check()
    assert not (tmp_path / "out").exists()
    own.write_text("cow\n", encoding="utf-8")
    before = key(config)
    assert before == key(config) != key(LanguageConfig())
    own.write_text("ox\n", encoding="utf-8")
    assert key(config) != before
