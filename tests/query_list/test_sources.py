"""Dump ranges, prose, counting, and what each source offers."""

from __future__ import annotations

import html
import itertools
from collections import Counter
from pathlib import Path

import mwparserfromhell
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mwparserfromhell import nodes

from configs.load import ConfigError
from pipeline.errors import InputError
from pipeline.storage.location import Location
from query_list import prose
from query_list.bigrams import bigrams
from query_list.config import BigramsConfig, TitlesConfig, UnigramsConfig, WordnetConfig
from query_list.corpus import PAGES, neighbours
from query_list.counting import COUNTS, SpillingCounter, read_bucket, sum_counts
from query_list.dump import read_namespaces, read_pages
from query_list.prose import read_article
from query_list.title_case import name_of_article
from query_list.titles import CountViews, Viewed, titles
from query_list.unigrams import unigrams
from query_list.wordnet import wordnet
from tests.query_list.small_wiki import HEAD, article, redirect, write_dump, write_views, write_wordnet

PAGES_XML = [article(f"Title {i}", f"text {i} & more " * (1 + i % 7)) for i in range(40)]


def counts_of(**counts: int) -> pa.Table:
    return pa.table({"key": [key.replace("_", " ") for key in counts], "count": list(counts.values())}, schema=COUNTS)


# --- the dump -----------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_ranges_together_give_every_page_once(tmp_path: Path, data: st.DataObject) -> None:
    size = len((HEAD + "".join(PAGES_XML)).encode())
    cuts = sorted(data.draw(st.sets(st.integers(len(HEAD), size - 1), max_size=12)))
    path = tmp_path / "dump.xml.bz2"
    write_dump(path, PAGES_XML, cuts=cuts)
    packed = path.stat().st_size
    edges = [0, *sorted(data.draw(st.sets(st.integers(1, packed - 1), max_size=6))), packed]
    found = [page.title for a, b in itertools.pairwise(edges) for page in read_pages(str(path), a, b)]
    assert found == [f"Title {i}" for i in range(40)]


def test_other_namespaces_and_other_content_are_left_out(tmp_path: Path) -> None:
    lua = article("Code", "return 1").replace("wikitext", "Scribunto")
    pages = [article("Talk", "x", namespace=1), article("A & B", "x < y"), redirect("C", "A & B#Part"), lua]
    write_dump(tmp_path / "d.bz2", pages)
    found = list(read_pages(str(tmp_path / "d.bz2"), 0, 1 << 30))
    assert [(page.title, page.redirect, page.text[:5]) for page in found] == [
        ("A & B", None, "x < y"),
        ("C", "A & B", "#REDI"),
        ("Code", None, ""),
    ]
    assert read_namespaces(str(tmp_path / "d.bz2")) == {"file", "category"}


def test_a_broken_page_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    write_dump(tmp_path / "d.bz2", [article("A", "x"), "<page><ns>0</ns><title>B</tile></page>", article("C", "y")])
    assert [page.broken for page in read_pages(str(tmp_path / "d.bz2"), 0, 1 << 30)] == [False, True, False]


def test_truncated_and_foreign_files_are_named(tmp_path: Path) -> None:
    write_dump(tmp_path / "whole.bz2", PAGES_XML)
    (tmp_path / "cut.bz2").write_bytes((tmp_path / "whole.bz2").read_bytes()[:-40])
    with pytest.raises(InputError, match=r"cut\.bz2.*fetch it again"):
        list(read_pages(str(tmp_path / "cut.bz2"), 0, 1 << 30))
    (tmp_path / "no.bz2").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"no\.bz2"):
        read_namespaces(str(tmp_path / "no.bz2"))
    (tmp_path / "no.xml").write_bytes(b"<html></html>")
    with pytest.raises(InputError, match="not a MediaWiki XML dump"):
        read_namespaces(str(tmp_path / "no.xml"))


# --- prose and words ----------------------------------------------------------------------------


