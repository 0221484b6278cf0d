"""A picture of a published sample lies on the disk once, and is never asked for again for that."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import load
from pipeline.commands import main
from pipeline.config import WitConfig
from pipeline.questions.verify import verify
from pipeline.questions.verify_work import verify_work
from pipeline.runs import give_back
from pipeline.runs.run import run
from pipeline.steps.fetch.pictures import Published
from pipeline.storage import holes
from pipeline.storage.holes import can_punch, merged, room_of
from tests.pipeline.img2dataset_directory import jpeg, row, write_directory
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import LARGE, SmallRun, copy_set, picture
from tests.pipeline.test_import_shards import config_of

PICTURES = 12
FEWER = ("--balance.max_pairs_per_query", "2")
"""A plan that holds some of the pictures."""


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({f"/{i}": text(picture(i, LARGE)) for i in range(PICTURES)}) as server:
        yield server


@pytest.fixture(scope="module")
def made(server: LoopbackServer, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    small = SmallRun.make(tmp_path_factory.mktemp("made"), server, [f"/{i}" for i in range(PICTURES)])
    if not can_punch(small.root):
        pytest.skip("the file system of the temporary directory has no holes")
    config = yaml.safe_load(small.config.read_text())
    config["image"] |= {"image_size": 224}
    config["shards"] = {
        "samples_per_shard": 4
    }  # FEWER keeps 5 samples or more, whatever the port does to uids: two shards
    small.config.write_text(yaml.safe_dump(config))
    assert small.run() == 0
    return small


@pytest.fixture
def small(made: SmallRun, tmp_path: Path) -> Iterator[SmallRun]:
    """The set, to be changed: put back afterwards, with zeros for its holes."""
    copy_set(made.output, tmp_path / "kept")
    yield made
    shutil.rmtree(made.output)
    copy_set(tmp_path / "kept", made.output)


def tars(small: SmallRun) -> list[Path]:
    return sorted((small.output / "work" / "fetch").glob("*.tar"))


def staged(small: SmallRun) -> int:
    """Pictures that are whole in the staging tars."""
    found = 0
    for tar in tars(small):
        data = tar.read_bytes()
        for offset in pq.read_table(tar.with_suffix(".facts.parquet"))["tar_offset"].to_pylist():
            found += data[offset:].startswith(b"\xff\xd8\xff")
    return found


def is_whole(small: SmallRun) -> bool:
    damages = [*verify(small.output).damages, *verify_work(small.output).damages]
    return not damages


def test_pictures_of_published_samples_lie_there_alone(made: SmallRun, server: LoopbackServer) -> None:
    assert len(made.samples()) == PICTURES
    assert json.loads((made.output / "runs.jsonl").read_text())["steps"]["shards"]["released"] == PICTURES
    size = sum(tar.stat().st_size for tar in tars(made))
    assert size > PICTURES * 30_000
    assert sum(map(room_of, tars(made))) < size / 10
    assert staged(made) == 0
    assert is_whole(made)
    before, requests = made.state(), len(server.requests)
    assert made.run() == 0
    assert made.state() == before
    assert len(server.requests) == requests


def test_other_plans_and_back_again_ask_for_nothing(small: SmallRun, server: LoopbackServer) -> None:
    want, requests = small.published(), len(server.requests)
    assert small.run(*FEWER) == 0
    left = len(small.samples())
    assert 0 < left < PICTURES
    assert staged(small) == PICTURES - left, "those that the new version lacks are back"
    assert is_whole(small)
    assert small.run("--shards.samples_per_shard", "3") == 0
    assert small.run("--seed", "7") == 0
    assert staged(small) == 0
    assert is_whole(small)
    assert small.run() == 0
    assert small.published() == want
    assert is_whole(small)
    assert len(server.requests) == requests


def test_all_pictures_go_back_for_who_keeps_them(small: SmallRun, server: LoopbackServer) -> None:
    want, requests = small.published(), len(server.requests)
    assert small.run("--shards.keep_staging", "true") == 0
    assert staged(small) == PICTURES
    assert not (small.output / "work" / "released").exists()
    assert small.run("--shards.keep_staging", "true", *FEWER) == 0
    assert staged(small) == PICTURES
    assert is_whole(small)
    (small.output / "shards").unlink()
    shutil.rmtree(small.output / "versions")
    shutil.rmtree(small.output / "work" / "shards")
    assert small.run("--shards.keep_staging", "true") == 0
    assert small.published() == want
    assert len(server.requests) == requests


class KilledError(BaseException):
    """Stands for kill -9: nothing that catches exceptions sees it."""


def kill_at(call: int, real: Callable[..., object]) -> Callable[..., object]:
    """`real`, whose `call`-th call, from 0, is the last thing that the process does."""
    calls = iter(range(1_000))

    def killed(*args: object, **words: object) -> object:
        if next(calls) == call:
            raise KilledError
        return real(*args, **words)

    return killed


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("_put_back", 1),
        ("punch", 0),
        ("remove_tree", 0),
        *(
            pytest.param(*place, marks=pytest.mark.slow)
            for place in (
                ("make_way_for", 0),
                ("_put_back", 0),
                ("give_back", 0),
                ("_give_back_shard", 1),
                ("_twinned", 0),
                ("commit", 0),
                ("punch", 1),
            )
        ),
    ],
)
def test_a_run_that_is_killed_in_between_loses_nothing(
    small: SmallRun, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    want, requests = small.published(), len(server.requests)
    monkeypatch.setattr(give_back, "_AT_A_TIME", 1)
    for words in (FEWER, ()):
        where = "pipeline.runs.run" if name in ("make_way_for", "give_back") else "pipeline.runs.give_back"
        with monkeypatch.context() as patch:
            patch.setattr(f"{where}.{name}", kill_at(call, getattr(give_back, name)))
            try:
                small.run(*words)
                killed = False
            except KilledError:
                killed = True
        assert killed or words == () or name == "_put_back"
        if words == ():
            assert small.run("--balance.max_pairs_per_query", "3") == 0, "another plan takes over"
        assert small.run(*words) == 0
        assert is_whole(small)
    assert small.published() == want
    assert staged(small) == 0
    assert len(server.requests) == requests


def test_a_damaged_shard_costs_exactly_the_pictures_that_are_damaged(
    small: SmallRun, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    want, requests = small.published(), len(server.requests)
    first = pq.read_table(small.output / "shards" / "00000.parquet").to_pylist()[0]
    with (small.output / "shards" / "00000.tar").open("r+b") as file:
        file.seek(first["tar_offset"] + 1_000)
        file.write(bytes(20))
    assert main(["verify", str(small.output), "--repair"]) == 2
    told = capsys.readouterr().err
    assert "1 pictures cannot be repaired, nothing is left of them" in told
    assert len(server.requests) == requests
    assert small.run() == 0
    assert small.published() == want
    assert len(server.requests) == requests + 1
    assert re.search(r"1 of its \d+ pictures are lost and requested again", told)
    assert is_whole(small)


def test_a_staging_tar_that_ends_early_is_made_whole_from_the_published_version(
    small: SmallRun, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    want, requests = small.published(), len(server.requests)
    for tar in tars(small):
        os.truncate(tar, tar.stat().st_size // 2)
    assert small.run() == 0
    assert re.search(r"0 of its \d+ pictures are lost", capsys.readouterr().err)
    assert small.published() == want
    assert len(server.requests) == requests
    assert is_whole(small)


@pytest.mark.parametrize("shard", ["00000", "00001", "*"])
def test_a_shard_whose_parquet_is_damaged_costs_no_picture(small: SmallRun, server: LoopbackServer, shard: str) -> None:
    want, requests = small.published(), len(server.requests)
    for parquet in (small.output / "shards").glob(f"{shard}.parquet"):
        with parquet.open("r+b") as file:
            file.seek(-7, 2)
            file.write(b"\xff")
    assert main(["verify", str(small.output), "--repair"]) == 0
    assert small.published() == want
    assert len(server.requests) == requests
    assert is_whole(small)


def test_a_damaged_note_of_what_lies_where_loses_nothing(
    small: SmallRun, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = len(server.requests)
    for note in (small.output / "work" / "released").rglob("*.parquet"):
        data = bytearray(note.read_bytes())
        data[-20] ^= 1  # of the footer
        note.write_bytes(data)
    assert small.run(*FEWER) == 0
    assert "work/released/" in capsys.readouterr().err
    assert staged(small) == PICTURES - len(small.samples())
    assert is_whole(small)
    assert small.run() == 0
    assert len(server.requests) == requests


def test_pictures_that_are_whole_nowhere_are_told_and_asked_for_again(
    small: SmallRun, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    want, requests = small.published(), len(server.requests)
    assert small.run(*FEWER) == 0
    kept = {row["url"] for p in (small.output / "shards").glob("*.parquet") for row in pq.read_table(p).to_pylist()}
    assert small.run() == 0
    capsys.readouterr()
    lost = 0
    for path in sorted((small.output / "shards").glob("*.parquet")):
        for sample in pq.read_table(path).to_pylist():
            if sample["url"] not in kept:
                with path.with_suffix(".tar").open("r+b") as file:
                    file.seek(sample["tar_offset"] + 100)
                    file.write(bytes(50))
                lost += 1
    assert small.run(*FEWER) == 0
    assert f"damaged: {lost} pictures are whole nowhere any more" in capsys.readouterr().err
    assert small.run() == 0
    assert small.published() == want
    assert len(server.requests) == requests + lost


def test_what_is_not_whole_in_its_shard_stays(
    small: SmallRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Published, "read", lambda self, rows: [None] * len(rows))
    assert small.run("--output", str(small.root / "other")) == 0
    assert f"damaged: {PICTURES} pictures are not whole in their shards" in capsys.readouterr().err
    log = json.loads((small.root / "other" / "runs.jsonl").read_text().splitlines()[-1])
    assert "released" not in log["steps"]["shards"]


def test_disks_without_holes_keep_both(
    small: SmallRun, server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holes.sys, "platform", "darwin")
    holes._fallocate.cache_clear()
    try:
        output = tmp_path / "set"
        assert small.run("--output", str(output)) == 0
    finally:
        holes._fallocate.cache_clear()
    assert not list((output / "work").glob("released/*"))
    config = load(WitConfig, small.config, ["--output", str(output)])
    assert staged(SmallRun(root=tmp_path, config=small.config, output=output)) == PICTURES
    assert run(config).ran_tasks == 0


def test_a_store_that_several_sets_share_keeps_its_pictures(small: SmallRun, tmp_path: Path) -> None:
    words = ("--output", str(tmp_path / "set"), "--fetch.store", str(tmp_path / "store"))
    assert small.run(*words) == 0
    data = next((tmp_path / "store").glob("*.tar")).read_bytes()
    assert data.count(b"\xff\xd8\xff") > 0
    assert not (tmp_path / "set" / "work" / "released").exists()


def test_a_disk_that_is_full_keeps_the_version_before(
    small: SmallRun, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    want, requests = small.published(), len(server.requests)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(give_back, "_put_back", full)
        assert small.run(*FEWER) == 2
    assert "no space left on the disk" in capsys.readouterr().err
    assert small.published() == want
    assert small.run(*FEWER) == 0
    assert is_whole(small)
    assert len(server.requests) == requests


def test_imported_pictures_lie_once_too(tmp_path: Path) -> None:
    rows = [row(i, f"http://a.example/{i}.jpg", f"a photo of a red dog number {i}", jpeg(i)) for i in range(12)]
    write_directory(tmp_path / "images", 0, rows)
    config = config_of(tmp_path / "images", tmp_path / "set")
    assert run(config).samples == 12
    (tar,) = (tmp_path / "set" / "work" / "fetch" / "imported").glob("*.tar")
    assert tar.read_bytes().count(b"\xff\xd8\xff") == 0
    want = [path.read_bytes() for path in sorted((tmp_path / "set" / "shards").glob("*.tar"))]
    fewer = config_of(tmp_path / "images", tmp_path / "set", "--balance.max_pairs_per_query", "4")
    assert run(fewer).samples < 12
    shutil.rmtree(tmp_path / "images")  # its rows are known, and its pictures are ours
    write_directory(tmp_path / "images", 0, rows)
    assert run(config).samples == 12
    assert [path.read_bytes() for path in sorted((tmp_path / "set" / "shards").glob("*.tar"))] == want
    assert not verify_work(tmp_path / "set").damages


def test_ranges_are_merged_over_headers_and_padding() -> None:
    assert list(merged([(5000, 10), (512, 400), (1536, 100)], gap=1024)) == [(512, 1124), (5000, 10)]
    assert list(merged([], gap=1)) == []
