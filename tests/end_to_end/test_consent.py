"""A small web that speaks every signal of an owner's will, by pages and by pictures: each link's fate, level by level.

Nothing leaves this machine: one server on loopback, a WARC and a WAT file of its pages, the inline engine.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from PIL import Image

from pipeline.catalog.catalog import named_query, open_catalog
from pipeline.consent.tdmrep import TDMREP_PATH
from tests.pipeline.archives import html_block, members, warc_record, wat_block
from tests.pipeline.c2pa_pictures import signed
from tests.pipeline.loopback_server import LoopbackServer, Route, answer, redirect, text
from tests.pipeline.small_run import SmallRun, picture

CAPTION = "a {} dog that sleeps beside the old house in the garden"
SAMPLE = "sample"
TDMREP = b"""[
    {"location": "/warc/reserved/", "tdm-reservation": 1},
    {"location": "/warc/reserved/free/", "tdm-reservation": 0}
]"""
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" plus:DataMining="'
    'http://ns.useplus.org/ldf/vocab/{}"/></rdf:RDF></x:xmpmeta>'
)


@dataclass(frozen=True, kw_only=True)
class Link:
    """One picture, on a page of its own."""

    name: str
    fate: str = SAMPLE
    """At the level `standard`."""
    strict: str = ""
    """At `strict`, of a new set; as at `standard` where it is empty."""
    metas: Mapping[str, str] = field(default_factory=dict)
    page_headers: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the picture's answer."""
    term: str = ""
    """Of the PLUS vocabulary, in its XMP."""
    manifest: Mapping[str, Any] | None = None
    """An assertion of its C2PA manifest."""

    def by(self, level: str) -> str:
        return (self.strict or self.fate) if level == "strict" else self.fate


def by_page(name: str, reason: str | None, **said: Mapping[str, str]) -> Link:
    return Link(name=name, fate=SAMPLE if reason is None else f"extract/{reason}", **said)  # type: ignore[arg-type]  # page_headers or metas


def by_answer(name: str, reason: str | None, header: str, value: str) -> Link:
    return Link(name=name, fate=SAMPLE if reason is None else f"fetch/{reason}", headers={header: value})


def by_picture(term: str, *, forbids: bool = True) -> Link:
    return Link(name=term.lower(), fate="fetch/data_mining" if forbids else SAMPLE, term=term)


PAGES = [
    by_page("plain", None),
    by_page("meta-noai", "page_robots", metas={"robots": "noai"}),
    by_page("meta-noimageai", "page_robots", metas={"robots": "index, noimageai"}),
    by_page("meta-noml", "page_robots", metas={"somebot": "noml"}),
    by_page("meta-noindex", None, metas={"robots": "noindex"}),
    by_page("header-noai", "page_robots", page_headers={"X-Robots-Tag": "noai"}),
    by_page("meta-tdm", "tdm_reservation", metas={"tdm-reservation": "1"}),
    by_page("meta-tdm-free", None, metas={"tdm-reservation": "0"}),
    by_page("header-tdm", "tdm_reservation", page_headers={"tdm-reservation": "1"}),
    by_page("header-usage", "content_usage", page_headers={"Content-Usage": "search=y, train-ai=n"}),
    by_page("header-usage-free", None, page_headers={"Content-Usage": "train-ai=y"}),
    by_page("header-signal", "content_signal", page_headers={"Content-Signal": "search=yes, ai-train=no"}),
    by_page("header-signal-free", None, page_headers={"Content-Signal": "ai-train=yes, search=no"}),
]
PICTURES = [
    by_answer("noai", "x_robots_tag", "X-Robots-Tag", "noai"),
    by_answer("noimageai", "x_robots_tag", "X-Robots-Tag", "nofollow, noimageai"),
    by_answer("noindex", "x_robots_tag", "X-Robots-Tag", "openwit-test: noindex"),
    by_answer("for-another", None, "X-Robots-Tag", "somebot: noai"),
    by_answer("gone", "x_robots_tag", "X-Robots-Tag", "unavailable_after: 1 Jan 2020 00:00:00 GMT"),
    by_answer("not-yet-gone", None, "X-Robots-Tag", "unavailable_after: 1 Jan 2999 00:00:00 GMT"),
    by_answer("tdm", "tdm_reservation", "TDM-Reservation", "1"),
    by_answer("tdm-free", None, "TDM-Reservation", "0"),
    by_answer("usage", "content_usage", "Content-Usage", "train-ai=n"),
    by_answer("usage-twice", "content_usage", "Content-Usage", "train-ai=n\r\nContent-Usage: train-ai=y"),
    by_answer("usage-free", None, "Content-Usage", "train-ai=y, search=n"),
    by_answer("signal", "content_signal", "Content-Signal", "ai-train=no"),
    by_answer("signal-free", None, "Content-Signal", "ai-train=yes, ai-input=no"),
    by_picture("DMI-PROHIBITED"),
    by_picture("DMI-PROHIBITED-AIMLTRAINING"),
    by_picture("DMI-PROHIBITED-GENAIMLTRAINING"),
    by_picture("DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING"),
    by_picture("DMI-PROHIBITED-SEECONSTRAINT"),
    by_picture("DMI-ALLOWED", forbids=False),
    Link(
        name="c2pa",
        strict="fetch/c2pa_training",
        manifest={"label": "cawg.training-mining", "data": {"entries": {"cawg.ai_training": {"use": "notAllowed"}}}},
    ),
    Link(name="reserved/a", strict="fetch/tdmrep_json"),
    Link(name="reserved/free/a"),
    Link(name="redirected", fate="fetch/content_usage", headers={"Content-Usage": "train-ai=n"}),
]


