"""What docs/release.md says of other people's programs: they read a release, and rebuild its pictures."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.commands import main
from tests.conftest import REPOSITORY
from tests.peers.test_peers import run_with
from tests.pipeline.img2dataset_directory import jpeg
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun

pytestmark = pytest.mark.peers
PAGE = (REPOSITORY / "docs/release.md").read_text(encoding="utf-8")
TOLD = ("--licence", "CC-BY-4.0", "--creator", "person: Jane Doe", "--url", "https://example.org/wit")
TOLD += ("--citation", "@misc{wit}", "--contact", "https://example.org/wit/removal")
PICTURES = 24


@dataclass(frozen=True)
class Made:
    """data/release and data/release-pictures of a directory, of a set that was fetched from `server`."""

    root: Path
    server: LoopbackServer

    def rows(self, release: str = "release") -> list[dict[str, Any]]:
        links = self.root / "data" / release / "links"
        return [row for path in sorted(links.iterdir()) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    root = tmp_path_factory.mktemp("peers-release")
    with LoopbackServer({f"/{i}.jpg": text(jpeg(i)) for i in range(PICTURES)}) as server:
        small = SmallRun.make(root, server, [f"/{i}.jpg" for i in range(PICTURES)])
        _by_address(root / "links.parquet", server)
        assert small.run("--shards.samples_per_shard", "10") == 0
        for name, more in (("release", ("--rows_per_file", "10")), ("release-pictures", ("--pictures",))):
            assert main(["release", str(small.output), str(root / "data" / name), *TOLD, *more]) == 0
        yield Made(root, server)


def _by_address(links: Path, server: LoopbackServer) -> None:
    """img2dataset asks the machine's resolver, which need not know names below localhost."""
    table = pq.read_table(links)
    urls = [server.url(f"/{url.rpartition('/')[2]}", "127.0.0.1") for url in table["url"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("url"), "url", pa.array(urls)), links)


def snippet(library: str) -> str:
    """The one block of the page that imports the library."""
    (code,) = (block for block in re.findall(r"^```py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) if library in block)
    return str(code)


def test_mlcroissant_reads_the_rows(made: Made) -> None:
    out = run_with("mlcroissant", snippet("mlcroissant"), made.root)
    assert out == f"{made.rows()[0]['url']}\n"


@pytest.mark.parametrize("release", ["release", "release-pictures"])
def test_mlcroissant_finds_neither_an_error_nor_a_warning(made: Made, release: str) -> None:
    code = f"""
import json
import mlcroissant
found = mlcroissant.Dataset("data/{release}/croissant.json")
issues = found.metadata.ctx.issues
plain = lambda value: value.decode() if isinstance(value, bytes) else getattr(value, "tolist", lambda: value)()
told = lambda value: [plain(each) for each in value] if isinstance(value, list) else plain(value)
rows = {{name: [{{key.split("/")[1]: told(value) for key, value in row.items()}} for row in found.records(name)]
        for name in ("samples", "queries")}}
print(json.dumps([sorted(issues.errors), sorted(issues.warnings), found.metadata.version, rows]))
"""
    errors, warnings, version, rows = json.loads(run_with("mlcroissant", code, made.root))
    assert (errors, warnings, version) == ([], [], "1.0.0")
    for row, ours in zip(rows["samples"], made.rows(release), strict=True):
        assert row.pop("p_en") == pytest.approx(ours.pop("p_en"))
        assert row == ours
    queries = pq.read_table(made.root / "data" / release / "queries.parquet").to_pylist()
    assert [row["query"] for row in rows["queries"]] == [row["query"] for row in queries]


def test_mlcroissant_reads_the_pictures(made: Made) -> None:
    code = """
import mlcroissant
for row in mlcroissant.Dataset("data/release-pictures/croissant.json").records("pictures"):
    print(row["pictures/key"].decode(), *row["pictures/image"].size)
"""
    told = sorted(run_with("mlcroissant", code, made.root).splitlines())
    assert told == [f"{row['key']} {row['width']} {row['height']}" for row in made.rows("release-pictures")]


def test_mlcroissant_turns_away_what_is_no_croissant(made: Made) -> None:
    """That the test above could fail."""
    plain = json.loads((made.root / "data/release/croissant.json").read_text())
    del plain["distribution"][0]["sha256"]
    (made.root / "broken.json").write_text(json.dumps(plain))
    code = """
import mlcroissant
try:
    mlcroissant.Dataset("broken.json")
except mlcroissant.ValidationError as error:
    print("turned away")
"""
    assert run_with("mlcroissant", code, made.root) == "turned away\n"


def test_datasets_reads_the_directory(made: Made) -> None:
    rows = made.rows()
    assert run_with("datasets", snippet("datasets"), made.root) == f"{len(rows)} rows, {rows[0]['url']}\n"
    code = """
from datasets import load_dataset
queries = load_dataset("data/release", "queries", split="train")
parquet = load_dataset("parquet", data_files="data/release/links/*.parquet", split="train")
print(queries["query"][0], parquet["uid"][-1], sorted(parquet.column_names))
"""
    columns = sorted(rows[0])
    assert run_with("datasets", code, made.root) == f"the {rows[-1]['uid']} {columns}\n"


def test_datasets_reads_the_pictures(made: Made) -> None:
    code = """
from datasets import load_dataset
for row in load_dataset("webdataset", data_files="data/release-pictures/pictures/*.tar", split="train", streaming=True):
    print(row["json"]["uid"], row["jpg"].size[0], row["txt"], sep="|")
"""
    told = [line.split("|") for line in run_with("datasets", code, made.root).splitlines()]
    rows = made.rows("release-pictures")
    assert told == [[row["uid"], str(row["width"]), row["caption"]] for row in rows]


def test_img2dataset_rebuilds_the_pictures_that_are_still_the_same(made: Made) -> None:
    shutil.rmtree(made.root / "data/again", ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(made.server.routes, "/1.jpg", text(jpeg(99)))  # another picture by now
        run_with("img2dataset", snippet("img2dataset"), made.root)
    found = [row for path in (made.root / "data/again").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    ours = {row["uid"]: row for row in made.rows()}
    assert {row["uid"] for row in found} == ours.keys()
    (gone,) = (row for row in found if row["status"] != "success")
    assert gone["url"].endswith("/1.jpg")
    assert gone["error_message"] == "hash mismatch"
    for row in found:
        if row["status"] == "success":
            assert row["sha256"] == ours[row["uid"]]["sha256"]
            assert (row["url"], row["caption"]) == tuple(ours[row["uid"]][name] for name in ("url", "caption"))
    pictures = 0
    for path in (made.root / "data/again").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    content = tar.extractfile(member)
                    assert content is not None
                    assert Image.open(io.BytesIO(content.read())).size == (64, 48)
                    pictures += 1
    assert pictures == PICTURES - 1
