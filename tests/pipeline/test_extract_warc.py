"""Extraction from the HTML in WARC files."""

from __future__ import annotations

import collections
import gzip
from pathlib import Path
from typing import Any

import pytest
from fastwarc.warc import ArchiveIterator
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from pipeline.consent.signals import PageSignals
from pipeline.errors import InputError
from pipeline.records.outcome import Outcome
from pipeline.records.schema import CANDIDATES
from pipeline.stages.extract import STANDARD, ExtractConfig, extract
from pipeline.stages.extract.figcaption import Figcaptions
from pipeline.stages.extract.pictures import best_of_srcset
from tests.pipeline.archives import html_block, members, warc_record, wat_block


def _page(
    tmp_path: Path,
    block: bytes,
    config: ExtractConfig | None = None,
    signals: PageSignals = STANDARD,
    **keywords: Any,
) -> list[Outcome]:
    record = warc_record(block, kind="response", content_type="application/http; msgtype=response", **keywords)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(members([record])))
    outcomes = list(extract(str(path), config or ExtractConfig(), signals))
    for outcome in outcomes:
        assert outcome.kept.schema == CANDIDATES
        link_rejections = sum(link is not None for link in outcome.rejected["link"].to_pylist())
        assert outcome.num_in == outcome.kept.num_rows + link_rejections
    return outcomes