def route_of(link: Link, number: int) -> Route:
    body = picture(number)
    if link.term:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(body)).save(buffer, "JPEG", quality=90, xmp=XMP.format(link.term).encode())
        body = buffer.getvalue()
    if link.manifest is not None:
        body = signed(body, dict(link.manifest))
    if link.name == "redirected":
        return answer(302, b"moved", {"Location": "/elsewhere", **link.headers})
    return text(body, {"Content-Type": "image/jpeg", **link.headers})


@dataclass(frozen=True, kw_only=True)
class Web:
    """The web, and the archives of its pages."""

    server: LoopbackServer
    sources: list[str]
    links: dict[str, Link]
    """Path of the picture -> the link."""
    records: dict[tuple[str, int], str]
    """(source, place of the page's record) -> path of its picture."""

    def run(self, root: Path) -> SmallRun:
        root.mkdir(exist_ok=True)
        (root / "queries.txt").write_text("dog\n")
        config = {
            "sources": self.sources,
            "queries": str(root / "queries.txt"),
            "output": str(root / "set"),
            "fetch": {
                "user_agent": "openwit-test/0.1 (+https://example.org/contact)",
                "allow_addresses": [f"127.0.0.0/8:{self.server.port}"],
                "retries": 0,
            },
            "image": {"isolate": "none", "min_side": 1, "image_size": 32},
            "engine": {"kind": "inline"},
        }
        (root / "config.yaml").write_text(yaml.safe_dump(config))
        return SmallRun(root=root, config=root / "config.yaml", output=root / "set")

    def fates(self, run: SmallRun) -> dict[str, str]:
        """Path of each picture -> what became of it, by the published set and the ledger."""
        fates = dict.fromkeys(run.samples(), SAMPLE)
        fates |= {path: f"fetch/{reason}" for path, (reason, _) in run.rejections().items()}
        with open_catalog(run.output) as database:
            rows = database.sql("SELECT source, record, reason FROM rejections WHERE stage = 'extract'").fetchall()
        return fates | {self.records[source, record]: f"extract/{reason}" for source, record, reason in rows}

    def expected(self, level: str) -> dict[str, str]:
        return {path: link.by(level) for path, link in self.links.items()}

    def pictures_asked(self) -> list[str]:
        return sorted(path for path in self.server.targets() if path in self.links)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("c2pa")
    root = tmp_path_factory.mktemp("web")
    links = {f"/warc/{link.name}": link for link in (*PAGES, *PICTURES)}
    links |= {f"/wat/{link.name}": link for link in PAGES}
    routes = {path: route_of(link, number) for number, (path, link) in enumerate(links.items())}
    with LoopbackServer(
        {**routes, "/elsewhere": text(picture(99)), "/robots.txt": redirect("/none"), TDMREP_PATH: text(TDMREP)}
    ) as server:
        records: dict[tuple[str, int], str] = {}
        for kind, name in (("warc", "pages.warc.gz"), ("wat", "pages.warc.wat.gz")):
            found = [(path, link) for path, link in links.items() if path.startswith(f"/{kind}/")]
            pages = members([page_of(kind, server.url(path), link) for path, link in found])
            (root / name).write_bytes(b"".join(pages))
            at = 0
            for (path, _), page in zip(found, pages, strict=True):
                records[str(root / name), at] = path
                at += len(page)
        sources = [str(root / name) for name in ("pages.warc.gz", "pages.warc.wat.gz")]
        yield Web(server=server, sources=sources, links=links, records=records)


