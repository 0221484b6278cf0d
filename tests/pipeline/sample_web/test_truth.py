"""The ground truth against the files, read here by other means than those that wrote them."""

from __future__ import annotations

import csv
import gzip
import html
import json
import re
import zlib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pyarrow.parquet as pq
import pytest

from pipeline.pages import is_reason
from pipeline.records.identity import canonical_url
from pipeline.sample_web.languages import LANGUAGES
from pipeline.sample_web.trouble import TROUBLES

Row = dict[str, Any]


def _member(path: Path, offset: int) -> bytes:
    """The gzip member that starts at `offset`."""
    data = path.read_bytes()[offset:]
    assert data[:2] == b"\x1f\x8b"
    return zlib.decompressobj(31).decompress(data)


def _rows_of(truth: list[Row], view: str) -> dict[tuple[str, int], dict[int, Row]]:
    records: dict[tuple[str, int], dict[int, Row]] = {}
    for row in truth:
        if row[f"{view}_link"] is not None:
            record = records.setdefault((row[f"{view}_file"], row[f"{view}_record"]), {})
            assert row[f"{view}_link"] not in record
            record[row[f"{view}_link"]] = row
    return records


def test_every_wat_link_is_a_row_and_every_row_a_link(sample_web: Path, truth: list[Row]) -> None:
    rows = _rows_of(truth, "wat")
    seen = 0
    for file in sorted((sample_web / "wat").iterdir()):
        for text in gzip.decompress(file.read_bytes()).decode().split("\r\n\r\n"):
            if text.startswith("{"):
                payload = json.loads(text)["Envelope"]["Payload-Metadata"]
                links = payload.get("HTTP-Response-Metadata", {}).get("HTML-Metadata", {}).get("Links", [])
                seen += sum(link["path"] == "IMG@/src" for link in links)
    assert seen == sum(map(len, rows.values()))
    for (name, offset), record in rows.items():
        head, _, block = _member(sample_web / name, offset).partition(b"\r\n\r\n")
        assert head.startswith(b"WARC/1.0\r\nWARC-Type: metadata\r\n")
        envelope = json.loads(block)["Envelope"]
        page_url = envelope["WARC-Header-Metadata"]["WARC-Target-URI"]
        meta = envelope["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"]
        base = urljoin(page_url, meta["Head"].get("Base", ""))
        images = [link for link in meta["Links"] if link["path"] == "IMG@/src"]
        assert sorted(record) == list(range(len(images)))
        for ordinal, link in enumerate(images):
            row = record[ordinal]
            assert row["page_url"] == page_url
            raw = html.unescape(link["url"])
            assert row["url"] == (raw if row["text_fate"] == "extract/bad_url" else urljoin(base, raw))
            assert row["alt_text"] == (html.unescape(link["alt"]) if "alt" in link else None)


