"""The sample encyclopedia, in the formats of the real sources of a query list.

pages-articles.xml.bz2           MediaWiki export 0.11: articles with templates, references, tables,
                                 redirects, disambiguations, other namespaces
pageviews-20260101-000000.gz     Wikimedia page views: project, title, views, bytes
wordnet/index.noun|verb|adj|adv  WordNet 3.x indexes
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.encyclopedia_words import (
    ADVERBS,
    COLOUR_SENTENCES,
    COMPOUND_LEMMAS,
    GENERAL_SENTENCES,
    JOBS,
    MATERIALS,
    MORE_ADJECTIVES,
    MORE_NOUNS,
    OBJECT_SENTENCES,
    PAIR_SENTENCES,
    PLACES,
    PLURAL_SENTENCES,
    SHAPE_SENTENCES,
    TOPICS,
    VERBS,
    WORKS,
)
from pipeline.sample_web.phrases import plural
from pipeline.sample_web.vocabulary import BACKGROUNDS, COLOURS, OBJECT_COUNTS, SHAPES

__all__ = ["write_encyclopedia"]

_TIMES = ("autumn", "spring", "summer", "winter")
_STAMP = "2026-01-01T00:00:00Z"
_NAMESPACES = {
    -2: "Media",
    -1: "Special",
    0: "",
    1: "Talk",
    2: "User",
    3: "User talk",
    4: "Wikipedia",
    6: "File",
    10: "Template",
    12: "Help",
    14: "Category",
}


@dataclass(frozen=True, kw_only=True)
class _Article:
    title: str
    text: str
    namespace: int = 0
    redirect: str | None = None
    views: int = 0


def write_encyclopedia(seed: int, directory: Path, *, classes: Sequence[str], names: Sequence[str] = ()) -> None:
    """Write all files into a new `directory`; `classes` and proper `names` have articles, and classes are lemmas."""
    (directory / "wordnet").mkdir(parents=True)
    articles = _articles(seed, classes, names)
    xml = "".join(_export(articles))
    (directory / "pages-articles.xml.bz2").write_bytes(bz2.compress(xml.encode(), 9))
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)  # gzip without a time stamp
    views = "".join(_page_views(seed, articles)).encode()
    (directory / "pageviews-20260101-000000.gz").write_bytes(packer.compress(views) + packer.flush())
    _write_wordnet(directory / "wordnet", classes)


# --- articles -----------------------------------------------------------------------------------


def _articles(seed: int, classes: Sequence[str], names: Sequence[str]) -> list[_Article]:
    subjects: list[tuple[str, str, tuple[str, ...]]] = [
        *((name, "Shapes", (*SHAPE_SENTENCES, *GENERAL_SENTENCES)) for name in SHAPES),
        *((name, "Colours", (*COLOUR_SENTENCES, *GENERAL_SENTENCES)) for name in (*COLOURS, *BACKGROUNDS)),
        *((name, "Objects", (*OBJECT_SENTENCES, *GENERAL_SENTENCES)) for name in OBJECT_COUNTS),
        *((name, "Signs", PAIR_SENTENCES) for name in classes),
        *((name, "Names", PAIR_SENTENCES) for name in names),
        *((name, "Materials", GENERAL_SENTENCES) for name in MATERIALS),
        *((name, "Places", GENERAL_SENTENCES) for name in PLACES),
        *((name, "Trades", GENERAL_SENTENCES) for name in JOBS),
        *((name, "Works", GENERAL_SENTENCES) for name in WORKS),
        *((name, "Ideas", GENERAL_SENTENCES) for name in TOPICS),
    ]
    articles = []
    for rank, (name, category, sentences) in enumerate(subjects):
        dice = Dice(seed, "article", name)
        articles.append(
            _Article(
                title=_capital(name),
                text=_wikitext(dice, name, category, sentences),
                views=int(40_000 / (1 + dice.below(len(subjects)))),
            )
        )
        if rank % 4 == 0:
            target = _capital(name)
            articles.append(
                _Article(
                    title=_capital(plural(name)),
                    text=f"#REDIRECT [[{target}]]\n\n{{{{R from plural}}}}",
                    redirect=target,
                    views=dice.below(400),
                )
            )
    articles += _disambiguations()
    articles += _other_namespaces()
    return articles


def _wikitext(dice: Dice, name: str, category: str, sentences: Sequence[str]) -> str:
    told = dice.shuffled(sentences)[:14]
    if category in ("Shapes", "Objects"):
        told = [*told[:5], *PLURAL_SENTENCES, *told[5:]]
    chosen = [_filled(dice, sentence, name) for sentence in told]
    linked = dice.choice((*WORKS, *PLACES))
    cells = "\n|-\n".join(f"| {dice.choice(tuple(COLOURS))} || {dice.below(90) + 10}" for _ in range(3))
    reference = (
        f'<ref name="b{dice.below(9)}">{{{{cite book |title=Sourcebook {dice.below(99)} '
        f"|year={1900 + dice.below(120)} |publisher=Nowhere Press}}}}</ref>"
    )
    return "\n".join(
        [
            f"{{{{Short description|Entry of the sample encyclopedia}}}}\n{{{{Infobox entry\n| name = {_capital(name)}"
            f"\n| kind = [[{category[:-1]}]]\n| image = {_capital(name)}.svg\n}}}}",
            f"[[File:{_capital(name)}.svg|thumb|right|upright=0.8|A {name} on ''paper'']]",
            f"'''{_capital(name)}''' is an entry of this encyclopedia.{reference} {chosen[0]} {' '.join(chosen[1:5])}",
            f"\n== History ==\n<!-- to be checked -->\n{' '.join(chosen[5:9])}",
            f"\n=== In the [[{linked}]] ===\n* {chosen[9]}\n* {chosen[10 % len(chosen)]}",
            f'\n{{| class="wikitable"\n! Colour !! Number\n|-\n{cells}\n|}}',
            f"\n{' '.join(chosen[11:])}&nbsp;{{{{citation needed|date=January 2026}}}}",
            f"\n== See also ==\n* [[{_capital(linked)}|{linked}]]\n* [https://example.org/{quote(name)} Home page]",
            f"\n== References ==\n{{{{reflist}}}}\n\n[[Category:{category}]]",
        ]
    )


def _filled(dice: Dice, sentence: str, name: str) -> str:
    """A sentence with its slots filled; some words become links."""
    drawn = {
        "colour": tuple(COLOURS),
        "ground": tuple(BACKGROUNDS),
        "shape": SHAPES,
        "object": tuple(OBJECT_COUNTS),
        "material": MATERIALS,
        "place": PLACES,
        "job": JOBS,
        "work": WORKS,
        "time": _TIMES,
    }
    text = sentence.replace("{xs}", plural(name)).replace("{X}", _capital(name)).replace("{x}", name)
    for slot, words in drawn.items():
        while f"{{{slot}}}" in text:
            word = dice.choice(words)
            shown = word
            if dice.chance(0.12):
                shown = f"[[{_capital(word)}|{word}]]" if dice.chance(0.5) else f"[[{word}]]"
            text = text.replace(f"{{{slot}}}", shown, 1)
    for vowel in "aeiou":
        text = text.replace(f" a {vowel}", f" an {vowel}").replace(f"A {vowel}", f"An {vowel}")
    return text


def _disambiguations() -> list[_Article]:
    pages = []
    for name, meanings in {
        "Ring (disambiguation)": ("Ring", "Circle", "Wheel"),
        "Star (disambiguation)": ("Star", "Sign"),
        "Orange (disambiguation)": ("Orange", "Colour"),
        "Plate": ("Mosaic", "Tile"),
        "Mercury": ("Silver", "Planetarium"),
    }.items():
        lines = "\n".join(f"* [[{meaning}]]" for meaning in meanings)
        pages.append(
            _Article(
                title=name if name != "Plate" else "Plate (disambiguation)",
                text=f"'''{name}''' may refer to:\n{lines}\n\n{{{{disambiguation}}}}",
                views=900,
            )
        )
    return pages


def _other_namespaces() -> list[_Article]:
    return [
        _Article(title="Template:Citation needed", text="<sup>[citation needed]</sup>", namespace=10, views=5000),
        _Article(title="Category:Shapes", text="All shapes of this encyclopedia.", namespace=14, views=800),
        _Article(title="Talk:Circle", text="Is this entry long enough? ~~~~", namespace=1, views=12),
        _Article(title="User:Example", text="Hello.", namespace=2, views=3),
        _Article(title="Wikipedia:About", text="About this encyclopedia.", namespace=4, views=7000),
        _Article(title="File:Circle.svg", text="== Licensing ==\n{{PD-shape}}", namespace=6, views=40),
        _Article(title="Help:Contents", text="How to write an entry.", namespace=12, views=600),
    ]


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]


# --- files --------------------------------------------------------------------------------------


def _export(articles: Sequence[_Article]) -> Iterable[str]:
    yield (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:schemaLocation="http://www.mediawiki.org/xml/export-0.11/ '
        'http://www.mediawiki.org/xml/export-0.11.xsd" version="0.11" xml:lang="en">\n'
        "  <siteinfo>\n    <sitename>Sample encyclopedia</sitename>\n    <dbname>samplewiki</dbname>\n"
        "    <base>http://archive.localhost/wiki/Main_Page</base>\n    <generator>MediaWiki 1.44.0</generator>\n"
        "    <case>first-letter</case>\n    <namespaces>\n"
    )
    for key, name in _NAMESPACES.items():
        end = f">{name}</namespace>" if name else " />"
        yield f'      <namespace key="{key}" case="first-letter"{end}\n'
    yield "    </namespaces>\n  </siteinfo>\n"
    for number, article in enumerate(articles, 10):
        redirect = f"    <redirect title={quoteattr(article.redirect)} />\n" if article.redirect else ""
        size = len(article.text.encode())
        yield (
            f"  <page>\n    <title>{escape(article.title)}</title>\n    <ns>{article.namespace}</ns>\n"
            f"    <id>{number}</id>\n{redirect}    <revision>\n      <id>{number + 5000}</id>\n"
            f"      <parentid>{number + 2000}</parentid>\n      <timestamp>{_STAMP}</timestamp>\n"
            "      <contributor>\n        <username>Sample</username>\n        <id>1</id>\n      </contributor>\n"
            f"      <origin>{number + 5000}</origin>\n      <model>wikitext</model>\n"
            "      <format>text/x-wiki</format>\n"
            f'      <text bytes="{size}" xml:space="preserve">{escape(article.text)}</text>\n'
            "    </revision>\n  </page>\n"
        )
    yield "</mediawiki>\n"


def _page_views(seed: int, articles: Sequence[_Article]) -> Iterable[str]:
    """Lines sorted by project and title, as Wikimedia publishes them."""
    dice = Dice(seed, "page views")
    lines = [("en", "Main_Page", 90_000), ("en", "Special:Search", 70_000), ("en", "A_title_that_is_gone", 50)]
    lines += [("de", "Kreis", 700), ("fr", "Cercle", 500), ("commons.m", "File:Circle.svg", 60), ("ja", "円", 80)]
    for article in articles:
        title = article.title.replace(" ", "_")
        lines.append(("en", title, article.views))
        if dice.chance(0.5):
            lines.append(("en.m", title, article.views // 2))
        if dice.chance(0.05):
            lines.append(("de", title, dice.below(50)))
    for project, title, views in sorted(lines):
        if views:
            yield f"{project} {title} {views} 0\n"


_WORDNET_HEADER = """\
  1 This is a word list of the Openwit sample web in the format of a WordNet
  2 index file. It is no part of WordNet and was not made from it: the words
  3 were chosen for the sample, and the synset offsets point nowhere.