def page_of(kind: str, url: str, link: Link) -> bytes:
    """The record of a page with the picture at `url`."""
    alt, page_url = CAPTION.format(link.name.replace("-", " ")), f"http://pages.example/{kind}/{link.name}"
    headers = {"Content-Type": "text/html", **link.page_headers}
    if kind == "wat":
        metas = [{"name": name, "content": content} for name, content in link.metas.items()]
        head = {"Metas": metas} if metas else None
        return warc_record(
            wat_block([{"url": url, "alt": alt}], url=page_url, head=head, headers=headers), url=page_url
        )
    metas_html = "".join(f'<meta name="{name}" content="{content}">' for name, content in link.metas.items())
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    block = html_block(f'<html><head>{metas_html}</head><img src="{url}" alt="{alt}"></html>', headers=lines)
    return warc_record(block, url=page_url, kind="response", content_type="application/http; msgtype=response")


def test_every_signal_has_its_fate_and_a_change_asks_only_for_what_is_not_known(web: Web, tmp_path: Path) -> None:
    run = web.run(tmp_path)
    assert run.run() == 0
    assert web.fates(run) == web.expected("standard")
    asked = [path for path, link in web.links.items() if not link.fate.startswith("extract/")]
    assert web.pictures_asked() == sorted(asked), "what a page forbids is never asked for"
    with open_catalog(run.output) as database:
        costs = costs_of(database)
    assert costs == {
        ("page_robots", "before a request"): 8,
        ("tdm_reservation", "before a request"): 4,
        ("content_usage", "before a request"): 2,
        ("content_signal", "before a request"): 2,
        ("x_robots_tag", "by the headers"): 4,
        ("tdm_reservation", "by the headers"): 1,
        ("content_usage", "by the headers"): 3,
        ("content_signal", "by the headers"): 1,
        ("data_mining", "by the picture"): 5,
    }
    published = run.published()

    # Nothing is forbidden any more: what had no body is asked for, once, and nothing else.
    web.server.requests.clear()
    assert run.run("--consent.level", "off") == 0
    assert web.fates(run) == dict.fromkeys(web.links, SAMPLE)
    assert web.pictures_asked() == sorted(path for path, link in web.links.items() if link.fate != SAMPLE)
    facts = [str(path) for path in (run.output / "work/fetch").glob("*.facts.parquet")]
    said = duckdb.sql(f"SELECT unnest(statements) FROM read_parquet({json.dumps(facts)})").fetchall()
    noted = {statement for (statement,) in said}
    assert {"content-signal: ai-train=yes, ai-input=no", "plus:datamining: DMI-ALLOWED"} <= noted
    assert "x-robots-tag: somebot: noai" in noted

    # All is known, with what was said: any other level, or signal, is judged without a request.
    web.server.requests.clear()
    assert run.run("--consent.content_usage", "false") == 0
    free = {
        path: SAMPLE if fate.endswith("/content_usage") else fate for path, fate in web.expected("standard").items()
    }
    assert web.fates(run) == free
    assert run.run() == 0
    assert web.fates(run) == web.expected("standard")
    assert run.published() == published
    assert web.pictures_asked() == []


def test_strict_reads_manifests_and_asks_for_tdmrep_json(web: Web, tmp_path: Path) -> None:
    run = web.run(tmp_path)
    web.server.requests.clear()
    assert run.run("--consent.level", "strict") == 0
    assert web.fates(run) == web.expected("strict")
    assert web.server.targets().count(TDMREP_PATH) == 1
    assert "/warc/reserved/a" not in web.server.targets()


def costs_of(database: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], int]:
    rows = database.sql(named_query("consent"))
    columns = rows.columns
    found = [dict(zip(columns, row, strict=True)) for row in rows.fetchall()]
    return {(row["reason"], row["decided"]): row["rejected"] for row in found}
