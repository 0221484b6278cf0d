"""What docs/peers.md says, in the environments that `make peers` made: others read our shards, and we read theirs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import ConfigError, load
from pipeline.catalog.catalog import open_catalog
from pipeline.commands import main
from pipeline.config import WitConfig
from pipeline.consent.signals import AnswerSignals
from pipeline.questions.verify import verify
from pipeline.runs.run import run
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.img2dataset import fetch_with_img2dataset, find_img2dataset
from tests.conftest import REPOSITORY
from tests.pipeline.img2dataset_directory import jpeg, reasons_of, samples_of
from tests.pipeline.loopback_server import LoopbackServer, answer, raw, redirect, text

pytestmark = pytest.mark.peers
PAGE = (REPOSITORY / "docs/peers.md").read_text(encoding="utf-8")
IMG2DATASET = REPOSITORY / ".venv-peers/img2dataset/bin/python"
GOOD = 36


@dataclass(frozen=True)
class Published:
    """A data set that was fetched from `server`, as data/sample of a directory."""

    root: Path
    server: LoopbackServer

    @property
    def output(self) -> Path:
        return self.root / "data/sample"


def snippet(section: str, language: str) -> str:
    """The one code block of a language in a section of the page."""
    (body,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", body, re.MULTILINE | re.DOTALL)
    return str(code)


def run_with(peer: str | None, code: str, directory: Path, *, with_ours: bool = False) -> str:
    """Run `code` in `directory` with a peer's Python (None: ours), offline; returns what it prints. `with_ours`: it may
    import our packages, too."""
    python = Path(sys.executable) if peer is None else REPOSITORY / ".venv-peers" / peer / "bin/python"
    assert python.exists(), f"{python} is not there: run `make test-peers`, which makes it"
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(directory / "hf"), "WANDB_MODE": "disabled"}
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    if with_ours:
        environment["PYTHONPATH"] = str(REPOSITORY)
    script = directory / "snippet.py"
    script.write_text(code)
    done = subprocess.run(
        [str(python), "-W", "ignore", script.name],
        cwd=directory,
        env=environment | offline | {"NO_ALBUMENTATIONS_UPDATE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def captions_of(output: Path) -> list[str]:
    parts = [pq.read_table(path)["caption"].to_pylist() for path in sorted((output / "shards").glob("*.parquet"))]
    return [caption for part in parts for caption in part]


def config_of(source: Path, root: Path, output: str, port: int, *more: str) -> WitConfig:
    (root / "my-queries.txt").write_text("dog\n")
    plain = ["--sources", f'["{source}"]', "--queries", str(root / "my-queries.txt"), "--output", str(root / output)]
    plain += ["--fetch.user_agent", "test/1 (+http://localhost/)", "--fetch.retries", "0", "--engine.kind", "inline"]
    plain += ["--fetch.allow_addresses", f'["127.0.0.0/8:{port}"]', "--fetch.timeout_s", "5"]
    return load(WitConfig, None, [*plain, "--shards.samples_per_shard", "20", "--image.image_size", "32", *more])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    root = tmp_path_factory.mktemp("peers")
    routes = {f"/{i}.jpg": text(jpeg(i)) for i in range(GOOD)}
    routes |= {
        "/moved.jpg": redirect("/0.jpg"),
        "/optout.jpg": text(jpeg(1), {"X-Robots-Tag": "noai"}),
        "/html.jpg": text(b"<html>no picture</html>"),
        "/busy.jpg": answer(503, b"busy"),
        "/half.jpg": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nhalf"),
        "/a%20b/%C3%A4.jpg": text(jpeg(99)),
    }
    with LoopbackServer(routes) as server:
        urls = [server.url(path, "127.0.0.1") for path in routes]
        urls += [server.url("/gone.jpg", "127.0.0.1"), "http://10.0.0.1/private.jpg"]
        urls[urls.index(server.url("/a%20b/%C3%A4.jpg", "127.0.0.1"))] = server.url("/a b/ä.jpg", "127.0.0.1")
        captions = [f"a photo of “dog” number {i}, with\na 猫" for i in range(len(urls))]
        pages = [None if i % 2 else f"http://page.example/{i}" for i in range(len(urls))]
        source = root / "links.parquet"
        pq.write_table(pa.table({"url": urls, "caption": captions, "page_url": pages}), source)
        run(config_of(source, root, "data/sample", server.port))
        yield Published(root=root, server=server)


def test_versions_on_the_page_are_those_that_run_here() -> None:
    pins = {"open_clip's trainer": ("open_clip", "webdataset"), "Hugging Face `datasets`": ("datasets", "datasets")}
    for reader, (peer, package) in (pins | {name: (name, name) for name in ("img2dataset", "mlcroissant")}).items():
        (row,) = re.findall(rf"^\| {reader} \| .*", PAGE, re.MULTILINE)
        (pin,) = re.findall(rf"^{package}==(.*)", (REPOSITORY / f"tests/peers/{peer}.txt").read_text(), re.MULTILINE)
        assert pin in row
    for package in ("webdataset", "open-clip-torch"):
        (pin,) = re.findall(rf"^{package}==(\S+)", (REPOSITORY / "requirements-dev.lock").read_text(), re.MULTILINE)
        assert pin in PAGE


def test_webdataset(published: Published) -> None:
    out = run_with(None, snippet("webdataset", "python"), published.root)
    assert out == f"{captions_of(published.output)[-1]!r} is the last caption\n"


def test_open_clip(published: Published) -> None:
    out = run_with("open_clip", snippet("open_clip", "python"), published.root)
    count = len(captions_of(published.output))
    assert out == f"{-(-count // 8) * 8} samples an epoch, in whole batches\n"


def test_open_clip_sees_every_pair_once_and_in_order(published: Published) -> None:
    code = """
