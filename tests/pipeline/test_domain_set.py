"""configs/shards/biomedical.yaml over a journal that the test makes and serves: captions of any length stay whole."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.domain_figures import FILLER, write_figures
from pipeline.commands import main
from tests.conftest import REPOSITORY
from tests.pipeline.loopback_server import LoopbackServer, answer, text

RESERVED = json.dumps([{"location": "/reserved/*", "tdm-reservation": 1}]).encode()


def test_figures_keep_their_captions_whole_and_what_publishers_reserve_is_left_alone(tmp_path: Path) -> None:
    write_figures(tmp_path / "web", figures=6, port=0, per_class=1)
    pictures = sorted((tmp_path / "web/pictures").iterdir())
    routes = {f"/pictures/{path.name}": text(path.read_bytes(), {"Content-Type": "image/png"}) for path in pictures}
    routes["/reserved/a.png"] = routes["/pictures/00005.png"]
    routes["/.well-known/tdmrep.json"] = answer(200, RESERVED, {"Content-Type": "application/json"})
    long = " ".join([*FILLER] * 7) + " A gland of the mouse is seen."  # some 800 words
    parts = "(A) liver, (B) spleen, (C) kidney, (D) lung, (E) heart, (F) brain, (G) skin, (H) bone marrow"
    with LoopbackServer(routes) as server:
        base = f"http://127.0.0.1:{server.port}"
        captions = [
            "A micrograph of a villus of the rat.", long, parts, "Hepatocellular carcinoma, H&E stain, x400.",
            "A second caption of the first figure, with a villus.",
        ]  # fmt: skip
        urls = [f"{base}/pictures/{pictures[number].name}" for number in (0, 1, 2, 3, 0)]
        rows = [
            {"url": url, "caption": caption, "license": "CC BY", "article_url": f"{base}/1"}
            for url, caption in zip(urls, captions, strict=True)
        ]
        rows.append({**rows[0], "url": f"{base}/reserved/a.png", "caption": "A gland, which the publisher reserves."})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "figures.parquet")
        (tmp_path / "queries.txt").write_text("villus\ngland\ncarcinoma\n")
        options = {
            "sources": json.dumps([str(tmp_path / "figures.parquet")]),
            "queries": str(tmp_path / "queries.txt"),
            "output": str(tmp_path / "set"),
            "texts.partitions": "1",
            "fetch.allow_addresses": json.dumps([f"127.0.0.0/8:{server.port}"]),
            "fetch.heavy_host_urls": "0",
            "engine.kind": "inline",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        assert main(["run", str(REPOSITORY / "configs/shards/biomedical.yaml"), *words]) == 0
    (path,) = sorted((tmp_path / "set/shards").glob("*.parquet"))
    found = {row["caption"]: row for row in pq.read_table(path).to_pylist()}
    assert set(found) == set(captions)
    assert {row["license"] for row in found.values()} == {"CC BY"}
    assert len(found[long]["query_ids"]) == 1
    assert not found[parts]["query_ids"]
    with tarfile.open(path.with_suffix(".tar")) as tar:
        member = tar.extractfile(f"{found[long]['key']}.txt")
        assert member is not None
        assert member.read().decode() == long
