"""Whatever file of work/ is damaged, the run names it, makes it again, and publishes the bytes of an undamaged run."""

from __future__ import annotations

import json
import random
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import fingerprint
from pipeline.commands import main
from pipeline.engine import record_at
from pipeline.records.schema import SAMPLES
from pipeline.records.shard import json_of
from pipeline.stages import match
from pipeline.storage.atomic import sha256_of, write_json
from pipeline.storage.parquet import write_parquet
from pipeline.storage.tar import TarWriter
from tests.pipeline.earlier_facts import drop_hashes
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, copy_set, picture

PICTURES = 9
OPTIONS = {
    "texts": {"partitions": 2},
    "dedup": {"max_urls_per_caption": 5},
    "filters": {"min_side": 2},
    "image_dedup": {"mode": "near", "partitions": 2},
    "shards": {"samples_per_shard": 5, "keep_staging": True},  # else a damaged shard is requested again
}
UNREAD = (".rejections.parquet", ".added.parquet", ".evicted.parquet", ".final_counts.parquet", ".query_counts.parquet")
"""Endings of files that only people read."""


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({f"/{i}": text(picture(i)) for i in range(PICTURES)}) as server:
        yield server


@pytest.fixture(scope="module")
def made(server: LoopbackServer, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A finished set, in a directory whose name is not kind to SQL or shells."""
    root = tmp_path_factory.mktemp("damage") / 'it\'s a "set"; % [x]*?'
    small = SmallRun.make(root, server, [f"/{i}" for i in range(PICTURES)])
    small.config.write_text(yaml.safe_dump(yaml.safe_load(small.config.read_text()) | OPTIONS))
    assert small.run() == 0
    return small


@pytest.fixture
def small(made: SmallRun, tmp_path: Path) -> Iterator[SmallRun]:
    """The set, to be damaged: put back afterwards, hard links and all."""
    kept = tmp_path / "kept"
    copy_set(made.output, kept)
    yield made
    shutil.rmtree(made.output)
    copy_set(kept, made.output)


def _flip(data: bytearray) -> None:
    draw = random.Random(bytes(data))
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _zero(data: bytearray) -> None:
    data[:] = bytes(len(data))


def _cut(data: bytearray) -> None:
    """A lost tail, filled up with zeros to the size that it had."""
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)


def _damage(path: Path, how: Callable[[bytearray], None]) -> None:
    """In place, as a disk does it: other names of the file see it too."""
    data = bytearray(path.read_bytes())
    before = bytes(data)
    how(data)
    if bytes(data) == before:
        data[0] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def _read_again(output: Path, but: set[Path] = frozenset()) -> None:  # type: ignore[assignment]  # never changed
    """What a changed config does to a set: every task but those of `but` and of fetching must run again."""
    for path in (output / "work").glob("**/done/*.json"):
        if path.parent.parent.name != "fetch" and path not in but:
            path.unlink()


def _records(output: Path, name: str) -> dict[Path, set[str]]:
    found = {}
    for path in sorted((output / "work" / name).glob("done/*.json")):
        record = record_at(path)
        assert record is not None
        found[path] = set(record.outputs)
    return found


def _outputs(output: Path) -> list[Path]:
    """Every output of every finished task that some other task reads, but for those of the last step."""
    steps = [path.parent.parent for path in sorted((output / "work").glob("**/done/*.json"))]
    named = {step / name for step in steps for names in _records(output, step.name).values() for name in names}
    return sorted(p for p in named if not p.name.endswith(UNREAD) and p.parent.name != "shards" and p.stat().st_size)


def _kind(path: Path) -> tuple[str, str]:
    return path.parent.name, path.name.partition(".")[2] if path.name[:1].isdigit() else path.name.split(".", 1)[-1]


def _one_of_each_kind(output: Path) -> list[Path]:
    """The largest file of each kind: small ones may hold no row, and are not read where nothing is in them."""
    largest: dict[tuple[str, str], Path] = {}
    for path in sorted(_outputs(output), key=lambda path: path.stat().st_size):
        largest[_kind(path)] = path
    return list(largest.values())


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("damaged: ")]


@pytest.mark.parametrize("how", [_zero, pytest.param(_cut, marks=pytest.mark.slow)])
def test_every_kind_of_file_at_once_is_named_and_made_again(
    small: SmallRun, capsys: pytest.CaptureFixture[str], how: Callable[[bytearray], None]
) -> None:
    want, files = small.published(), _one_of_each_kind(small.output)
    assert {path.suffix for path in files} >= {".parquet", ".npy", ".blocks", ".json", ".tar"}
    shutil.rmtree(small.output / "work" / "shards" / "done")  # all others are done; the last one starts the chain
    for path in files:
        _damage(path, how)
    capsys.readouterr()
    assert main(["verify", str(small.output), "--work"]) == 1
    said = capsys.readouterr().out
    for path in files:
        assert f"damaged: {path.relative_to(small.output)}: " in said
    assert small.run() == 0
    assert small.published() == want
    named = {line.split(": ")[1] for line in _lines(capsys)}
    steps = {path.parent.relative_to(small.output) for path in files}
    # A task is done again for any one of its files, and one that nothing needs is not looked at.
    assert len({Path(name).parent for name in named}) > len(steps) / 2
    assert main(["verify", str(small.output), "--work", "--repair"]) == 0, "what no task had to read is repaired too"


@pytest.mark.slow
@pytest.mark.parametrize("how", [_flip, _zero, _cut])
def test_each_kind_of_file_alone_is_named_and_made_again(
    small: SmallRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, how: Callable[[bytearray], None]
) -> None:
    want, clean = small.published(), tmp_path / "clean"
    copy_set(small.output, clean)
    kinds, named = _one_of_each_kind(clean), 0
    for path in kinds:
        shutil.rmtree(small.output)
        copy_set(clean, small.output)
        damaged = small.output / path.relative_to(clean)
        own = _records(small.output, damaged.parent.name).items()
        _read_again(small.output, {record for record, names in own if damaged.name in names})
        _damage(damaged, how)
        match._open_matcher.cache_clear()  # a run in a process of its own has it to read
        capsys.readouterr()
        assert small.run() == 0
        assert small.published() == want, path
        named += any(f"work/{damaged.relative_to(small.output / 'work')}: " in line for line in _lines(capsys))
    # Not named is what was planned anew before anybody read it, what only people read, a bit of another row group.
    assert named > len(kinds) / 2


def test_what_is_damaged_in_a_staging_tar_is_taken_from_the_published_version(
    small: SmallRun, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    want, before = small.published(), len(server.requests)
    tar = next((small.output / "work" / "fetch").glob("*.tar"))
    _damage(tar, _zero)
    shutil.rmtree(small.output / "work" / "shards" / "done")
    assert small.run() == 0
    assert small.published() == want
    assert main(["verify", str(small.output), "--work"]) == 1
    assert main(["verify", str(small.output), "--work", "--repair"]) == 0
    assert "; 0 of its " in _lines(capsys)[0]
    assert small.published() == want
    assert len(server.requests) == before


def test_a_damaged_staging_tar_costs_exactly_the_pictures_that_are_damaged(
    small: SmallRun, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    want = small.published()
    tar = next((small.output / "work" / "fetch").glob("*.tar"))
    with tar.open("r+b") as file:
        file.seek(512 + 40)
        file.write(b"\0" * 20)  # inside the first picture
    shutil.rmtree(small.output / "work" / "shards" / "done")
    (small.output / "shards").unlink()
    shutil.rmtree(small.output / "versions")
    before = len(server.requests)
    assert small.run() == 0
    assert small.published() == want
    (line,) = _lines(capsys)
    assert re.fullmatch(r"damaged: work/fetch/.*\.tar: .*; 1 of its \d pictures are lost and requested again", line)
    assert len(server.requests) - before == 1
    before = len(server.requests)
    assert small.run("--balance.max_pairs_per_query", "7") == 0
    assert len(server.requests) == before, "what was kept is known"


def test_a_directory_of_any_name_does_for_every_command(
    small: SmallRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = str(small.output)
    scores = small.output / "shards" / "00000.parquet"
    uid = pq.read_table(scores, columns=["uid"])["uid"][0].as_py()
    table = small.root / "its 'scores'.parquet"
    pq.write_table(pa.table({"uid": pa.array([uid], pa.binary(16)), "score": [1.0]}), table)
    for command in (
        ["sql", target, "hosts"],
        ["sql", target, "SELECT count(*) FROM samples JOIN rejections USING (uid)"],
        ["join", target, str(table), "--name", "scores"],
        ["explain", target, "--uid", uid.hex()],
        ["report", target],
        ["verify", target, "--work"],
        ["balance-report", target],
        ["export-list", target, "--to", str(small.root / "it's a list.parquet")],
        ["subset", target, "--where", "score > 0", "--out", str(small.root / "it's %[a] subset")],
        ["verify", str(small.root / "it's %[a] subset")],
    ):
        assert main(command) == 0, command
    capsys.readouterr()


def test_a_damaged_summary_is_not_read_and_made_again(small: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    (hosts,) = (small.output / "work" / "summaries").glob("hosts-*.parquet")
    whole = hosts.read_bytes()
    assert main(["sql", str(small.output), "hosts"]) == 0
    want = capsys.readouterr().out
    _damage(hosts, _zero)
    assert main(["sql", str(small.output), "hosts"]) == 0
    assert capsys.readouterr().out == want
    assert small.run() == 0
    assert hosts.read_bytes() == whole


def test_a_damaged_record_is_a_task_that_is_not_done(small: SmallRun) -> None:
    want = small.published()
    records = [path for path in (small.output / "work").glob("*/done/*.json") if path.parent.parent.name != "fetch"]
    for number, path in enumerate(records):
        data, whole = path.read_bytes(), record_at(path)
        if number % 3 == 0:
            path.write_bytes(data[: len(data) // 2])
        elif number % 3 == 1:
            _damage(path, _flip)
        else:  # a count that is off by a bit, in JSON that parses
            record = json.loads(data)
            record["info"]["rows"] = record["info"].get("rows", 0) ^ 4
            path.write_text(json.dumps(record))
        assert record_at(path) in (None, whole), "a flipped space changes nothing"
    assert small.run() == 0
    assert small.published() == want


def test_a_disk_that_damages_everything_again_ends_the_run(
    small: SmallRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engine.commit.digest_of", lambda path: "0" * 32)
    _read_again(small.output)
    capsys.readouterr()
    assert main(["run", str(small.config)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "damaged again" in last
    assert "look at the disk" in last


def test_published_files_that_are_missing_or_short_are_put_back(
    small: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    want, shards = small.published(), small.output / "shards"
    capsys.readouterr()
    assert small.run() == 0
    assert "nothing to do" in capsys.readouterr().err
    (shards / "00000.tar").unlink()
    (shards / "sizes.json").write_text("{")
    (shards / "00001.parquet").unlink()
    (shards / "00001.parquet").write_bytes(b"PAR1")
    assert small.run() == 0
    assert {line.split(": ")[1] for line in _lines(capsys)} == {
        "shards/00000.tar",
        "shards/00001.parquet",
        "shards/sizes.json",
    }
    assert small.published() == want
    assert main(["verify", str(small.output), "--work"]) == 0


@pytest.mark.parametrize("name", ["00000.tar", "00001.parquet"])
def test_what_takes_the_place_of_a_lost_published_file_is_checked(
    small: SmallRun, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    want = small.published()
    (small.output / "shards" / name).unlink()
    _damage(small.output / "work" / "shards" / name, _flip)
    assert small.run() == 0
    assert f"work/shards/{name}" in capsys.readouterr().err
    assert small.published() == want
    assert main(["verify", str(small.output), "--work"]) == 0


def test_shards_of_an_earlier_run_are_checked_before_they_are_published(
    small: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    want = small.published()
    (small.output / "shards").unlink()  # as after a kill just before it was published
    shutil.rmtree(small.output / "versions")
    for name in ("00000.tar", "00001.parquet"):
        _damage(small.output / "work" / "shards" / name, _flip)
    assert small.run() == 0
    told = capsys.readouterr().err
    assert "work/shards/00000.tar" in told
    assert "work/shards/00001.parquet" in told
    assert small.published() == want


def test_repair_makes_a_shard_again_that_is_damaged_under_both_of_its_names(
    small: SmallRun, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    want, before = small.published(), len(server.requests)
    _damage(small.output / "shards" / "00000.tar", _zero)
    _damage(small.output / "shards" / "00001.parquet", _flip)
    (small.output / "shards" / "00001_stats.json").unlink()
    assert main(["verify", str(small.output)]) == 1
    assert main(["verify", str(small.output), "--repair"]) == 0
    assert "all whole" in capsys.readouterr().out.splitlines()[-1]
    assert small.published() == want
    assert len(server.requests) == before


@pytest.mark.parametrize("tars", [1, 2])
def test_repair_says_what_it_cannot_repair_and_leaves_what_is_there(
    small: SmallRun, server: LoopbackServer, capsys: pytest.CaptureFixture[str], tars: int
) -> None:
    want, before, lost = small.published(), len(server.requests), 0
    for tar in sorted((small.output / "work" / "fetch").glob("*.tar"))[:tars]:
        with tarfile.open(tar) as opened:
            lost += len(opened.getnames())
        _damage(tar, _zero)
    assert (lost == PICTURES) == (tars == 2)
    for path in (small.output / "shards").glob("*.tar"):
        _damage(path, _zero)
    assert main(["verify", str(small.output), "--repair", "--work"]) == 2
    said = capsys.readouterr().err
    assert f" {lost} pictures cannot be repaired, nothing is left of them" in said
    assert len(server.requests) == before
    assert set(small.published()) == set(want)
    assert small.run() == 0
    assert small.published() == want


def _publish_as_before(output: Path) -> None:
    """What a version before hashes of pictures published: shards without them, in Parquet and JSON."""
    shards = output / "shards"
    manifest = json.loads((shards / "manifest.json").read_text())
    for entry in manifest["shards"]:
        tar, parquet = shards / entry["name"], shards / entry["parquet"]
        data, rows = tar.read_bytes(), pq.read_table(parquet).drop_columns(["stored_xxh3"]).to_pylist()
        tar.unlink()
        parquet.unlink()
        with TarWriter(tar) as writer:
            for row in rows:
                image = data[row["tar_offset"] : row["tar_offset"] + row["num_bytes"]]
                row["tar_offset"] = writer.add(f"{row['key']}.jpg", image)
                writer.add(f"{row['key']}.json", json_of(row))
                writer.add(f"{row['key']}.txt", row["caption"].encode())
        schema = pa.schema([field for field in SAMPLES if field.name != "stored_xxh3"])
        write_parquet(parquet, pa.Table.from_pylist(rows, schema=schema), schema)
        entry |= {"sha256": sha256_of(tar), "parquet_sha256": sha256_of(parquet), "bytes": tar.stat().st_size}
    manifest["fingerprint"] = fingerprint("version", manifest["shards"])
    write_json(shards / "manifest.json", manifest)


def test_a_set_that_an_earlier_version_published_is_read_and_its_pictures_are_looked_at(
    small: SmallRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _publish_as_before(small.output)
    assert main(["verify", str(small.output)]) == 0
    assert main(["sql", str(small.output), "SELECT count(*) FROM samples", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(PICTURES)
    assert main(["subset", str(small.output), "--where", "true", "--out", str(tmp_path / "subset")]) == 0
    assert pq.read_table(tmp_path / "subset" / "shards" / "00000.parquet")["stored_xxh3"].null_count == 0
    assert main(["verify", str(tmp_path / "subset")]) == 0
    # Zeros that were published as a picture: tar and manifest agree, and no hash says what should be there.
    shards = small.output / "shards"
    manifest = json.loads((shards / "manifest.json").read_text())
    row = pq.read_table(shards / "00000.parquet").to_pylist()[1]
    with (shards / "00000.tar").open("r+b") as file:
        file.seek(row["tar_offset"])
        file.write(bytes(row["num_bytes"]))
    manifest["shards"][0]["sha256"] = sha256_of(shards / "00000.tar")
    manifest["fingerprint"] = fingerprint("version", manifest["shards"])
    write_json(shards / "manifest.json", manifest)
    capsys.readouterr()
    assert main(["verify", str(small.output)]) == 1
    assert f"shards/00000.tar: sample {row['key']}: its picture is none (not_an_image" in capsys.readouterr().out


def test_facts_of_an_earlier_version_are_used_and_their_tar_is_checked_whole(
    small: SmallRun, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    want, before = small.published(), len(server.requests)
    store = small.output / "work" / "fetch"
    drop_hashes(store)
    _read_again(small.output)
    assert small.run() == 0
    assert small.published() == want
    assert len(server.requests) == before
    tar = min(store.glob("*.tar"))
    _damage(tar, _flip)
    shutil.rmtree(small.output / "work" / "shards" / "done")
    capsys.readouterr()
    assert small.run() == 0
    assert small.published() == want
    assert any(str(tar.relative_to(small.output)) in line for line in _lines(capsys))
    assert len(server.requests) > before