import glob, json
from types import SimpleNamespace
import webdataset
from open_clip_train.data import get_dataset_size, get_wds_dataset
last = len(glob.glob("data/sample/shards/*.tar")) - 1
tars = f"data/sample/shards/{{00000..{last:05d}}}.tar"
options = SimpleNamespace(val_data=tars, val_num_samples=None, batch_size=7, workers=0, world_size=1)
data = get_wds_dataset(options, lambda image: image.size, is_train=False, tokenizer=lambda text: [text])
rows = [pair for sizes, texts in data.dataloader for pair in zip(sizes, texts)]
print(json.dumps([webdataset.__version__, get_dataset_size(tars)[0], rows]))
"""
    version, size, rows = json.loads(run_with("open_clip", code, published.root))
    assert version == "0.2.86", "the trainer's own, not the one behind it"
    captions = captions_of(published.output)
    assert size == len(captions)
    assert [caption for _, caption in rows] == captions


def test_datasets(published: Published) -> None:
    out = run_with("datasets", snippet("datasets", "python"), published.root)
    captions = captions_of(published.output)
    uid = pq.read_table(published.output / "shards/00000.parquet")["uid"][0].as_py().hex()
    assert out == f"(43, 32) {captions[0]} {uid}\n{len(captions)} rows\n"


@pytest.mark.parametrize("url_list", ["data/sample/shards", "list.parquet"])
def test_img2dataset_reads_our_lists(published: Published, url_list: str) -> None:
    assert main(["export-list", str(published.output), "--to", str(published.root / "list.parquet")]) == 0
    shutil.rmtree(published.root / "again", ignore_errors=True)
    code = snippet("img2dataset", "python")
    run_with("img2dataset", code.replace("data/sample/shards", url_list), published.root)
    rows = [row for path in (published.root / "again").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert sorted(row["caption"] for row in rows) == sorted(captions_of(published.output))
    # It cannot request a URL with a space, as the source has one: our lists have it as browsers spell it.
    assert [row["url"] for row in rows if row["status"] != "success"] == []
    assert sum(row["url"].endswith("/a%20b/%C3%A4.jpg") for row in rows) == 1


def test_what_img2dataset_wrote_is_a_source(published: Published) -> None:
    shutil.rmtree(published.root / "again", ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(published.server.routes, "/1.jpg", answer(404))
        run_with("img2dataset", snippet("img2dataset", "python"), published.root)
    config = yaml.safe_load(snippet("A directory of img2dataset's as a source", "yaml"))
    for name, parent in (("output", published.root), ("queries", published.root)):
        config[name] = str(parent / config[name])
    config["sources"] = [str(published.root / pattern) for pattern in config["sources"]]
    path = published.root / "curate.yaml"
    path.write_text(yaml.safe_dump(config | {"engine": {"kind": "inline"}}))
    asked = len(published.server.requests)
    run(load(WitConfig, path, []))
    assert len(published.server.requests) == asked, "nothing is requested"
    curated = published.root / "data/curated"
    assert not verify(curated).damages
    assert reasons_of(curated) == {("extract", "no_picture"): 1}
    here = {sample["url"]: sample for sample in samples_of(published.output)}
    for sample in samples_of(curated):
        origin = here[sample["url"]]
        assert (sample["caption"], sample["sha256"]) == (origin["caption"], origin["sha256"])
        assert (sample["original_width"], sample["original_height"]) == (64, 48)
        assert (sample["width"], sample["height"]) == (43, 32)


def test_both_engines_make_the_same_set(published: Published) -> None:
    whole = yaml.safe_load(snippet("img2dataset as the engine", "yaml"))
    config = whole["fetch"]
    engine = ("--fetch.engine", config["engine"], "--fetch.engine_python", str(REPOSITORY / config["engine_python"]))
    for signal, honoured in whole["consent"].items():
        engine += (f"--consent.{signal}", json.dumps(honoured))
    output = published.root / "data/engine"
    run(config_of(published.root / "links.parquet", published.root, "data/engine", published.server.port, *engine))
    assert not verify(output).damages
    expected = {
        ("fetch", "address_not_allowed"): 1,
        ("fetch", "http_404"): 1,
        ("fetch", "http_503"): 1,
        ("fetch", "x_robots_tag"): 1,
        ("fetch", "transfer"): 1,
        ("check_image", "not_an_image"): 1,
    }
    assert reasons_of(published.output) == reasons_of(output) == expected
    assert samples_of(output) == samples_of(published.output)
    assert len(samples_of(output)) == GOOD + 2
    assert pictures_of(output) == pictures_of(published.output)
    assert not [path for path in (output / "work/fetch").iterdir() if ".tmp-" in path.name]


def pictures_of(output: Path) -> dict[str, bytes]:
    pictures = {}
    with open_catalog(output) as database:
        rows = database.sql("SELECT url, shard, tar_offset, num_bytes FROM samples").fetchall()
    for url, shard, offset, size in rows:
        with (output / f"shards/{shard:05d}.tar").open("rb") as tar:
            tar.seek(offset)
            pictures[url] = tar.read(size)
    return pictures


def engine_config(port: int, **more: Any) -> FetchConfig:
    return FetchConfig(
        user_agent="test/1 (+http://localhost/)",
        engine="img2dataset",
        engine_python=str(IMG2DATASET),
        allow_addresses=(f"127.0.0.0/8:{port}",),
        retries=0,
        **more,
    )


def test_engine_that_hangs_is_ended_at_the_deadline(tmp_path: Path) -> None:
    with LoopbackServer({"/slow": answer(200, jpeg(0), delay_s=60)}) as server:
        config = engine_config(server.port, shard_deadline_s=8, timeout_s=50)
        urls = [server.url("/slow", "127.0.0.1"), "ftp://a.example/x"]
        found = {
            each.index: each for each in fetch_with_img2dataset(urls, config, AnswerSignals(), tmp_path / "scratch")
        }
    assert [found[i].reason for i in range(2)] == ["timeout", "scheme_not_allowed"]
    assert found[0].detail == "not finished after the shard's 8 s"


def test_engine_keeps_to_sizes_and_the_block_list(tmp_path: Path) -> None:
    routes = {"/ok": text(b"x" * 100), "/big": text(b"x" * 2000), "/empty": text(b""), "/listed": text(b"listed")}
    with LoopbackServer(routes) as server:
        listed = "56547a7cc8bbf46bb4aa2f18a097fee842ce6e94ca4c7f5cda6df35c4f5825c9"
        urls = [server.url(path, "127.0.0.1") for path in (*routes, "/blocked")]
        config = engine_config(server.port, max_bytes=1000, block=(urls[-1], listed))
        found = {
            each.index: each for each in fetch_with_img2dataset(urls, config, AnswerSignals(), tmp_path / "scratch")
        }
        assert "/blocked" not in server.targets()
    assert found[0].body == b"x" * 100
    assert [found[i].reason for i in range(1, 5)] == ["too_large", "empty_body", "block_list", "block_list"]


def test_engine_is_found_and_one_without_it_is_not() -> None:
    assert find_img2dataset(engine_config(1)) == "1.47.0"
    without = replace(engine_config(1), engine_python=sys.executable)
    with pytest.raises(ConfigError, match="has no img2dataset; make an environment"):
        find_img2dataset(without)