"""
"""Header lines begin with spaces, as in WordNet's own files (wndb(5WN))."""


def _write_wordnet(directory: Path, classes: Sequence[str]) -> None:
    """Index lines: lemma, part of speech, synset count, pointer count and symbols, sense counts, offsets."""
    nouns = {*SHAPES, *OBJECT_COUNTS, *MATERIALS, *PLACES, *JOBS, *WORKS, *TOPICS, *MORE_NOUNS, *COMPOUND_LEMMAS}
    nouns |= {*COLOURS, *classes}
    for name, letter, words in (
        ("noun", "n", nouns),
        ("verb", "v", set(VERBS)),
        ("adj", "a", {*COLOURS, *BACKGROUNDS, *MORE_ADJECTIVES}),
        ("adv", "r", set(ADVERBS)),
    ):
        lines = []
        for i, word in enumerate(sorted(word.replace(" ", "_") for word in words)):
            senses = 1 + len(word) % 3
            offsets = " ".join(f"{1740 + 97 * (3 * i + n):08d}" for n in range(senses))
            lines.append(f"{word} {letter} {senses} 2 @ ~ {senses} {senses // 2} {offsets}  \n")
        (directory / f"index.{name}").write_text(_WORDNET_HEADER + "".join(lines), encoding="ascii")
