"""The two ways in which a sample web deals out classes and texts."""

from __future__ import annotations

import bz2
import hashlib
import math
import re
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.sample_web import SampleWebConfig, build_sample_web, write
from pipeline.sample_web.build import is_built, read_settings
from pipeline.sample_web.classes import tier_of
from pipeline.sample_web.encyclopedia import write_encyclopedia
from pipeline.sample_web.law import LAWS
from pipeline.sample_web.pages import make_pages
from pipeline.sample_web.plan import Plan, make_plan
from pipeline.sample_web.vocabulary import CONCEPT_WORDS

EVEN_WEB = "ea4054d06b82e26ba00881d91a0315373a7563719933966acca783aa2cec74ee"
"""Of the plan and the pages before there were other statistics; a change here needs a new FORMAT_VERSION."""


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A web with the published statistics."""
    return make_plan(links=12_000, seed=0, port=8766, statistics="web")


def _words(text: str | None) -> set[str]:
    return set(re.findall(r"[a-z]+", (text or "").lower()))


def test_the_even_web_keeps_every_byte() -> None:
    plan = make_plan(links=400, seed=0, port=8766)
    found = hashlib.sha256()
    for page in make_pages(plan):
        found.update(page.url.encode() + b"\0" + page.body)
    for r in plan.routes:
        told = (r.site, r.path, r.query, r.body, r.manner, r.status, r.content_type, r.headers)
        found.update(repr(told).encode())
    for body in plan.bodies:
        found.update(repr((body.key, body.form, body.scene)).encode())
    assert found.hexdigest() == EVEN_WEB


def test_half_of_the_english_texts_match_nothing(plan: Plan) -> None:
    kinds = Counter(link.text_kind for link in plan.links)
    matching = kinds["caption"] + kinds["wrong"] + kinds["general"]
    assert abs(matching / (matching + kinds["unmatched"]) - 0.52) < 0.03
    assert kinds["wrong"] > 0.05 * kinds["caption"]
    assert abs(len(plan.links) - 12_000) < 12_000 * 0.01


def test_unmatched_texts_share_no_word_with_the_encyclopedia(plan: Plan, tmp_path: Path) -> None:
    law = LAWS["web"]
    write_encyclopedia(0, tmp_path / "e", classes=law.classes, names=law.names)
    known = _words(bz2.decompress((tmp_path / "e" / "pages-articles.xml.bz2").read_bytes()).decode())
    for file in (tmp_path / "e" / "wordnet").iterdir():
        known |= _words(file.read_text(encoding="ascii"))
    for link in plan.links:
        if link.text_kind == "unmatched":
            assert known.isdisjoint(_words(link.alt_text)), link.alt_text
    told = {word for link in plan.links if link.text_kind == "caption" for word in _words(link.alt_text)}
    assert CONCEPT_WORDS & told <= known


def test_a_few_words_hold_nearly_all_matches_and_a_quarter_of_the_texts_is_enough_for_the_rest(plan: Plan) -> None:
    """The share that a balance keeps when every word is a query: near the published quarter, heads near 94 %."""
    texts = [_words(link.alt_text) for link in plan.links if link.text_kind in ("caption", "wrong", "general")]
    counts = Counter(word for text in texts for word in text if len(word) > 2)
    t = 6
    heads = [word for word, count in counts.items() if count > t]
    assert sum(counts[word] for word in heads) / counts.total() > 0.9
    kept = sum(1 - math.prod(1 - min(1, t / counts[word]) for word in text if word in counts) for text in texts)
    assert 0.1 < kept / len(texts) < 0.35


def test_true_captions_name_colour_and_thing_and_classes_are_long_tailed(plan: Plan) -> None:
    told: Counter[str] = Counter()
    for link in plan.links:
        if link.text_kind == "caption" and link.fetch_fate is None and link.scene is not None:
            told[link.scene.label] += 1
            colour, thing = link.scene.label.split(" ")
            text = (link.alt_text or "").lower()
            assert colour in text, text
            assert thing[:-1] in text, text
    tiers = Counter(tier_of(told[name]) for name in plan.classes)
    assert len(plan.classes) == 272
    assert min(tiers[tier] for tier in ("head", "middle", "tail")) >= 4
    assert told.most_common(1)[0][1] > 500


def test_tiers_begin_where_image_net_lt_has_them() -> None:
    assert [tier_of(links) for links in (0, 19, 20, 100, 101)] == ["tail", "tail", "middle", "middle", "head"]


def test_a_built_web_counts_its_classes_and_evaluates_all_of_them(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_INLINE_BODIES", 1000)  # to start workers would take longer
    config = SampleWebConfig(path=str(tmp_path / "web"), links=400, port=free_port, statistics="web")
    web = build_sample_web(config)
    classes = pq.read_table(web / "classes.parquet").to_pylist()
    assert [row["class"] for row in classes] == list(range(272))
    assert [row["name"] for row in classes] == (web / "eval" / "classnames.txt").read_text().splitlines()
    truth = pq.read_table(web / "truth.parquet").to_pylist()
    counted = Counter(r["class"] for r in truth if r["text_kind"] == "caption" and r["verdict"] == "kept")
    assert all(row["links"] == counted[row["name"]] for row in classes)
    assert all(row["tier"] == tier_of(row["links"]) for row in classes)
    assert {row["evaluated"] for row in truth if row["class"]} == {True}
    with tarfile.open(web / "eval" / "test" / "0.tar") as tar:
        labels = {tar.extractfile(m).read() for m in tar if m.name.endswith(".cls")}  # type: ignore[union-attr]  # files
    assert len(labels) == 272
    assert read_settings(web) == config
    assert not is_built(SampleWebConfig(path=config.path, links=400, port=free_port))