def _kept(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    return [row for outcome in outcomes for row in outcome.kept.to_pylist()]


def _rejected(outcomes: list[Outcome]) -> list[tuple[int | None, str]]:
    return [(row["link"], row["reason"]) for outcome in outcomes for row in outcome.rejected.to_pylist()]


@pytest.mark.parametrize(
    ("html", "url"),
    [
        ('<img src="p.jpg" alt="t">', "p.jpg"),
        ('<IMG SRC="p.jpg" ALT="t">', "p.jpg"),
        ('<img src="p.jpg" srcset="big.jpg 2x" data-src="other.jpg" alt="t">', "p.jpg"),
        ('<img src="data:image/gif;base64,R0" data-src="p.jpg" alt="t">', "p.jpg"),
        ('<img src="/img/blank.gif" data-original="p.jpg" alt="t">', "p.jpg"),
        ('<img src="x/1x1_trans.png" data-lazy-src="p.jpg" alt="t">', "p.jpg"),
        ('<img data-src="p.jpg" alt="t">', "p.jpg"),
        ('<img src="data:,x" srcset="s.jpg 320w, p.jpg 1280w, m.jpg 640w" alt="t">', "p.jpg"),
        ('<img data-srcset="s.jpg, p.jpg 3x, m.jpg 2x" alt="t">', "p.jpg"),
        ('<picture><source srcset="s.webp 1x, p.webp 2x"><img alt="t"></picture>', "p.webp"),
        ('<picture><source srcset="s.webp"><img src="p.jpg" alt="t"></picture>', "p.jpg"),
        ('<noscript><img src="p.jpg" alt="t"></noscript>', "p.jpg"),
        ('<img src="blank.gif" alt="t">', "blank.gif"),
        ('<img src="?a=1&amp;b=2&copy=3" alt="t">', "page?a=1&b=2&copy=3"),
        ('<img src="#" data-id="7" data-title="A dog." data-x="A p.jpg" data-y="p.jpg" alt="t">', "p.jpg"),
        ('<img src="#" data-placeholder="s.jpg" data-fallback-src="f.jpg" data-full="p.jpg" alt="t">', "p.jpg"),
        ('<img src="#" data-lazy="about:blank" data-src="#" data-full="p.jpg" alt="t">', "p.jpg"),
        ('<img src="#" data-bgset="b.jpg 2x" data-lazy-srcset="s.jpg 1x, p.jpg 2x" alt="t">', "p.jpg"),
        ('<img src="#" data-image=\'{"a": "x/y.jpg"}\' data-full="p.jpg" alt="t">', "p.jpg"),
        ('<img src="#" srcset="blank.gif 2x" data-srcset="p.jpg" alt="t">', "p.jpg"),
        ('<img srcset="blank.gif 2x" alt="t">', "blank.gif"),
        ('<img src="p.svg" data-src="other.jpg" alt="t">', "p.svg"),
        ('<img src="p" data-src="other.jpg" alt="t">', "p"),
        ('<picture><source srcset="p.jxl"><source srcset="s.jpg"><img alt="t"></picture>', "p.jxl"),  # as browsers do
        ('<picture><source srcset="s.jxl" type="image/jxl"><img src="p.jpg" alt="t"></picture>', "p.jpg"),
    ],
)
def test_one_url_is_chosen_for_each_img(tmp_path: Path, html: str, url: str) -> None:
    rows = _kept(_page(tmp_path, html_block(html), url="http://example.com/a/page"))
    assert [row["url"] for row in rows] == [f"http://example.com/a/{url}"]


@pytest.mark.parametrize(
    "stand_in",
    [
        "", " ", "#", "#a", "about:blank", "javascript:void(0)", "//:0", "//", "http://", "http:", "page", "page#x",
        "blob:x", "file:///a.gif", "http://[x", "data:image/gif;base64,R0", "/img/blank.gif",
    ],
)  # fmt: skip
def test_src_that_is_no_picture_of_another_document_gives_way(tmp_path: Path, stand_in: str) -> None:
    html = f'<img src="{stand_in}" data-src="p.jpg" alt="t">'
    (row,) = _kept(_page(tmp_path, html_block(html), url="http://example.com/a/page"))
    assert row["url"] == "http://example.com/a/p.jpg"


@pytest.mark.parametrize(
    "name",
    [
        "data-cfsrc", "data-lazyload", "data-orig-file", "data-large_image", "data-src-retina", "lazy-src", "lazysrc",
        "data-bg", "data-zoom", "data-thumb",
    ],
)  # fmt: skip
def test_any_attribute_may_hold_the_picture_behind_a_stand_in(tmp_path: Path, name: str) -> None:
    html = f'<img src="data:," {name}="p.jpg" alt="t">'
    (row,) = _kept(_page(tmp_path, html_block(html), url="http://example.com/a/page"))
    assert row["url"] == "http://example.com/a/p.jpg"


def test_long_attributes_are_read_in_little_time(tmp_path: Path) -> None:
    long = "/blank-" * 300_000
    html = f'<img src="{long}"><img src="#" data-x="{"a.jpg?" * 300_000} b" alt=t>'
    assert len(_rejected(_page(tmp_path, html_block(html)))) == 2


@pytest.mark.parametrize(
    ("kind", "is_decoded"),
    [
        *((kind, False) for kind in ("image/jxl", "image/heic", "image/svg+xml", "IMAGE/HEIF; x", "video/mp4", "x")),
        *((kind, True) for kind in ("image/jpeg", "Image/PNG", "image/webp; q=1", "image/avif", "image/gif", "")),
        *((kind, True) for kind in ("image/tiff", "image/bmp", "image/jp2")),
    ],
)
def test_source_of_a_picture_counts_if_its_type_is_decoded(tmp_path: Path, kind: str, is_decoded: bool) -> None:
    html = f'<picture><source srcset="a.x" type="{kind}"><source srcset="b.jpg"><img alt="t"></picture>'
    (row,) = _kept(_page(tmp_path, html_block(html), url="http://example.com/"))
    assert row["url"] == f"http://example.com/{'a.x' if is_decoded else 'b.jpg'}"


def test_links_are_numbered_in_page_order_and_counted(tmp_path: Path) -> None:
    html = '<img src=1 alt=one><img src=2><img><img src="data:,x" alt=d><img src=3 alt="&lt;3&#x20;&amp;amp;">'
    outcomes = _page(tmp_path, html_block(html))
    assert [(row["link"], row["alt_text"]) for row in _kept(outcomes)] == [(0, "one"), (3, "<3 &amp;")]
    assert _rejected(outcomes) == [(1, "no_text"), (2, "not_http")]
    assert sum(outcome.num_in for outcome in outcomes) == 4  # an img without any URL is no link


def test_base_licence_and_robots_of_the_page_are_read(tmp_path: Path) -> None:
    html = '<base href="/b/"><link rel=license href="l.html"><img src=p.jpg alt=t>'
    (row,) = _kept(_page(tmp_path, html_block(html), url="http://example.com/a/"))
    assert row["url"] == "http://example.com/b/p.jpg"
    assert row["license"] == "http://example.com/b/l.html"
    assert row["page_url"] == "http://example.com/a/"
    html = '<meta name=ROBOTS content="noai"><img src=p.jpg alt=t>'
    assert _rejected(_page(tmp_path, html_block(html))) == [(0, "page_robots")]
    headers = "Content-Type: text/html\r\nX-Robots-Tag: noindex\r\nX-Robots-Tag: noimageai\r\n"
    assert _rejected(_page(tmp_path, html_block("<img src=p.jpg alt=t>", headers=headers))) == [(0, "page_robots")]


@pytest.mark.parametrize(
    "base",
    ["javascript:", "data:text/html,", "http://", "http://[bad", "http://a b/", "", "#"],
)
def test_base_that_is_no_base_counts_for_nothing(tmp_path: Path, base: str) -> None:
    html = f'<base target=x><base href="{base}"><base href="/b/"><img src=p.jpg alt=t>'
    (row,) = _kept(_page(tmp_path, html_block(html), url="http://example.com/a/"))
    assert row["url"] == "http://example.com/a/p.jpg"  # the first with a href is the one, good or bad


@pytest.mark.parametrize(
    ("meta", "detail"),
    [
        ('name=googlebot content="noimageai"', "noimageai"),
        ('name=GPTBot content="noai, noml"', "noai, noml"),
        ('name=CCBot content="noindex NoAI"', "noai"),
        ('name=somebot content="max-image-preview:large, made-up, noai"', "noai"),
        ('name=robots content="noai is what we say"', "noai"),
        ('name=robots content="noml"', "noml"),
        ('name="tdm-reservation" content=" 1 "', "tdm-reservation"),
        ('name="tdm-reservation" content="0"', None),
        ('name=somebot content="noindex, nofollow"', None),
        ('name=description content="noai"', None),
        ('name=keywords content="art, noai"', None),
        ('name=twitter:title content="noai"', None),
        ('name=summary content="What noai means"', None),
        ('property=robots content="noai"', None),
    ],
)
def test_page_forbids_by_a_meta_for_any_robot(tmp_path: Path, meta: str, detail: str | None) -> None:
    outcomes = _page(tmp_path, html_block(f"<meta {meta}><img src=p.jpg alt=t><img src=q.jpg>"))
    said = [row["detail"] for outcome in outcomes for row in outcome.rejected.to_pylist() if row["reason"] != "no_text"]
    assert said == ([detail] * 2 if detail is not None else [])


@pytest.mark.parametrize(("value", "forbids"), [("1", True), ("0, 1", True), ("0", False), ("11", False)])
def test_page_forbids_by_the_header_of_tdm_reservation(tmp_path: Path, value: str, forbids: bool) -> None:
    block = html_block("<img src=p alt=t>", headers=f"Content-Type: text/html\r\nTDM-Reservation: {value}\r\n")
    assert _rejected(_page(tmp_path, block)) == ([(0, "tdm_reservation")] if forbids else [])
    assert _rejected(_page(tmp_path, block, signals=PageSignals(tdm_reservation=False))) == []


def test_user_info_is_not_kept(tmp_path: Path) -> None:
    html = '<link rel=license href="//u:p@cc.org/by"><img src=p.jpg alt=t><img src="http://u:p@b.org/q.jpg" alt=t>'
    rows = _kept(_page(tmp_path, html_block(html), url="http://u:p@example.com/a/"))
    assert [row["url"] for row in rows] == ["http://example.com/a/p.jpg", "http://b.org/q.jpg"]
    assert {(row["page_url"], row["license"]) for row in rows} == {("http://example.com/a/", "http://cc.org/by")}


def test_figcaption_is_a_text_only_if_configured(tmp_path: Path) -> None:
    html = "<figure><a><img src=p.jpg></a><figcaption> A <b>dog</b> </figcaption></figure><img src=q.jpg>"
    assert _kept(_page(tmp_path, html_block(html))) == []
    config = ExtractConfig(text_sources=("alt", "figcaption"))
    (row,) = _kept(_page(tmp_path, html_block(html), config))
    assert (row["alt_text"], row["text_source"]) == ("A dog", "figcaption")


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("A dog<br>Photo: X", "A dog Photo: X"),
        ("A dog<br>\nPhoto: X", "A dog\nPhoto: X"),
        ("<p>One dog</p> <p>Two cats</p>", "One dog Two cats"),
        ("<div>A dog</div><div>AP</div>", "A dog AP"),
        ("<ul><li>A<li>B</ul>C", "A B C"),
        ("<table><tr><td>A<td>B</table>", "A B"),
        ("A dog<h3></h3><hr>AP", "A dog AP"),
        ("A <b>d</b>og<i>gy</i>", "A doggy"),
        ("A dog<script>var x=1;</script>", "A dog"),
        ("A dog<style>.a{}</style>", "A dog"),
        ("A dog<noscript>no <b>scripts</b></noscript><template>t</template><!-- c -->.", "A dog."),
        ("A &lt;b&gt; dog", "A <b> dog"),
        ("  ", ""),
        ("<b>" * 30_000 + "A dog", "A dog"),
    ],
)
def test_figcaption_is_read_as_it_is_seen(caption: str, text: str) -> None:
    tree = LexborHTMLParser(f"<figure><img><figcaption>{caption}</figcaption></figure>")
    assert Figcaptions().of(tree.css_first("img")) == text


