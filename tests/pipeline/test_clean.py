"""Cleaning of alt texts."""

from __future__ import annotations

import csv
import gzip
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import ConfigError
from pipeline.records.outcome import Outcome
from pipeline.records.schema import CANDIDATES, CLEANED
from pipeline.stages.clean.clean import Clean, clean, normalise, reason_against
from pipeline.stages.clean.config import CleanConfig


def _batch(texts: list[str]) -> pa.RecordBatch:
    rows = [
        {
            "uid": i.to_bytes(16, "big"),
            "url_id": i.to_bytes(16, "big"),
            "url": "http://h/p.jpg",
            "alt_text": text,
            "text_source": "alt",
            "source": "a.wat.gz",
            "record": i,
            "link": 0,
        }
        for i, text in enumerate(texts)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=CANDIDATES)


def _clean(texts: list[str], config: CleanConfig | None = None) -> Outcome:
    outcome = clean(_batch(texts), config or CleanConfig())
    outcome.kept.validate(full=True)
    assert outcome.kept.schema == CLEANED
    assert outcome.num_in == len(texts) == outcome.kept.num_rows + outcome.rejected.num_rows
    assert set(outcome.rejected["stage"].to_pylist()) <= {"clean"}
    return outcome


def _reason(text: str, config: CleanConfig | None = None) -> str | None:
    outcome = _clean([text], config)
    return outcome.rejected["reason"][0].as_py() if outcome.rejected.num_rows else None


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("A dog", "A dog"),
        ("  A \t\r\n dog\u00a0\u2003runs\u3000 ", "A dog runs"),
        ("A\x00 do\ufeffg\u00ad", "A dog"),
        ("Golden\u200bRetriever\u200b \u200bpuppy", "Golden Retriever puppy"),
        ("Cafe\u0301 \u212b", "Café Å"),
        ("caf e\u2060\u0301", "caf é"),
        ("caf e\u200b\u0301", "caf e \u0301"),
        ("CASE, punctuation! stay?", "CASE, punctuation! stay?"),
        ("👩\u200d🚀 می\u200cخواهم", "👩\u200d🚀 می\u200cخواهم"),
        ("a\u200db \u200dc\u200c", "ab c"),
        ("line\u2028break\x85here", "line break here"),
    ],
)
def test_caption_is_the_text_in_plain_form(text: str, caption: str) -> None:
    outcome = _clean([text])
    assert outcome.kept["caption"].to_pylist() == [caption]
    assert outcome.kept["alt_text"].to_pylist() == [text]


def _captions(texts: list[str], config: CleanConfig | None = None) -> list[str]:
    return _clean(texts, config).kept["caption"].to_pylist()


MARK_UP = {
    "<b>Red car</b>": "Red car",
    "A dog &amp; a cat": "A dog & a cat",
    "Q&amp;A &#39;now&#x27; &eacute;": "Q&A 'now' é",
    "A &lt;em&gt;red&lt;/em&gt; car": "A red car",
    "R&amp;amp;D": "R&amp;D",  # once
    "line<br>two<BR />three": "line two three",
    "<p>A dog": "A dog",
    "H<sub>2</sub>O": "H2O",
    "<a href='/x?a=1&b=2' title=\"y\">link</a> here": "link here",
    '<div class=""source"">The cast': "The cast",
    "<!--0201--><script>f()</script>Hip hop": "Hip hop",
    "Two&nbsp;words&#8203;here": "Two words here",
}


@pytest.mark.parametrize("text", MARK_UP)
def test_markup_leaves_the_text_that_it_marked(text: str) -> None:
    assert _captions([text]) == [MARK_UP[text]]
    assert _captions([text], CleanConfig(strip_markup=False)) == [text]


@pytest.mark.parametrize(
    "text",
    [
        "AT&T",
        "one; two & three;",
        "a=1&copy=2 in a link",
        "&notanentity; x",
        "the <table> element",
        "How <b> works",
        "x < 3 and y > 2",
        "I <3 you",
        "a <dog>",
        "Temperatures <i0 or b>",
        "Formula {\\displaystyle {{a}^{2}}}",
        "[sic] {braces}",
    ],
)
def test_what_only_looks_like_markup_stays(text: str) -> None:
    assert _captions([text]) == [text]


