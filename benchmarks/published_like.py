"""Captions and a query list like the published ones, for benchmarks: real text wherever there is any.

List: words of an encyclopedia slice by count, its pairs by PMI, its link targets as titles (each up to the published
size), and all lemmas of WordNet. What these fall short of 500,000 are real queries with two letters changed,
which match next to nothing, as much of a real list's tail does. Stop words are in the list, as they are
in the published one, so that most words of a caption match.

Captions: web alternative texts (and figure captions), sentences of crowd workers, captions of the sample web, in
the shares 4 : 4 : 2, each kind repeated as often as needed.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import unescape

from pipeline.sample_web.plan import make_plan
from query_list.corpus import neighbours
from query_list.prose import read_article

__all__ = ["TOTAL", "make_captions", "make_queries", "slice_articles"]

TOTAL = 500_000
UNIGRAMS, BIGRAMS, TITLES = 251_465, 100_646, 61_235
_LINK = re.compile(r"\[\[([^\[\]|#:]+)")


def make_captions(data: Path, size: int) -> list[str]:
    """`size` captions in an order that a seed fixes."""
    kinds: dict[str, list[str]] = {"web_alt": [], "caption": [], "sample_web": []}
    with gzip.open(data / "captions" / "captions.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        for _, language, kind, _, text in rows:
            if language in ("en", "und") and text:
                kinds["caption" if kind == "caption" else "web_alt"].append(text)
    kinds["sample_web"] = [
        link.alt_text
        for link in make_plan(links=6000, seed=1, port=80).links
        if link.alt_text and link.text_kind in ("caption", "general")
    ]
    chance = random.Random(1)
    captions: list[str] = []
    for kind, share in (("web_alt", 0.4), ("caption", 0.4), ("sample_web", 0.2)):
        texts = kinds[kind]
        chance.shuffle(texts)
        captions += itertools.islice(itertools.cycle(texts), math.ceil(share * size))
    chance.shuffle(captions)
    return captions[:size]


def make_queries(data: Path, scale: float = 1.0) -> tuple[list[str], int]:
    """500,000 * scale queries, in the published order of sources; and how many of them are not real."""
    words: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    titles: Counter[str] = Counter()
    for title, wikitext in slice_articles(data):
        titles.update([title, *(link.strip() for link in _LINK.findall(wikitext) if link[:1].isalnum())])
        article = read_article(wikitext, ())
        if article is not None:
            found, near = neighbours(article.prose)
            words.update(found)
            pairs.update(near)
    total = words.total()

    def pmi(pair: str) -> float:
        first, _, second = pair.partition(" ")
        return math.log2(pairs[pair] * total / (words[first] * words[second]))

    by_count = sorted(words, key=lambda word: (-words[word], word))
    by_pmi = sorted((pair for pair in pairs if pairs[pair] > 2), key=lambda pair: (-pmi(pair), pair))
    by_links = sorted((title for title in titles if title), key=lambda title: (-titles[title], title))
    sources = ((by_count, UNIGRAMS), (by_pmi, BIGRAMS), (by_links, TITLES), (list(_lemmas(data)), TOTAL))
    chosen: dict[str, None] = {}
    size = int(TOTAL * scale)
    for source, budget in sources:
        _take(source, chosen, min(size, len(chosen) + budget))
    real = list(chosen)
    chance = random.Random(2)
    while len(chosen) < size:
        _take((_disturbed(text, chance) for text in real), chosen, size)
    return list(chosen), size - len(real)


def slice_articles(data: Path) -> Iterator[tuple[str, str]]:
    """(title, wikitext) of the encyclopedia slice's pages."""
    for path in sorted((data / "queries").glob("*.bz2")):
        xml = bz2.decompress(path.read_bytes()).decode()
        for page in re.findall(r"<page>.*?</page>", xml, re.S):
            title = re.search(r"<title>(.*?)</title>", page)
            text = re.search(r"<text[^>]*>(.*?)</text>", page, re.S)
            if title and text:
                yield unescape(title[1], {"&quot;": '"'}), unescape(text[1], {"&quot;": '"'})


def _lemmas(data: Path) -> Iterator[str]:
    for path in sorted((data / "queries").glob("wordnet*.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from (line.split()[0].replace("_", " ") for line in lines if not line.startswith(" "))


def _take(texts: Iterable[str], chosen: dict[str, None], end: int) -> None:
    for text in texts:
        if len(chosen) >= end:
            return
        chosen.setdefault(text)


def _disturbed(text: str, chance: random.Random) -> str:
    """Two letters replaced."""
    letters = list(text)
    for _ in range(2):
        letters[chance.randrange(len(letters))] = chance.choice("etaoinshrdlucmwf")
    return "".join(letters)