def test_figcaption_is_that_of_the_nearest_figure() -> None:
    inner = "<figure><img id=b><figcaption>Inner</figcaption></figure>"
    tree = LexborHTMLParser(f"<figure><img id=a>{inner}<figcaption>Outer</figcaption></figure><img id=c>")
    captions = Figcaptions()
    assert [captions.of(tree.css_first(f"#{name}")) for name in "abc"] == ["Outer", "Inner", ""]


@pytest.mark.parametrize(
    ("block", "number"),
    [
        (
            html_block(
                gzip.compress(b"<img src=p alt=t>"), headers="Content-Type: text/html\r\nContent-Encoding: gzip\r\n"
            ),
            1,
        ),
        (html_block("<img src=p alt=t>", headers="Content-Type: text/html\r\nContent-Encoding: gzip\r\n"), 1),
        (html_block("<img src=p alt=t>", headers="Content-Type: text/html\r\nTransfer-Encoding: chunked\r\n"), 1),
        (
            html_block(
                "11\r\n<img src=p alt=t>\r\n0\r\n\r\n",
                headers="Content-Type: text/html\r\nTransfer-Encoding: chunked\r\n",
            ),
            1,
        ),
        (html_block("<img src=p alt=t>", headers="Content-Type: image/png\r\n"), 0),
        (html_block("<img src=p alt=t>", headers=""), 0),
        (b"dns answer <img src=p alt=t>", 0),
        (b"", 0),
    ],
)
def test_bodies_are_decoded_and_other_types_passed_over(tmp_path: Path, block: bytes, number: int) -> None:
    assert len(_kept(_page(tmp_path, block))) == number