@pytest.mark.timeout(30)
def test_hostile_texts_cost_no_more_than_their_length() -> None:
    size = 20_000  # the square of this would take many seconds a text
    pieces = (
        "<a ",
        "<a =",
        "<!--",
        "<script",
        "</script ",
        "</script>",
        "{{",
        "{%%",
        "<% ",
        "&amp",
        "&#1",
        "a_1",
        "Ã ",
        "Â©é",
    )
    texts = [(piece * size)[:size] + end for piece in pieces for end in ("", ".jpg", "-->", ">")]
    texts += ["<a" + " " * size, "<script>" + "</script" + " " * size, "a" + "_1" * size + ".jpg"]
    assert _clean(texts).num_in == len(texts)


RIGHT_TEXTS = [
    "Été à la plage : l’été, “CAFÉ”, DÉJÀ VU…",
    "Größe über Äpfel – „ÖL“, STRAẞE",
    "İstanbul’da güneş, ÇİÇEK, ığdır",
    "Phở bò Hà Nội, “ĐÀ NẴNG” – Việt Nam",
    "São Paulo, MANHÃ™, PIÑATA® TOÑO»",
    "Chlapec plave ve vodě, příště",
    "ÉCOLE° Ø 5 µm, Å²",
]


def test_mojibake_is_undone_and_right_text_is_not_touched() -> None:
    assert _captions(RIGHT_TEXTS) == RIGHT_TEXTS
    for encoding in ("latin-1", "cp1252"):
        for text in ("café", "naïve dog’s", "Größe über alles", "10\u00a0kg", "fish 😀", "привет, это кошка"):
            try:
                spoilt = text.encode().decode(encoding)
            except UnicodeDecodeError:
                continue  # the table has no character for one of the bytes
            assert _captions([spoilt, f"a {spoilt}"]) == [
                text.replace("\u00a0", " "),
                f"a {text}".replace("\u00a0", " "),
            ]
    assert _captions(["cafÃ©"], CleanConfig(fix_mojibake=False)) == ["cafÃ©"]


NAMES = {
    "sleeping_cat": "sleeping cat",
    "sleeping_cat.jpg.webp": "sleeping cat",
    "isle_of_man": "isle of man",
    "Fox Crochet Hat.jpg": "Fox Crochet Hat",
    "holiday photo.JPG": "holiday photo",
    "The-Monocle-Guide-to-Good-Business.png": "The Monocle Guide to Good Business",
    "products/evergreen-flower-of-life.jpg": "evergreen flower of life",
    "File:Alice Liddell with sisters.jpg": "Alice Liddell with sisters",
    "mountain_lake-1920x1080.jpg": "mountain lake",
    "sunset (2).jpg": "sunset",
    "cat.jpg": "cat",
    "nike_logo.png": "nike logo",
    "red_panda_final.png": "red panda",
    "kennedy_nixon_debate_first_chicago_1960": "kennedy nixon debate first chicago 1960",
    "Private hell 36.JPG": "Private hell",
    "Ünïcode_straße.png": "Ünïcode straße",
    "写真_犬.jpg": "写真 犬",
    "iPhone_case.jpg": "iPhone case",
}


@pytest.mark.parametrize("text", NAMES)
def test_file_names_that_people_gave_become_captions(text: str) -> None:
    assert _captions([text]) == [NAMES[text]]
    assert _reason(text, CleanConfig(read_file_names=False)) == "file_name"


