"""Real pages and pictures on loopback: from their WAT files to shards."""

from __future__ import annotations

import gzip
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pyarrow.parquet as pq
import pytest

from configs.load import from_mapping
from pipeline.catalog.catalog import open_catalog
from pipeline.config import WitConfig
from pipeline.records.identity import canonical_url
from pipeline.runs.run import run

pytestmark = pytest.mark.slow

PORT = 8765  # the port in the archives' URLs
# So the address must differ between runs of this test at the same time; Linux has all of 127.0.0.0/8.
ADDRESS = f"127.65.{os.getpid() >> 8 & 255}.{os.getpid() & 255}" if sys.platform == "linux" else "127.0.0.1"


@pytest.fixture(scope="module")
def hosts(shared_data: Path) -> Iterator[Path]:
    """The document roots, each under its own host name."""

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            host = self.headers.get("Host", "").partition(":")[0]
            self.directory = str(shared_data / "hosts" / host)
            return super().translate_path(path)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64  # with the usual five, some forty connections a run found it full

    server = Server((ADDRESS, PORT), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield shared_data / "hosts"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def output(hosts: Path, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run over the five sites with WordNet's nouns as the query list, nothing cut by balance."""
    root = tmp_path_factory.mktemp("real")
    lines = gzip.decompress((shared_data / "queries/wordnet-3.0-index.noun.gz").read_bytes()).decode().splitlines()
    nouns = sorted({line.split(" ", 1)[0].replace("_", " ") for line in lines if not line.startswith("  ")})
    (root / "nouns.txt").write_text("\n".join(nouns))
    config = {
        "sources": [str(shared_data / "webarchive/wat/*.localhost.warc.wat.gz")],
        "queries": str(root / "nouns.txt"),
        "output": str(root / "set"),
        "texts": {"keep_candidates": True},
        "fetch": {
            "user_agent": "openwit-test/1 (+http://localhost/)",
            "allow_addresses": [f"{ADDRESS}/32:{PORT}"],
            "resolve": [f"{host.name}:{PORT}:{ADDRESS}" for host in sorted(hosts.iterdir())],
        },
        "image": {"min_side": 1, "max_aspect_ratio": 1000},
        "engine": {"kind": "inline"},
    }
    run(from_mapping(WitConfig, config))
    return root / "set"


def _pairs(shared_data: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(shared_data / "pairs/pairs.parquet").to_pylist()
    for row in rows:
        row["page_url"] = f"http://{row['host']}:{PORT}/{row['page']}"
    return rows


def _query(output: Path, sql: str) -> list[dict[str, Any]]:
    with open_catalog(output) as database:
        result: list[dict[str, Any]] = database.sql(sql).to_arrow_table().to_pylist()
    return result


def _same_page(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path.removesuffix('index.html')}"


def test_candidates_are_the_pairs_of_the_pages(output: Path, shared_data: Path) -> None:
    front = _same_page(f"http://18f.localhost:{PORT}/index.html")  # in the WAT only, see the data's README
    found = Counter(
        (_same_page(row["page_url"]), canonical_url(row["url"]), row["alt_text"])
        for row in _query(output, "SELECT page_url, url, alt_text FROM candidates")
        if _same_page(row["page_url"]) != front
    )
    expected = Counter(
        (_same_page(row["page_url"]), canonical_url(urljoin(row["page_url"], row["img_src"])), row["alt"])
        for row in _pairs(shared_data)
        if row["alt"].strip()
    )
    assert found == expected


def test_every_english_matched_present_picture_arrives(output: Path, shared_data: Path) -> None:
    present = {
        canonical_url(urljoin(row["page_url"], row["img_src"])): row
        for row in _pairs(shared_data)
        if row["present"] and row["format"] not in ("SVG", "")
    }
    arrived = {canonical_url(row["url"]) for row in _query(output, "SELECT url FROM samples")}
    planned = {canonical_url(row["url"]) for row in _query(output, "SELECT url FROM selected")}
    matched = {canonical_url(row["url"]) for row in _query(output, "SELECT url FROM matched")}
    assert planned == matched, "nothing was cut by balance"
    missing = (matched & set(present)) - arrived
    assert not missing, sorted(missing)[:5]
    absent = {
        canonical_url(urljoin(row["page_url"], row["img_src"])) for row in _pairs(shared_data) if not row["present"]
    }
    statuses = _query(output, "SELECT url, reason FROM fetched WHERE status != 'success'")
    assert {row["reason"] for row in statuses if canonical_url(row["url"]) in absent} == {"http_404"}
    assert len(arrived) > 500
