from __future__ import annotations

import bz2
import gzip
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import mwparserfromhell
import pytest

from pipeline.sample_web.phrases import UNMATCHED_CAPTIONS
from pipeline.sample_web.vocabulary import CONCEPT_WORDS, EVALUATED_CLASSES

_NAMESPACE = "{http://www.mediawiki.org/xml/export-0.11/}"


@pytest.fixture(scope="module")
def pages(sample_web: Path) -> list[ElementTree.Element]:
    text = bz2.decompress((sample_web / "encyclopedia" / "pages-articles.xml.bz2").read_bytes())
    return ElementTree.fromstring(text).findall(f"{_NAMESPACE}page")


def _text(page: ElementTree.Element, path: str) -> str:
    return page.findtext("/".join(f"{_NAMESPACE}{name}" for name in path.split("/"))) or ""


def _lemmas(sample_web: Path) -> list[str]:
    lines = []
    for part in ("noun", "verb", "adj", "adv"):
        text = (sample_web / "encyclopedia" / "wordnet" / f"index.{part}").read_text(encoding="ascii")
        assert text.startswith("  1 ")  # header lines begin with spaces
        entries = [line for line in text.splitlines() if not line.startswith(" ")]
        assert entries == sorted(entries, key=lambda line: line.split(" ")[0])
        for line in entries:
            lemma, kind, senses, num_pointers, *rest = line.split()
            assert kind == {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}[part]
            offsets = rest[int(num_pointers) + 2 :]
            assert len(offsets) == int(senses)
            lines.append(lemma.replace("_", " "))
    return lines


def test_the_dump_has_what_real_dumps_have(pages: list[ElementTree.Element]) -> None:
    titles = [_text(page, "title") for page in pages]
    assert len(titles) == len(set(titles)) > 250
    assert any(page.find(f"{_NAMESPACE}redirect") is not None for page in pages)
    assert {_text(page, "ns") for page in pages} >= {"0", "1", "2", "4", "6", "10", "14"}
    texts = "\n".join(_text(page, "revision/text") for page in pages)
    for mark in ("{{Infobox", "[[File:", "<ref", "{|", "{{disambiguation}}", "'''", "<!--", "#REDIRECT", "&nbsp;"):
        assert mark in texts


def test_every_concept_is_a_frequent_word(pages: list[ElementTree.Element]) -> None:
    counts: Counter[str] = Counter()
    for page in pages:
        if _text(page, "ns") == "0" and page.find(f"{_NAMESPACE}redirect") is None:
            prose = mwparserfromhell.parse(_text(page, "revision/text")).strip_code()
            counts.update(re.findall(r"[A-Za-z]+", str(prose)))
    assert [word for word in sorted(CONCEPT_WORDS) if counts[word] < 5] == []


def test_unmatched_captions_share_no_word_with_any_source(sample_web: Path, pages: list[ElementTree.Element]) -> None:
    known = set(re.findall(r"\w+", " ".join(_lemmas(sample_web)).lower()))
    for page in pages:
        known |= set(re.findall(r"\w+", f"{_text(page, 'title')} {_text(page, 'revision/text')}".lower()))
    for caption in UNMATCHED_CAPTIONS:
        assert known.isdisjoint(re.findall(r"\w+", caption.lower())), caption


def test_page_views_are_sorted_lines_of_four_fields(sample_web: Path) -> None:
    text = gzip.decompress((sample_web / "encyclopedia" / "pageviews-20260101-000000.gz").read_bytes()).decode()
    lines = [line.split(" ") for line in text.splitlines()]
    assert {len(line) for line in lines} == {4}
    assert [(line[0], line[1]) for line in lines] == sorted((line[0], line[1]) for line in lines)
    assert {"en", "en.m", "de"} <= {line[0] for line in lines}
    assert all(int(line[2]) > 0 and " " not in line[1] for line in lines)


def test_word_list_holds_the_classes(sample_web: Path) -> None:
    lemmas = _lemmas(sample_web)
    assert set(EVALUATED_CLASSES) <= set(lemmas)
