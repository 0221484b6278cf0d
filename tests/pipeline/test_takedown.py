"""What is removed from a data set is gone from every file of it, stays away, and others can take it out of their copy."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from PIL import Image

from pipeline.catalog.catalog import open_catalog
from pipeline.commands import main
from pipeline.records.shard import REMOVED_MEMBER
from pipeline.sets.read_shards import read_shards
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, copy_set
from training.data.index import write_index

PICTURES = 12
PATHS = [f"/{i}" for i in range(PICTURES)]


def picture(seed: int) -> bytes:
    """A JPEG of about 60 kB."""
    noise = np.random.default_rng(seed).integers(0, 255, (224, 224, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    answers = {path: text(picture(i)) for i, path in enumerate(PATHS)}
    with LoopbackServer(answers) as server:
        yield server


@pytest.fixture(scope="module")
def made(server: LoopbackServer, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    small = SmallRun.make(tmp_path_factory.mktemp("made"), server, PATHS)
    config = yaml.safe_load(small.config.read_text())
    config["image"] |= {"image_size": 224}
    config["shards"] = {"samples_per_shard": 4}
    small.config.write_text(yaml.safe_dump(config))
    assert small.run() == 0
    return small


@pytest.fixture
def small(made: SmallRun, tmp_path: Path) -> SmallRun:
    """The set, to be changed, in a place of its own."""
    config = yaml.safe_load(made.config.read_text()) | {"output": str(tmp_path / "set")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    copy_set(made.output, tmp_path / "set")
    return SmallRun(root=tmp_path, config=tmp_path / "config.yaml", output=tmp_path / "set")


def named(small: SmallRun, name: str, lines: Sequence[str]) -> list[str]:
    """An option of `remove` with its file."""
    file = small.root / f"{name}.txt"
    file.write_text("# asked for on paper\n" + "\n".join(lines) + "\n")
    return [f"--{name}", str(file)]


def rows_of(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "shards").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def deltas(output: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((output / "removed").glob("*.json"))]


def holds(directory: Path, needle: bytes) -> list[str]:
    """The files that have these bytes somewhere."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return sorted({str(path.relative_to(directory)) for path in files if needle in path.read_bytes()})


def stored_picture(output: Path, row: dict[str, Any]) -> bytes:
    with (output / "shards" / f"{row['shard']:05d}.tar").open("rb") as tar:
        tar.seek(row["tar_offset"])
        return tar.read(row["num_bytes"])


def test_removed_samples_are_gone_from_every_file_and_the_others_stay_in_their_place(
    small: SmallRun, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows_of(small.output)
    gone = [row for row in before if row["url"].endswith(("/3", "/8"))]
    bodies = [stored_picture(small.output, row) for row in gone]
    sizes = {path.name: path.stat().st_size for path in (small.output / "shards").glob("*.tar")}
    urls = named(small, "urls", [gone[0]["url"].replace("http", "HTTP", 1), gone[1]["url"] + "#fragment"])
    assert main(["remove", str(small.output), *urls, "--reason", "asked by its author"]) == 0
    assert "2 samples of" in capsys.readouterr().out
    kept = [row for row in before if row not in gone]
    assert rows_of(small.output) == kept
    for row in kept:
        assert hashlib.sha256(stored_picture(small.output, row)).digest()
    assert {path.name: path.stat().st_size for path in (small.output / "shards").glob("*.tar")} == sizes
    for row, body in zip(gone, bodies, strict=True):
        assert not holds(small.output, body[2_000:2_100])
        assert not holds(small.output / "shards", row["uid"].hex().encode())
        assert not holds(small.output / "removed", row["url"].encode())
    assert main(["verify", str(small.output), "--work"]) == 0
    (delta,) = deltas(small.output)
    assert delta["state"] == "done"
    assert delta["reason"] == "asked by its author"
    assert {each["uid"] for each in delta["samples"]} == {row["uid"].hex() for row in gone}
    published = small.published()
    assert {name: change["after"] for name, change in delta["files"].items()}.items() <= published.items()


def test_every_reader_passes_over_what_was_removed(small: SmallRun) -> None:
    before = rows_of(small.output)
    first, last = before[0], before[-1]  # at the beginning of a tar, and at the end of one
    assert main(["remove", str(small.output), *named(small, "uids", [first["uid"].hex(), last["uid"].hex()])]) == 0
    kept = [row["key"] for row in before[1:-1]]
    tars = sorted(map(str, (small.output / "shards").glob("*.tar")))
    read = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
    assert [sample["__key__"] for sample in read] == kept
    assert [sample["key"] for sample in read_shards(small.output)] == kept
    index = write_index(small.output, root=small.root / "index")
    assert len(index) == len(kept)
    for parquet in (small.output / "shards").glob("*.parquet"):
        parquet.unlink()
    (small.output / "shards" / "manifest.json").unlink()
    (small.output / "shards" / "sizes.json").unlink()
    by_headers = write_index(small.output, root=small.root / "index")
    assert by_headers.offset.tolist() == index.offset.tolist()
    with tarfile.open(tars[0]) as tar:
        members = tar.getmembers()
        assert members[0].name == REMOVED_MEMBER
        blank = tar.extractfile(members[0])
        assert blank is not None
        assert not blank.read().strip(b"\0")


def test_books_add_up_after_a_removal_and_after_the_next_run(small: SmallRun) -> None:
    asked = named(small, "urls", [row["url"] for row in rows_of(small.output) if row["url"].endswith("/5")])
    assert main(["remove", str(small.output), *asked]) == 0

    def told() -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], int]:
        with open_catalog(small.output) as database:
            ledger = database.execute("SELECT stage, kept, rejected FROM ledger ORDER BY position").fetchall()
            removed = database.execute("SELECT stage, count(*) FROM rejections WHERE reason = 'removed' GROUP BY 1")
            return ledger, removed.fetchall(), database.execute("SELECT count(*) FROM samples").fetchall()[0][0]

    ledger, removed, samples = told()
    assert ledger[-1] == ("takedown", PICTURES - 1, 1)
    assert removed == [("takedown", 1)]
    assert samples == PICTURES - 1
    with open_catalog(small.output) as database:
        (fetched,) = database.execute(
            "SELECT reason, thumbnail, sha256 FROM fetched WHERE status <> 'success'"
        ).fetchall()
    assert fetched == ("removed", None, None)
    assert small.run() == 0
    ledger, removed, samples = told()
    assert ("fetch", PICTURES - 1, 1) in ledger
    assert "takedown" not in {stage for stage, *_ in ledger}
    assert removed == [("fetch", 1)]
    assert samples == PICTURES - 1
    assert small.run() == 0  # once more, with nothing to do
    assert main(["verify", str(small.output), "--work"]) == 0