def test_long_texts_end_behind_the_last_word_that_fits() -> None:
    assert _captions(["word " * 300]) == [("word " * 200).strip()]
    config = CleanConfig(max_chars=12)
    texts = [
        "one two three four",
        "one two, three four",
        "one two (three)",
        "twelve chars",
        "twelve chars.",
        "甲乙丙丁戊己庚，辛壬癸子丑",
    ]
    assert _captions(texts, config) == ["one two", "one two", "one two", "twelve chars", "twelve", "甲乙丙丁戊己庚，"]
    assert [_reason(text, config) for text in ("a verylongword", "x" * 13)] == ["too_long", "too_long"]
    assert _reason("one two three four", CleanConfig(max_chars=12, long_texts="reject")) == "too_long"


@pytest.mark.parametrize(
    ("reason", "texts"),
    [
        ("empty", ["", " ", "\u00a0\n", "\u200b", "\x00\x1f"]),
        ("too_short", ["a", "é", " a "]),
        ("too_long", ["x" * 1001, "x" * 5000, "犬" * 1001]),
        (
            "file_name",
            [
                "IMG_1234",
                "DSC00012",
                "img-20200101-WA0001",
                "banner_home_2x",
                "holiday-4711.JPG",
                "logo.svg",
                "red-circle-1987.jpg",
                "bg_image",
                "xkdfz.png",
                "aGVsbG8gd29ybGQ.jpg",
                "P1010101",
                "20190304_123456",
                "8f14e45fceea167a5a36dedd4bea2543",
                "Screenshot_20200101",
                "de305d54-75b4-431b-adb2-eb6b9e546014",
                "image001",
                "photo 1.jpeg",
            ],
        ),
        (
            "date",
            [
                "2019-05-12",
                "12 May 2019",
                "May 2019",
                "Monday, May 5th, 2019",
                "10:30 PM",
                "1,234.56",
                "50%",
                "$12.99",
                "2019-05-12T10:22:01Z",
                "(123)",
                "12/05/2019 at 10.30 am",
                "10:30 p.m.",
                "5 P. M.",
                "8am",
                "20190512T1022",
            ],
        ),
        (
            "placeholder",
            [
                "image",
                "Image",
                "IMAGE",
                "Photo 3",
                "untitled",
                "picture #2",
                "[image]",
                "No image available",
                "thumbnail-1",
                "Click to enlarge",
                "Bild",
                "изображение",
                "图片 1",
                "ФОТО",
                "“ИЗОБРАЖЕНИЕ”…",
                "“image”",
                "alt text",
                "null",
                "nan",
                "NaN",
                "<NA>",
                "true",
                "[object Object]",
                "Photo of [object Object]",
                "{{ product.title }}",
                "Photo of {{name}}",
                "${alt}",
                "<%= title %>",
                "{% image_alt %}",
                "No photo description available.",
                "No alternative text description for this image",
                "This image has an empty alt attribute; its file name is a-dog-on-the-beach-1.jpg and nothing else",
            ],
        ),
        (
            "keyword_list",
            [
                "dog, cat, bird, fish, horse, cow, pig, sheep",
                "red shoes|blue shoes|green shoes|a|b|c|d|e",
                "a b;c d;e f;g h;i j;k l;m n;o p",
                "Lobster, tree topper, Christmas, star, felt decoration, red, under the sea, little mermaid,",
            ],
        ),
        (
            "web_address",
            [
                "http://example.com/a b".replace(" ", ""),
                "www.example.com",
                "me@example.org",
                "example.com",
                "hitachi-solutions.jp",
                "EXAMPLE.NET",
                "www.paint.NET",
            ],
        ),
    ],
)
def test_text_that_is_no_caption_is_rejected_with_its_reason(reason: str, texts: list[str]) -> None:
    assert [(text, _reason(text)) for text in texts] == [(text, reason) for text in texts]
    assert reason in Clean.reasons