def test_wrong_encoding_header_does_not_end_the_archive(tmp_path: Path) -> None:
    wrong = html_block(
        b"\x1f\x8b nonsense <img src=p alt=t>" * 50, headers="Content-Type: text/html\r\nContent-Encoding: gzip\r\n"
    )
    good = html_block("<img src=q alt=u>")
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(members([warc_record(block, kind="response") for block in (wrong, good)])))
    assert "u" in [
        row["alt_text"] for outcome in extract(str(path), ExtractConfig()) for row in outcome.kept.to_pylist()
    ]


def test_decompression_bomb_is_rejected(tmp_path: Path) -> None:
    block = html_block(
        gzip.compress(b"<img src=p alt=t>" + b" " * 10**7),
        headers="Content-Type: text/html\r\nContent-Encoding: gzip\r\n",
    )
    assert _rejected(_page(tmp_path, block, ExtractConfig(max_record_bytes=10**6))) == [(None, "oversized_record")]


@pytest.mark.parametrize(
    ("depth", "rejected"), [(1900, []), (2100, [(None, "bad_record")]), (10**6, [(None, "bad_record")])]
)
def test_absurd_nesting_is_rejected(tmp_path: Path, depth: int, rejected: list[tuple[int | None, str]]) -> None:
    outcomes = _page(tmp_path, html_block("<div>" * depth + "<img src=p alt=t>"))
    assert _rejected(outcomes) == rejected
    assert len(_kept(outcomes)) == 1 - len(rejected)


def test_wat_read_as_warc_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.wat.gz"
    path.write_bytes(gzip.compress(warc_record(wat_block([]))))
    with pytest.raises(InputError, match="format wat"):
        list(extract(str(path), ExtractConfig(), format="warc"))


@pytest.mark.parametrize(
    ("srcset", "url"),
    [
        ("a.jpg", "a.jpg"),
        ("a.jpg 1x, b.jpg 2x", "b.jpg"),
        ("a.jpg 2x,b.jpg", "a.jpg"),
        ("a,b.jpg 100w, c.jpg 200w", "c.jpg"),
        ("https://h/w_100,h_50/a.jpg 1x, https://h/w_200,h_100/a.jpg 2x", "https://h/w_200,h_100/a.jpg"),
        ("a.jpg, b.jpg 2x", "b.jpg"),
        ("data:image/png;base64,AAAA 3x, b.jpg 1x", "b.jpg"),
        ("a.jpg 1x, b.jpg 1x", "a.jpg"),
        ("a.jpg nonsense, b.jpg 0.5x", "a.jpg"),
        ("", None),
        (" , ,", None),
        ("a.jpg 1x, b.jpg 2x (c, d.jpg 9x", "b.jpg"),  # a bracket that is never closed takes the rest
        ("a (" * 300_000, "a"),
    ],
)
def test_largest_candidate_of_srcset_wins(srcset: str, url: str | None) -> None:
    assert best_of_srcset(srcset) == url