def test_prose_is_the_running_text() -> None:
    wikitext = (
        "{{Infobox|name=secret}}'''Dogs''' are [[animal|animals]] of [[man]].<ref>hidden</ref> [[File:D.jpg|thumb|hid]]"
        "\n== Kinds ==\n* [[Category:Hidden]]small &amp; big<!-- hidden --> [http://x.org a link]\n{|\n| hidden\n|}\n"
    )
    found = read_article(wikitext, {"category", "file"})
    assert found is not None
    assert "Dogs are animals of man." in found.prose
    assert "small & big" in found.prose
    assert "a link" in found.prose
    assert "Kinds" in found.prose
    assert not any(word in found.prose for word in ("secret", "hid", "Category", "File"))
    assert found.templates == {"infobox"}


def tree_prose(code: object, namespaces: set[str]) -> str:
    """The same rule by the parser's tree, node by node."""
    found = []
    for node in code.nodes:
        if isinstance(node, nodes.Text):
            found.append(node.value)
        elif isinstance(node, nodes.Wikilink):
            title = plain_text(node.title)
            prefix, colon, _ = title.partition(":")
            if not (colon and prefix.strip().lower().replace("_", " ") in namespaces):
                found.append(title if node.text is None else tree_prose(node.text, namespaces))
        elif isinstance(node, nodes.Tag):
            name = plain_text(node.tag).strip().lower()
            edge = "\n" if name in prose._BLOCKS else ""
            inside = "" if node.contents is None else tree_prose(node.contents, namespaces)
            found.append(" \u2026 " if name in prose._NOT_PROSE else f"{edge}{inside}{edge}")
        elif isinstance(node, nodes.HTMLEntity):
            found.append(html.unescape(str(node)))
        elif isinstance(node, nodes.ExternalLink):
            found.append(tree_prose(node.title, namespaces) if node.brackets and node.title is not None else "")
        elif isinstance(node, nodes.Heading):
            found.append(f"\n{tree_prose(node.title, namespaces)}\n")
        elif isinstance(node, nodes.Template):
            found.append(" \u2026 ")
    return "".join(found)


def plain_text(code: object) -> str:
    kept = [html.unescape(str(n)) for n in code.nodes if isinstance(n, nodes.HTMLEntity | nodes.Text)]
    return "".join(kept)


MARK_UP = (
    *("dog ", "New York", "&amp;", "&#233;", "{{", "}}", "Infobox", "|", "=", "[[", "]]", "File:", "a:b", "\n", "\n* "),
    *("'" * 3, "''", "<ref>", "</ref>", "<ref name=x />", "<br>", "<small>", "</small>", "<!--", "-->", "== ", " =="),
    *(
        "[http://x.org ",
        "]",
        "http://x.org",
        "{|",
        "|-",
        "|}",
        "\n| ",
        "<nowiki>",
        "</nowiki>",
        "<b class='x'>",
        "</b>",
    ),
)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(MARK_UP), max_size=25).map("".join))
def test_prose_is_that_of_the_parsers_tree(wikitext: str) -> None:
    namespaces = {"file", "image", "category", "media"}
    found = read_article(wikitext, namespaces)
    assert found is not None
    assert found.prose == tree_prose(mwparserfromhell.parse(wikitext), namespaces)


def test_prose_of_real_articles_is_that_of_the_tree(shared_data: Path) -> None:
    (path,) = (shared_data / "queries").glob("*.bz2")
    namespaces = {*read_namespaces(str(path)), "file", "image", "category", "media"}
    for page in itertools.islice(read_pages(str(path), 0, 1 << 40), 40):
        found = read_article(page.text, namespaces)
        assert found is not None
        assert found.prose == tree_prose(mwparserfromhell.parse(page.text), namespaces)


def test_neighbours_are_parted_by_white_space_of_one_line_only() -> None:
    words, pairs = neighbours("The red  fox, a dog.\u00a0New\u00a0York\nCity don't self-made man")
    assert words == ["The", "red", "fox", "a", "dog", "New", "York", "City", "don", "t", "self", "made", "man"]
    assert pairs == ["The red", "red fox", "a dog", "New York", "City don", "t self", "made man"]