@pytest.mark.parametrize(
    "text",
    [
        "A dog",
        "dog",
        "A photo of a dog",
        "Photo: John",
        "May",
        "May flowers",
        "Route 66",
        "3 dogs",
        "24 hours in Rome",
        "Boeing 747",
        "dog, cat, bird, fish, horse, cow, pig",
        "one, two words here, and three of them, a, b, c d e f g h i j k l m n, o, p",
        "A man, a plan, a canal, a very long thing indeed here, it goes on and on, more of the same, and the end of it",
        "mother-in-law",
        "state-of-the-art",
        "The end.",
        "A fisherman.",
        "St. Louis, Mo.",
        "see example.com for more",
        "AC/DC",
        "abc",
        "A list of nine words that ends with file.jpg",
        "Mr. & Mrs. Smith",
        "Section 8",
        "犬と猫",
        "x" * 1000,
        "B2B",
        "Photographer",
        "ox",
        "TV",
        "犬",
        "M16",
        "p2p",
        "A4",
        "Nan",
        "Convert your photos to .webp",
        "ASP.NET",
        "Paint.NET",
        "No photo of the dog",
        "This image shows a dog",
        "A map of the United States titled Regions, with Alaska, Hawaii, Texas, Ohio, Maine, Utah, Iowa and Idaho",
        "The top 10 countries were: the U.S., the U.K., Canada, Australia, Germany, Italy, India, and Japan.",
        "On voit sur la table un chat, un chien, une vache, un coq, un âne, un oie, un cochon.",
    ],
)
def test_text_that_describes_is_kept(text: str) -> None:
    assert _reason(text) is None


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (CleanConfig(drop_file_names=False), "DSC_1234"),
        (CleanConfig(drop_dates=False), "12 May 2019"),
        (CleanConfig(drop_placeholders=False), "untitled"),
        (CleanConfig(drop_keyword_lists=False), "a, b, c, d, e, f, g, h, i"),
        (CleanConfig(drop_web_addresses=False), "www.example.com"),
        (CleanConfig(min_chars=1), "a"),
        (CleanConfig(max_chars=2000), "x" * 1001),
    ],
)
def test_every_rule_can_be_switched_off(config: CleanConfig, text: str) -> None:
    assert _reason(text) is not None
    assert _reason(text, config) is None


def test_limits_hold_on_both_sides() -> None:
    config = CleanConfig(min_chars=5, max_chars=8, min_words=2)
    assert [_reason(text, config) for text in ("a bc", "a bcd", "abcde", "a bcdefg", "a bcdefghi")] == [
        "too_short",
        None,
        "too_short",
        None,
        "too_long",
    ]
    assert [_reason(", ".join("ab" * n for n in range(1, k))) for k in (8, 9)] == [None, "keyword_list"]


def test_impossible_limits_are_config_errors() -> None:
    for bad in ({"min_chars": 0}, {"max_chars": 1}, {"min_keywords": 1}):
        with pytest.raises(ConfigError):
            CleanConfig(**bad)  # type: ignore[arg-type]  # ints all


_ODD = st.sampled_from(
    [
        "image",
        "IMG_1",
        "May",
        "2019",
        ".jpg",
        "http://",
        "@",
        "_",
        ",",
        "|",
        "fo",
        "to",
        "изображение",
        "é",
        "ı",
        "ſ",
        "，",
        ".",
        "1",
        "٣",
        "K",
        "😀",
        "the",
        "of",
        "Bild",
        "–",
        "€",
        "wednesday",
        "́",
        "\u200d",
        "\u200b",
        "ᅡ",
        "ᄀ",
        "K",
        "\u2028",
        "\xa0",
        " ",
        "  ",
        "x" * 30,
        "Ã",
        "©",
        "â€™",
        "ðŸ˜€",
        "ë’",
        "[o",
        "&",
        "&amp;",
        ";",
        "<b>",
        "</b>",
        "<",
        "{{a}}",
        "[object Object]",
        "nan",
        "No alternative text description",
        "no photo description available",
        "cat",
        ".webp",
        "ASP.NET",
    ]
)
_DATE_PIECES = st.sampled_from(
    [
        "12",
        "May",
        "2019",
        "th",
        "st",
        "of",
        "at",
        "MON",
        "²",
        "º",
        "é",
        ":",
        "/",
        "$",
        "#",
        "!",
        "*",
        "~",
        "z",
        "x1",
        "T",
    ]
)
_NAME_PIECES = st.sampled_from(
    [
        *("IMG", "P", "Sam", "File", "photo", "1234567", "0123456789abcdef", "cafe", "2", "g", "x", "é", "-", "_", " "),
        *(".mp4", ".cr2", ".JPEG", ".ti\u212a", ".net", ".web", "."),
    ]
)
_LIST_PIECES = st.sampled_from(["dog", "a b", "a b c", "é", ",", ", ", ";", "|", " | ", ",,"])
_TEXTS = st.one_of(
    st.text(max_size=30),
    st.lists(_ODD, max_size=10).map("".join),
    st.lists(_ODD, max_size=10).map(" ".join),
    st.lists(_DATE_PIECES, max_size=6).map(" ".join),
    st.lists(_DATE_PIECES, max_size=6).map("".join),
    st.lists(_LIST_PIECES, max_size=30).map("".join),
    st.lists(_NAME_PIECES, max_size=5).map("".join),
)
_CONFIGS = st.builds(
    CleanConfig,
    min_chars=st.integers(1, 5),
    min_words=st.integers(1, 3),
    max_chars=st.sampled_from([5, 12, 30, 1000]),
    min_keywords=st.integers(2, 9),
    max_words_per_keyword=st.sampled_from([1.0, 1.5, 2.5]),
    long_texts=st.sampled_from(["cut", "reject"]),
    strip_markup=st.booleans(),
    fix_mojibake=st.booleans(),
    read_file_names=st.booleans(),
)