@given(st.text(alphabet="ab,. 12xw()\n", max_size=60))
def test_any_srcset_is_read_without_error(srcset: str) -> None:
    best_of_srcset(srcset)


@pytest.mark.parametrize(
    "name",
    [
        "18f.localhost",
        "anthropology.localhost",
        "fizyka.localhost",
        "psychology.localhost",
        "sociology.localhost",
        "IAH-urls-wget",
        "whirlwind",
    ],
)
def test_warc_and_wat_of_the_same_pages_agree(shared_data: Path, name: str) -> None:
    def found(path: Path) -> collections.Counter[bytes]:
        return collections.Counter(
            uid for outcome in extract(str(path), ExtractConfig()) for uid in outcome.kept["uid"].to_pylist()
        )

    archives = shared_data / "webarchive"
    warc = found(archives / "warc" / f"{name}.warc.gz")
    assert warc
    assert warc == found(archives / "wat" / f"{name}.warc.wat.gz")


def _in_lf(path: Path) -> list[bytes]:
    """The records of an archive as a writer of bare LF would have them, and their HTTP headers."""
    records = []
    for record in ArchiveIterator(str(path), parse_http=False):
        block = record.reader.read()
        if block.startswith(b"HTTP/"):
            head, _, body = block.partition(b"\r\n\r\n")
            block = head.replace(b"\r\n", b"\n") + b"\n\n" + body
        lines = [f"{name}: {value}\n" for name, value in record.headers.items() if name != "Content-Length"]
        head = f"WARC/1.0\n{''.join(lines)}Content-Length: {len(block)}\n\n".encode()
        records.append(head + block + b"\n\n")
    return records


@pytest.mark.parametrize("name", ["whirlwind", "anthropology.localhost", "IAH-urls-wget"])
def test_real_archives_are_read_alike_with_bare_lf(shared_data: Path, tmp_path: Path, name: str) -> None:
    real = shared_data / "webarchive" / "warc" / f"{name}.warc.gz"
    records = _in_lf(real)
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members(records)))

    def found(path: Path) -> tuple[list[bytes], int, int, list[tuple[int | None, str]]]:
        outcomes = list(extract(str(path), ExtractConfig()))
        uids = [uid for outcome in outcomes for uid in outcome.kept["uid"].to_pylist()]
        num_records, num_read = (sum(getattr(o, of) for o in outcomes) for of in ("num_records", "num_read"))
        return uids, num_records, num_read, _rejected(outcomes)

    assert found(real)[0]
    assert found(tmp_path / "a.warc") == found(tmp_path / "a.warc.gz") == found(real)


@pytest.mark.parametrize(
    "line", [b"WARC/1.0", b"WARC-Type: response", b"example.com/a/", b"WARC-Date: 2024-05-31T01:17:49Z"]
)
def test_one_line_that_ends_in_lf_costs_nothing(tmp_path: Path, line: bytes) -> None:
    record = warc_record(html_block("<img src=p alt=t>"), kind="response", url="http://example.com/a/")
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(members([record, record.replace(line + b"\r\n", line + b"\n", 1), record])))
    rows = _kept(list(extract(str(path), ExtractConfig())))
    assert [(row["url"], row["page_url"]) for row in rows] == [("http://example.com/a/p", "http://example.com/a/")] * 3


def test_every_real_archive_is_read_or_refused(shared_data: Path) -> None:
    for path in sorted((shared_data / "webarchive" / "warc").iterdir()):
        try:
            outcomes = list(extract(str(path), ExtractConfig(), format="warc"))
        except InputError:
            assert ".arc" in path.name or ".paths" in path.name or ".wet" in path.name, path
            continue
        if path.name == "resiliparse-clipped.warc.gz":
            assert _rejected(outcomes) == [(None, "truncated_file")]
        else:
            assert all(link is not None for link, _ in _rejected(outcomes)), path


def test_parser_sees_attributes_as_our_wat_reader_does() -> None:
    # The assumption behind equal uids from WARC and WAT.
    tree = LexborHTMLParser('<img alt="a&#13;\r\nb&amp;">')
    assert tree.css_first("img").attributes["alt"] == "a\r\nb&"