class _Images(HTMLParser):
    """Attributes of all img elements, with the sources of the picture element around them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.base = ""
        self.robots = ""
        self.images: list[dict[str, str | None]] = []
        self._source: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "base":
            self.base = given["href"] or ""
        elif tag == "meta" and given.get("name") == "robots":
            self.robots = given["content"] or ""
        elif tag == "source":
            self._source = given["srcset"]
        elif tag == "img":
            self.images.append({**given, "source": self._source})

    def handle_endtag(self, tag: str) -> None:
        if tag == "picture":
            self._source = None


def test_every_img_element_of_the_warcs_is_a_row(sample_web: Path, truth: list[Row]) -> None:
    charsets = set()
    for (name, offset), record in _rows_of(truth, "warc").items():
        warc_head, _, block = _member(sample_web / name, offset).partition(b"\r\n\r\n")
        assert b"WARC-Type: response\r\n" in warc_head
        http_head, _, rest = block.partition(b"\r\n\r\n")
        body = rest[: int(re.findall(rb"Content-Length: (\d+)", http_head)[0])]
        charset = re.findall(rb"charset=\"?([\w-]+)", http_head + body[:400])[0].decode()
        charsets.add(charset)
        parser = _Images()
        parser.feed(body.decode(charset))
        assert sorted(record) == list(range(len(parser.images)))
        for ordinal, image in enumerate(parser.images):
            row = record[ordinal]
            assert row["page_url"].encode() in warc_head
            assert image.get("alt") == row["alt_text"]
            wide = (image.get("srcset") or image["source"] or "").split(", ")[-1].split(" ")[0]
            shown = image.get("data-src") or image.get("src") or wide
            if row["text_fate"] != "extract/bad_url":
                shown = urljoin(urljoin(row["page_url"], parser.base), shown)
            assert shown == row["url"]
            opts_out = b"X-Robots-Tag: noai" in http_head or "noai" in parser.robots or "noimageai" in parser.robots
            assert opts_out == (row["text_fate"] == "extract/page_robots")
    assert {"utf-8", "iso-8859-1", "windows-1252", "utf-16"} <= charsets


def test_the_wat_describes_its_warc(sample_web: Path) -> None:
    for file in sorted((sample_web / "wat").iterdir()):
        warc = sample_web / "warc" / file.name.replace(".wat.gz", ".gz")
        for text in gzip.decompress(file.read_bytes()).decode().split("\r\n\r\n"):
            if text.startswith("{"):
                described = json.loads(text)
                container = described["Container"]
                assert container["Filename"] == warc.name
                record = _member(warc, int(container["Offset"]))
                assert len(record) == int(container["Gzip-Metadata"]["Inflated-Length"])
                crc = int(container["Gzip-Metadata"]["Inflated-CRC"])
                assert zlib.crc32(record) == crc % (1 << 32)
                length = int(described["Envelope"]["WARC-Header-Length"])
                block = record[length:-4]
                assert record[length - 4 : length] == record[-4:] == b"\r\n\r\n"
                assert len(block) == int(described["Envelope"]["WARC-Header-Metadata"]["Content-Length"])


def test_the_tables_hold_the_same_links(sample_web: Path, truth: list[Row]) -> None:
    expected = [
        {name: row[name] for name in ("url", "alt_text", "page_url")}
        for row in sorted((row for row in truth if row["table_row"] is not None), key=lambda row: row["table_row"])
    ]
    assert [row["table_row"] for row in truth if row["table_row"] is not None] == list(range(len(expected)))
    assert pq.read_table(sample_web / "tables" / "links.parquet").to_pylist() == expected
    lines = (sample_web / "tables" / "links.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines if line] == expected
    with (sample_web / "tables" / "links.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [{**row, "alt_text": row["alt_text"] or ""} for row in expected]


def test_fates_are_the_pipelines_reasons_and_all_kinds_of_trouble_occur(truth: list[Row]) -> None:
    for row in truth:
        for fate in filter(None, (row["text_fate"], row["fetch_fate"])):
            assert is_reason(*fate.split("/"))
        assert (row["verdict"] == "rejected") == (row["reason"] is not None)
    fates = {row["fetch_fate"] for row in truth}
    assert {trouble.fate for trouble in TROUBLES} <= fates
    text_fates = {row["text_fate"] for row in truth}
    assert {"extract/page_robots", "extract/not_http", "extract/bad_url", "extract/no_text"} <= text_fates
    assert {"language/other_language", "match/no_query", None} <= text_fates
    assert {"clean/file_name", "clean/date", "clean/placeholder", "clean/keyword_list"} <= text_fates
    foreign = {row["alt_text"] for row in truth if row["text_kind"] == "foreign"}
    known = {sentence for language in LANGUAGES for sentence in language.sentences}
    assert foreign <= known
    assert len(LANGUAGES) >= 6


def test_duplicates_share_canonical_url_and_words(truth: list[Row]) -> None:
    rows = {row["link_id"]: row for row in truth}
    assert len(rows) == len(truth)

    def key(row: Row) -> tuple[str, str]:
        seen = row["alt_text"].replace("\u200b", " ").replace("\ufeff", "")
        return canonical_url(row["url"]), " ".join(seen.split())

    expected = Counter(key(row) for row in truth if row["text_fate"] is None)
    for row in truth:
        if row["text_fate"] is None:
            assert (expected[key(row)] > 1) == (row["duplicate_group"] is not None)
        if row["duplicate_of"] is not None:
            assert rows[row["duplicate_of"]]["duplicate_group"] == row["duplicate_group"]
            assert key(rows[row["duplicate_of"]]) == key(row)
            assert row["duplicate_of"] != row["link_id"]
    urls = {row["url"] for row in truth if row["duplicate_group"]}
    assert len(urls) > len({canonical_url(url) for url in urls})  # some are spelt differently


def test_most_links_are_good_captions_and_concepts_have_a_long_tail(truth: list[Row]) -> None:
    in_wat = [row for row in truth if row["wat_link"] is not None]
    assert abs(len(in_wat) - 400) < 20
    assert all(row["matches"] == (row["text_fate"] is None) for row in truth if row["matches"] is not None)
    sites = {row["page_url"].split("/")[2] for row in truth}
    assert len(sites) >= 6
    assert all(re.fullmatch(r"[a-z]+\.localhost:\d+", site) for site in sites)


@pytest.mark.parametrize("mark_up", ["data-src", "srcset", "<picture", "<noscript", "<base", "&nbsp;", "&#"])
def test_pages_show_the_webs_variety(sample_web: Path, mark_up: str) -> None:
    pages = [page.read_bytes() for page in (sample_web / "pages").rglob("*.html")]
    if mark_up.startswith("&"):
        mark_up = "&amp;" if mark_up == "&nbsp;" else mark_up
    assert any(mark_up.encode() in page for page in pages)