@settings(max_examples=400)
@given(st.lists(_TEXTS, min_size=1, max_size=20), _CONFIGS)
def test_batch_equals_the_definition_text_by_text(texts: list[str], config: CleanConfig) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    outcome = _clean(texts, config)
    expected = [(caption, reason_against(caption, config)) for caption in (normalise(text, config) for text in texts)]
    assert outcome.kept["caption"].to_pylist() == [caption for caption, reason in expected if reason is None]
    assert outcome.rejected["reason"].to_pylist() == [reason for _, reason in expected if reason is not None]


@given(_TEXTS)
def test_normal_form_is_stable(text: str) -> None:
    caption = normalise(text)
    # Entities and mojibake are undone once: what was spoilt twice is still spoilt.
    assert normalise(caption, CleanConfig(strip_markup=False, fix_mojibake=False)) == caption
    assert unicodedata.is_normalized("NFC", caption)
    assert caption == caption.strip()
    assert not re.search(r"\s\s|[^\S ]|[\x00-\x1f\x7f\u200b\ufeff]", caption)


def test_real_texts_equal_the_definition(shared_data: Path) -> None:
    with gzip.open(shared_data / "captions" / "captions.tsv.gz", "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    texts = [row[4] for row in rows[1:] if row[2] == "web_alt"] + [row[4] for row in rows[1::20]]
    config = CleanConfig()
    outcome = _clean(texts, config)
    expected = [(caption, reason_against(caption, config)) for caption in (normalise(text, config) for text in texts)]
    assert outcome.kept["caption"].to_pylist() == [caption for caption, reason in expected if reason is None]
    assert outcome.rejected["reason"].to_pylist() == [reason for _, reason in expected if reason is not None]


def test_empty_and_sliced_batches() -> None:
    assert _clean([]).kept.num_rows == 0
    outcome = clean(_batch(["first one", "IMG_1", "third one"]).slice(1), CleanConfig())
    assert outcome.kept["caption"].to_pylist() == ["third one"]


# --- the documentation --------------------------------------------------------------------------


def test_the_table_of_examples_in_the_documentation_holds() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cleaning.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" ").removeprefix("`").removesuffix("`") for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| `") and line.count("|") == 4
    ]
    examples = [row for row in rows if not row[2] or row[2] in Clean.reasons]
    assert len(examples) >= 20
    for shown, caption, reason in examples:
        if "\\" in shown:  # an escape for what a table cannot show
            shown, caption = (cell.encode("ascii").decode("unicode_escape") for cell in (shown, caption))
        assert (_captions([shown]), _reason(shown)) == ([caption] if caption else [], reason or None)