# --- counting -----------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=20), max_size=6),
    st.integers(1, 5),
    st.integers(1, 12),
)
def test_counts_are_exact_and_spills_leave_no_trace(
    tmp_path: Path, batches: list[list[str]], num_buckets: int, max_entries: int
) -> None:
    files = []
    for name, room in (("small", max_entries), ("large", 10**6)):
        counter = SpillingCounter(tmp_path / name, num_buckets=num_buckets, max_entries=room)
        for batch in batches:
            counter.add(batch)
        counter.write(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert not list(tmp_path.glob("*.tmp-*"))
    expected = Counter(key for batch in batches for key in batch)
    found = [read_bucket(tmp_path / "small", b).to_pylist() for b in range(num_buckets)]
    assert {row["key"]: row["count"] for bucket in found for row in bucket} == expected
    assert sum(map(len, found)) == len(expected)
    assert all(bucket == sorted(bucket, key=lambda row: row["key"]) for bucket in found)


def test_sums_over_files_are_sums() -> None:
    total = sum_counts([counts_of(a=1, b=2), counts_of(b=3, c=4), COUNTS.empty_table()])
    assert total.to_pylist() == [{"key": "a", "count": 1}, {"key": "b", "count": 5}, {"key": "c", "count": 4}]


# --- the sources --------------------------------------------------------------------------------


def test_unigrams_by_count_then_text_above_the_minimum() -> None:
    found = unigrams(counts_of(b=5, a=5, c=9, d=4), UnigramsConfig(min_count=5))
    assert [(c.query, c.count) for c in found] == [("c", 9), ("a", 5), ("b", 5)]


def test_bigrams_by_pmi_among_the_chosen_words() -> None:
    words = counts_of(new=20, york=10, of=1000, the=1000, odd=10)
    pairs = counts_of(new_york=10, of_the=400, york_of=4, new_odd=10)
    found = bigrams(pairs, words, 4096, {"new", "york", "of", "the"}, BigramsConfig(min_count=5))
    assert [(c.query, c.count, c.pmi) for c in found] == [("new york", 10, 7.678072), ("of the", 400, 0.712288)]


def test_titles_follow_redirects_and_leave_disambiguations_out(tmp_path: Path) -> None:
    write_views(
        tmp_path / "v.gz",
        [
            "de Hund 9 0",
            "en Dog 5 0",
            "en.m dogs 7 0",
            "en Mercury 99 0",
            "en Mercury_(planet) 3 0",
            "en Mercury_(film) 1 0",
            *["en Talk:Dog 50 0", "en Caf%C3%A9 2 0", "en Puppies 1 0", "en broken", "en Dog x 0"],
        ],
    )
    pageviews, projects = Location(str(tmp_path / "v.gz")), ("en", "en.m")
    task = CountViews(partition="v", pageviews=pageviews, projects=projects, num_buckets=1, max_entries=3)
    info = task.work(Viewed(views=Location(str(tmp_path / "views"))))
    assert (info["lines"], info["project_lines"], info["broken_lines"]) == (11, 10, 2)
    rows = [("Dog", None), ("Dogs", "Dog"), ("Puppies", "Dogs"), ("Mercury (planet)", None), ("Mercury (film)", None)]
    pages = [{"title": t, "redirect": r, "disambiguation": False} for t, r in [*rows, ("Café", None)]]
    pages.append({"title": "Mercury", "redirect": None, "disambiguation": True})
    views = read_bucket(tmp_path / "views", 0)
    table = pa.Table.from_pylist(pages, schema=PAGES)
    found = titles(views.to_reader(), table.to_reader(), TitlesConfig())
    assert [(c.query, c.views) for c in found] == [("Dog", 13), ("Mercury", 4), ("Café", 2)]
    assert titles(views.to_reader(), table.to_reader(), TitlesConfig(), limit=2, scratch=tmp_path) == found[:2]
    raw = titles(views.to_reader(), table.to_reader(), TitlesConfig(strip_qualifier=False, min_views=3))
    assert [(c.query, c.views) for c in raw] == [("Dog", 13), ("Mercury (planet)", 3)]


def test_redirect_loops_end() -> None:
    pages = [{"title": a, "redirect": b, "disambiguation": False} for a, b in (("A", "B"), ("B", "A"))]
    table = pa.Table.from_pylist(pages, schema=PAGES)
    assert titles(counts_of(A=5).to_reader(), table.to_reader(), TitlesConfig()) == []


def test_daily_page_views_are_read_too(tmp_path: Path) -> None:
    write_views(tmp_path / "v.gz", ["en.wikipedia Dog 4269567 desktop 12 A5B7", "en.wikipedia Cat mobile-web 3 A3"])
    pageviews, projects = Location(str(tmp_path / "v.gz")), ("en.wikipedia",)
    task = CountViews(partition="v", pageviews=pageviews, projects=projects, num_buckets=1, max_entries=9)
    task.work(Viewed(views=Location(str(tmp_path / "views"))))
    assert read_bucket(tmp_path / "views", 0).to_pylist() == [{"key": "Cat", "count": 3}, {"key": "Dog", "count": 12}]


def test_wordnet_lemmas_by_use_and_by_subtree(tmp_path: Path) -> None:
    write_wordnet(tmp_path)
    index, data = [str(tmp_path / "index.noun")], [str(tmp_path / "data.noun")]
    found = wordnet(index, [], WordnetConfig())
    assert [c.query for c in found] == ["animal", "disease", "cold", "domestic dog", "flu"]
    under = wordnet(index, data, WordnetConfig(roots=("disease.n.1",)))
    assert [c.query for c in under] == ["disease", "cold", "flu"]
    of_use = tmp_path / "index.noun"
    of_use.write_text(of_use.read_text().replace("00000300 00000600", "00000600 00000300"))  # a temperature first
    assert wordnet(index, data, WordnetConfig(roots=("disease.n.1",))) == under
    first = wordnet(index, data, WordnetConfig(roots=("disease.n.1",), senses="first"))
    assert [c.query for c in first] == ["disease", "flu"]
    for root, files, told in (
        ("illness.n.1", data, r"'illness.n.1' is not in the index; write LEMMA"),
        ("disese.n.1", data, r"'disese.n.1' is not in the index; did you mean disease.n.1\?"),
        ("disease.n.2", data, r"disease.n has one sense there: write disease.n.1"),
        ("cold.n.4", data, r"cold.n has senses 1 to 2 there"),
        ("disease", data, r"did you mean disease.n.1\?"),
        ("disease.v.1", data, "write LEMMA.POS.SENSE"),
        ("flu.n.1", [], "wordnet.roots needs wordnet.data"),
    ):
        with pytest.raises(ConfigError, match=told):
            wordnet(index, files, WordnetConfig(roots=(root,)))
    with pytest.raises(InputError, match="line 2 is not"):
        wordnet(data, [], WordnetConfig())


# --- the case of titles -------------------------------------------------------------------------

NAMES = {
    # title, prose, wikitext, templates: name
    ("Dog", "Dogs. Dog. The dog is one. Dog again.", "", ()): "dog",
    ("Alabama", "Alabama is a state. It is in Alabama.", "", ()): "Alabama",
    ("IPhone", "iPhone is a phone. An iPhone. IPhone.", "", ()): "iPhone",
    ("IPhone", "A phone.", "{{DISPLAYTITLE:iPhone}}", ()): "iPhone",
    ("Homo sapiens", "In Homo sapiens.", "{{DISPLAYTITLE:''Homo sapiens''}}", ()): "Homo sapiens",
    ("EBay", "A shop.", "", ("lowercase title",)): "eBay",
    ("Ice hockey (sport)", "We play ice hockey.", "", ()): "ice hockey (sport)",
    ("The Beatles", "He saw the Beatles. He heard the Beatles.", "", ()): "The Beatles",
    ("The arts", "He likes the arts.", "", ()): "the arts",
    ("Art", "Cartoons start a party.", "", ()): "Art",  # within other words
    ("Hund", "Der Hund. Ein Hund.", "", ()): "Hund",
    ("Écluse", "Une écluse.", "", ()): "écluse",
    ("3D film", "A film.", "", ()): "3D film",
    ("犬", "犬", "", ()): "犬",
}


@pytest.mark.parametrize("page", NAMES)
def test_a_name_has_the_case_of_its_own_prose(page: tuple[str, str, str, tuple[str, ...]]) -> None:
    title, text, wikitext, templates = page
    found = name_of_article(
        title,
        text,
        wikitext,
        templates,
        title_words=("DISPLAYTITLE",),
        lowercase_templates=("lowercase title",),
        function_words=("the",),
    )
    assert found == NAMES[page]
