"""A directory that img2dataset wrote as a source: curated, checked and re-sharded, and nothing is requested."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.load import load
from pipeline.config import WitConfig
from pipeline.errors import InputError
from pipeline.questions.verify import verify
from pipeline.runs.run import run
from pipeline.steps.fetch import requests
from pipeline.steps.fetch.facts import read_facts
from pipeline.storage.img2dataset import pictures
from pipeline.storage.location import Location
from tests.conftest import REPOSITORY
from tests.pipeline.img2dataset_directory import jpeg, reasons_of, row, samples_of, write_directory
from tests.pipeline.loopback_server import LoopbackServer, text

PRESET = REPOSITORY / "configs/shards/from_img2dataset.yaml"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("there") / "images"
    first = [row(i, f"http://a.example/{i}.jpg", f"a photo of a red dog number {i}", jpeg(i)) for i in range(12)]
    first[3]["body"] = b"<html>not a picture</html>"
    first[4]["body"] = jpeg(4)[:-200]
    first[5] |= row(5, "http://a.example/5.jpg", "a photo of a red dog number 5")
    first[7]["caption"] = "IMG_0007.JPG"
    first[8]["caption"] = "a boat on a lake in the evening"
    first[9]["url"] = "http://a.example/0.jpg"
    write_directory(path, 0, first, leave_out=["000000006"])
    second = [row(10000 + i, f"http://b.example/ä {i}.jpg", f"the blue cat number {i}", jpeg(50 + i)) for i in range(5)]
    write_directory(path, 1, second)
    return path


def config_of(directory: Path, output: Path, *more: str) -> WitConfig:
    queries = output.parent / "queries.txt"
    queries.write_text("dog\ncat\n")
    own = ("--sources", f'["{directory}/*.parquet"]', "--queries", str(queries), "--output", str(output))
    return load(WitConfig, PRESET, [*own, "--engine.kind", "inline", "--shards.samples_per_shard", "4", *more])


@pytest.fixture(scope="module")
def curated(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("curated") / "set"
    run(config_of(directory, output))
    return output


def test_every_row_is_kept_or_rejected_with_its_reason(curated: Path) -> None:
    assert reasons_of(curated) == {
        ("extract", "no_picture"): 1,
        ("clean", "file_name"): 1,
        ("match", "no_query"): 1,
        ("dedup", "other_caption"): 1,
        ("fetch", "not_stored"): 1,
        ("check_image", "not_an_image"): 1,
        ("check_image", "broken_image"): 1,
    }
    assert len(samples_of(curated)) == 17 - 7


def test_nothing_is_requested_and_the_result_is_sound(curated: Path) -> None:
    asked = [json.loads(path.read_text()) for path in (curated / "work/requests/done").glob("*.json")]
    assert sum(record["info"]["missing"] for record in asked) == 0
    assert sum(record["info"]["known"] for record in asked) == 13
    assert not list((curated / "work/fetch").glob("*.tar"))
    assert not verify(curated).damages


def test_stored_bytes_stay_and_what_is_known_of_the_served_picture_with_them(curated: Path) -> None:
    for sample in samples_of(curated):
        number = int(sample["caption"].rpartition(" ")[2])
        is_cat = "cat" in sample["caption"]
        tar = (curated / f"shards/{sample['shard']:05d}.tar").read_bytes()
        stored = tar[sample["tar_offset"] : sample["tar_offset"] + sample["num_bytes"]]
        assert stored == jpeg(50 + number if is_cat else number)
        key = 10000 + number if is_cat else number
        assert sample["sha256"] == hashlib.sha256(f"as served {key}".encode()).hexdigest()
        assert (sample["width"], sample["height"]) == (64, 48)
        assert (sample["original_width"], sample["original_height"]) == (640, 480)


def test_other_fetch_settings_import_nothing_again(directory: Path, curated: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (curated / "work/fetch/imported").iterdir()}
    result = run(config_of(directory, curated, "--fetch.user_agent", "another/1 (+http://localhost/)"))
    assert result.samples == 10
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run(config_of(directory, curated, "--fetch.user_agent", "another/1 (+http://localhost/)")).ran_tasks == 0


def test_changed_directory_is_read_again(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "images"
    rows = [row(i, f"http://a.example/{i}.jpg", f"a red dog number {i}", jpeg(i)) for i in range(3)]
    write_directory(copy, 0, rows, leave_out=["000000001"])
    assert run(config_of(copy, tmp_path / "set")).samples == 2
    write_directory(copy, 0, rows)
    assert run(config_of(copy, tmp_path / "set")).samples == 3
    assert not verify(tmp_path / "set").damages


def test_each_staging_shard_reads_its_own_part_of_the_imports(
    directory: Path, curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, int]] = []

    def watched(file: Location, orders: tuple[int, int], columns: Sequence[str]) -> pa.Table:
        table = read_facts(file, orders, columns)
        read.append((file.local.name, table.num_rows))
        return table

    monkeypatch.setattr(requests, "read_facts", watched)
    run(config_of(directory, tmp_path / "set", "--texts.rows_per_flush", "4"))
    facts = sum(pq.read_table(path).num_rows for path in (tmp_path / "set/work/fetch/imported").glob("*.parquet"))
    parts = list((tmp_path / "set/work/fetch/by_order").glob("*.parquet"))
    shards_planned = len(list((tmp_path / "set/work/schedule").glob("*.parquet")))
    assert len(parts) == -(-facts // 4)
    assert shards_planned == 4
    assert {name for name, _ in read} == {path.name for path in parts}
    assert sum(rows for _, rows in read) == facts  # each fact by one staging shard
    assert len(read) < len(parts) + shards_planned
    for path in (curated / "shards").iterdir():
        if path.name != "config.yaml":
            assert (tmp_path / "set/shards" / path.name).read_bytes() == path.read_bytes()


def test_missing_pictures_are_requested_if_the_config_says_so(tmp_path: Path) -> None:
    with LoopbackServer({"/1": text(jpeg(1)), "/2": text(jpeg(2))}) as server:
        rows = [row(i, server.url(f"/{i}"), f"a red dog number {i}", None if i == 1 else jpeg(i)) for i in range(3)]
        write_directory(tmp_path / "images", 0, rows, leave_out=["000000002"])
        allowed = ("--fetch.allow_addresses", f'["127.0.0.0/8:{server.port}"]')
        request = ("--extract.missing_pictures", "request", *allowed)
        assert run(config_of(tmp_path / "images", tmp_path / "set", *request)).samples == 3
        assert sorted(server.targets()) == ["/1", "/2", "/robots.txt"]


def test_tar_that_breaks_off_costs_only_what_is_lost(tmp_path: Path) -> None:
    rows = [row(i, f"http://a.example/{i}.jpg", f"a red dog number {i}", jpeg(i)) for i in range(6)]
    parquet = write_directory(tmp_path / "images", 0, rows)
    tar = parquet.with_suffix(".tar")
    with tarfile.open(tar) as members:
        end = members.getmember("000000003.jpg").offset_data + 10
    tar.write_bytes(tar.read_bytes()[:end])
    assert run(config_of(tmp_path / "images", tmp_path / "set")).samples == 3
    assert reasons_of(tmp_path / "set") == {("fetch", "not_stored"): 3}


def test_more_tars_than_may_be_open_at_once(
    directory: Path, curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.steps.fetch.pictures._MAX_OPEN_TARS", 1)
    run(config_of(directory, tmp_path / "set"))
    assert samples_of(tmp_path / "set") == samples_of(curated)


def test_sparse_map_without_numbers_ends_the_tar() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("000000000.jpg")
        member.pax_headers = {"GNU.sparse.map": "a,b"}
        tar.addfile(member)
    assert not list(pictures(io.BytesIO(buffer.getvalue()), max_bytes=1000))


@pytest.mark.parametrize("size", [0, 5, 512, 1000, 1024, 1500])
def test_pictures_of_damaged_tars_end_quietly(size: int) -> None:
    assert not list(pictures(io.BytesIO(b"x" * size), max_bytes=1000))


def test_members_above_the_limit_are_named_but_not_read(tmp_path: Path) -> None:
    rows = [row(0, "http://a.example/", "c", b"x" * 1001), row(1, "http://a.example/", "c", b"y" * 1000)]
    tar = write_directory(tmp_path / "images", 0, rows).with_suffix(".tar")
    with tar.open("rb") as file:
        assert list(pictures(file, max_bytes=1000)) == [("000000000", None), ("000000001", b"y" * 1000)]


def test_missing_tar_and_foreign_tables_stop_with_one_line(tmp_path: Path) -> None:
    rows = [row(0, "http://a.example/0.jpg", "a red dog", jpeg(0))]
    parquet = write_directory(tmp_path / "images", 0, rows)
    parquet.with_suffix(".tar").unlink()
    with pytest.raises(InputError, match=r"00000.tar: no such file beside its .parquet"):
        run(config_of(tmp_path / "images", tmp_path / "set"))
    pq.write_table(pa.table({"url": ["http://a.example/"], "caption": ["a red dog"]}), parquet)
    with pytest.raises(InputError, match=r"00000.parquet: no column named status"):
        run(config_of(tmp_path / "images", tmp_path / "set"))


def test_long_name_upon_long_name_ends_a_tar() -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 5
    names = (header.tobuf(tarfile.GNU_FORMAT) + b"name".ljust(512, b"\0")) * 3000
    assert not list(pictures(io.BytesIO(names), max_bytes=1000))


@pytest.mark.parametrize("before", ["first", "later"])
def test_listed_picture_is_not_imported_and_leaves_what_was_imported(tmp_path: Path, before: str) -> None:
    rows = [row(i, f"http://a.example/{i}.jpg", f"a red dog number {i}", jpeg(i)) for i in range(4)]
    write_directory(tmp_path / "images", 0, rows)
    as_served, as_stored = hashlib.sha256(b"as served 1").hexdigest(), hashlib.md5(jpeg(2)).hexdigest()
    (tmp_path / "known.txt").write_text(f"{as_served}\n{as_stored}\n")
    words = ("--privacy.hash_lists", f"[{tmp_path}/known.txt]")
    if before == "later":
        assert run(config_of(tmp_path / "images", tmp_path / "set")).samples == 4
    assert run(config_of(tmp_path / "images", tmp_path / "set", *words)).samples == 2
    assert reasons_of(tmp_path / "set") == {("fetch", "hash_list"): 2}
    files = [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    assert not [path for path in files if as_served.encode() in path.read_bytes() or jpeg(2) in path.read_bytes()]
    published = samples_of(tmp_path / "set")
    assert run(config_of(tmp_path / "images", tmp_path / "set", *words)).samples == 2
    assert samples_of(tmp_path / "set") == published
    assert run(config_of(tmp_path / "images", tmp_path / "set")).samples == 4, "imported again, and not requested"
