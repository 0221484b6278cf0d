"""What is removed from a data set is gone from all of its files and stays away; others take it out of their copies."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from webdataset.tariterators import group_by_keys, tar_file_iterator

from pipeline.catalog.catalog import open_catalog
from pipeline.commands import main
from pipeline.records.shard import REMOVED_MEMBER
from pipeline.sets.read_shards import read_shards
from pipeline.storage.checked import picture_hash
from pipeline.storage.keys import private_key
from pipeline.takedown import blank, sign
from pipeline.takedown.delta import read_delta
from tests.pipeline.loopback_server import LoopbackServer, redirect, text
from tests.pipeline.small_run import LARGE, SmallRun, copy_set, picture
from training.data.index import write_index

PICTURES = 12
PATHS = [f"/{i}" for i in range(PICTURES)]


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    answers = {path: text(picture(i, LARGE)) for i, path in enumerate(PATHS)}
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
    file = next(path for i in itertools.count() if not (path := small.root / f"{name}-{i}.txt").exists())
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


def keys_as_webdataset_reads(tar: str) -> list[str]:
    with open(tar, "rb") as file:
        members = ({**member, "__url__": tar} for member in tar_file_iterator(file))
        return [sample["__key__"] for sample in group_by_keys(members)]


def joined_uids(output: Path) -> list[bytes]:
    uids: list[bytes] = pq.read_table(output / "joined" / "scores.parquet")["uid"].to_pylist()
    return uids


def test_removed_samples_are_gone_from_every_file_and_the_others_stay_in_their_place(
    small: SmallRun, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows_of(small.output)
    gone = [row for row in before if row["url"].endswith(("/3", "/8"))]
    bodies = [stored_picture(small.output, row) for row in gone]
    sizes = {path.name: path.stat().st_size for path in (small.output / "shards").glob("*.tar")}
    scores = pa.table({"uid": [row["uid"] for row in before], "score": range(len(before))})
    pq.write_table(scores, small.root / "scores.parquet")
    assert main(["join", str(small.output), str(small.root / "scores.parquet")]) == 0
    urls = named(small, "urls", [gone[0]["url"].replace("http", "HTTP", 1), gone[1]["url"] + "#fragment"])
    assert main(["remove", str(small.output), *urls, "--reason", "asked by its author"]) == 0
    assert "2 samples of" in capsys.readouterr().out
    kept = [row for row in before if row not in gone]
    assert rows_of(small.output) == kept
    assert joined_uids(small.output) == sorted(row["uid"] for row in kept)
    for row in kept:
        assert picture_hash(stored_picture(small.output, row)) == row["stored_xxh3"]
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
    assert [key for tar in tars for key in keys_as_webdataset_reads(tar)] == kept
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


class Killed(BaseException):
    """What a kill is to the code that it meets."""


@contextlib.contextmanager
def killed_at(number: int) -> Iterator[list[str]]:
    """Let the `number`-th change of a file be the last one; 0 counts them all."""
    changes: list[str] = []

    def counted(what: str, change: Any) -> Any:
        def changing(*args: Any, **kwargs: Any) -> Any:
            changes.append(what)
            if len(changes) == number:
                raise Killed
            return change(*args, **kwargs)

        return changing

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((os, "pwrite"), (blank, "punch"), (os, "link"), (Path, "replace"), (Path, "unlink")):
            patch.setattr(module, name, counted(name, getattr(module, name)))
        yield changes


def contents(output: Path) -> dict[str, str]:
    """SHA-256 of every file that a removal writes, but for the time in the delta."""
    files = [path for path in output.rglob("*") if path.is_file() and path.name != "lock"]
    told = {}
    for path in files:
        content = path.read_bytes()
        if path.parent.name == "removed":
            delta = json.loads(content)
            told |= {k: json.dumps(v) for k, v in delta.items() if k not in ("when", "digest")}
            continue
        told[str(path.relative_to(output))] = hashlib.sha256(content).hexdigest()
    return told


@pytest.mark.parametrize("kills", [3, pytest.param(1_000, marks=[pytest.mark.slow, pytest.mark.timeout(3_600)])])
def test_removal_that_is_killed_anywhere_comes_to_the_same_end(small: SmallRun, tmp_path: Path, kills: int) -> None:
    asked = [row["uid"].hex() for row in rows_of(small.output)[::5]]
    words = named(small, "uids", asked)
    copy_set(small.output, tmp_path / "whole")
    with killed_at(0) as changes:
        assert main(["remove", str(tmp_path / "whole"), *words]) == 0
    expected = contents(tmp_path / "whole")
    last = min(kills, len(changes)) - 1
    points = sorted({1 + i * (len(changes) - 1) // last for i in range(last + 1)})
    for point in points:
        output = tmp_path / f"killed-{point}"
        copy_set(small.output, output)
        with killed_at(point), pytest.raises(Killed):
            main(["remove", str(output), *words])
        if deltas(output) and deltas(output)[0]["state"] == "begun":
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(small.root)
                assert small.run("--output", str(output)) == 2  # does not touch what is half way
        assert main(["remove", str(output), *words]) == 0
        assert contents(output) == expected, f"killed at change {point} of {len(changes)} ({changes[point - 1]})"
        assert main(["verify", str(output), "--work"]) == 0
        shutil.rmtree(output)


def copy_of_shards(small: SmallRun, to: Path) -> Path:
    """The published files alone, as somebody else has them."""
    shutil.copytree(small.output / "shards", to)
    return to


def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A new private key, and its public one, as PEM files."""
    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_others_apply_a_signed_delta_to_their_copy(
    small: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, set_copy = copy_of_shards(small, tmp_path / "copy"), tmp_path / "set-copy"
    copy_set(small.output, set_copy)
    private, public = keys(tmp_path)
    rows = rows_of(small.output)
    words = named(small, "sha256", [rows[2]["sha256"]]) + named(small, "uids", [rows[7]["uid"].hex().upper()])
    assert main(["remove", str(small.output), *words, "--sign", str(private)]) == 0
    (file,) = (small.output / "removed").iterdir()
    for place in (copy, set_copy):
        assert main(["apply-delta", str(place), str(file), "--key", str(public)]) == 0
        assert "2 samples removed" in capsys.readouterr().out
        assert (place / "removed" / file.name).read_bytes() == file.read_bytes()
    assert SmallRun(root=tmp_path, config=small.config, output=set_copy).published() == small.published()
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == {
        path.name: path.read_bytes() for path in (small.output / "shards").iterdir()
    }
    assert main(["verify", str(set_copy), "--work"]) == 0
    capsys.readouterr()
    state = SmallRun(root=tmp_path, config=small.config, output=copy).state()
    assert main(["apply-delta", str(copy), str(file)]) == 0
    assert "applied already" in capsys.readouterr().out
    assert SmallRun(root=tmp_path, config=small.config, output=copy).state() == state


def test_delta_that_is_damaged_wrongly_signed_or_of_another_set_is_refused_in_one_line(
    small: SmallRun, made: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, other = copy_of_shards(small, tmp_path / "copy"), tmp_path / "other"
    (tmp_path / "others").mkdir()
    private, public = keys(tmp_path)
    _, public_of_other = keys(tmp_path / "others")
    assert main(["remove", str(small.output), *named(small, "uids", [rows_of(small.output)[0]["uid"].hex()])]) == 0
    (file,) = (small.output / "removed").iterdir()
    unsigned = json.loads(file.read_text())
    content = file.read_bytes()
    (damaged := tmp_path / "damaged.json").write_bytes(content.replace(b'"done"', b'"gone"'))
    (cut := tmp_path / "cut.json").write_bytes(content[:-40])
    (later := tmp_path / "later.json").write_text(json.dumps(unsigned | {"version": 2}))
    delta = sign.signed(read_delta(file), private_key(private))
    (signed := tmp_path / "signed.json").write_bytes(delta.content())
    subset = ["subset", str(made.output), "--out", str(other), "--where", "key <> ''"]
    assert main([*subset, "--samples_per_shard", "6"]) == 0
    (other / "subset.json").unlink()  # as if it had been made by itself
    state = SmallRun(root=tmp_path, config=small.config, output=copy).state()
    capsys.readouterr()
    for words, told in (
        ([str(copy), str(damaged)], "damaged, its digest is not that of its content"),
        ([str(copy), str(cut)], "is no delta, or was cut short"),
        ([str(copy), str(later)], "is of version 2"),
        ([str(copy), str(copy / "manifest.json")], "is no delta of"),
        ([str(copy), str(file), "--key", str(public)], "is not signed"),
        ([str(copy), str(signed), "--key", str(public_of_other)], "is not signed by the owner of --key"),
        ([str(copy), str(signed), "--key", str(file)], "no public key in PEM"),
        ([str(other), str(file)], "is for another data set"),
    ):
        assert main(["apply-delta", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
    assert SmallRun(root=tmp_path, config=small.config, output=copy).state() == state


def test_removed_things_never_come_back(
    small: SmallRun, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(small.output)
    paths = [f"/{row['url'].rpartition('/')[2]}" for row in rows]
    words = named(small, "urls", [rows[0]["url"]]) + named(small, "uids", [rows[4]["uid"].hex()])
    words += named(small, "sha256", [rows[8]["sha256"]])
    gone = {paths[0], paths[4], paths[8]}
    kept = sorted(set(PATHS) - gone)
    assert main(["remove", str(small.output), *words]) == 0
    seen = len(server.requests)

    def again(*more: str) -> None:
        assert small.run(*more) == 0
        assert small.samples() == kept
        assert {path: reason for path, (reason, _) in small.rejections().items()} == dict.fromkeys(gone, "removed")

    again()
    again("--retry-failed")
    more = small.root / "more.parquet"
    links = [{"url": rows[0]["url"], "alt": "another text with the same picture of it"}]
    pq.write_table(pa.Table.from_pylist(links), more)
    again("--extend", "--sources", f"[{more}]")
    shutil.rmtree(small.output / "work" / "requests")  # even where the plan has forgotten what it knew
    again("--seed", "7", "--shards.samples_per_shard", "5")
    (small.output / "shards" / "00000.parquet").write_bytes(b"")
    assert main(["verify", str(small.output), "--repair"]) == 0
    assert small.samples() == kept
    assert len(server.requests) == seen  # nothing was asked for again
    assert main(["subset", str(small.output), "--out", str(small.root / "part"), "--where", "key <> ''"]) == 0
    assert len(rows_of(small.root / "part")) == len(kept)
    shutil.rmtree(small.output / "work" / "fetch")  # and where no answer is known any more
    again()
    assert {request.target for request in server.requests[seen:]} == set(PATHS) - gone


def what_a_reserve_replaces(output: Path) -> list[str]:
    """Some samples, not all, without which a query needs a pair of its reserve: all that it planned; else none."""
    with open_catalog(output) as database:
        found = database.execute(
            """SELECT list(lower(hex(uid))) FILTER (status = 'success' AND uid IN (SELECT uid FROM samples)) AS goes
               FROM (SELECT *, unnest(selected_by) AS query_id FROM fetched)
               GROUP BY query_id
               HAVING len(goes) BETWEEN 1 AND (SELECT count(*) - 1 FROM samples) AND count(*) > len(goes)
               ORDER BY query_id LIMIT 1"""
        ).fetchall()
    return sorted(found[0][0]) if found else []


def test_replacements_are_those_that_the_next_run_chooses(
    server: LoopbackServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = SmallRun.make(tmp_path, server, PATHS)
    # Which pairs a plan has hangs on the port: with one of some seeds a query has both a reserve and something to lose.
    for seed in range(20):
        options = ("--balance.max_pairs_per_query", "3", "--balance.expected_yield", "0.4", "--seed", str(seed))
        assert small.run(*options) == 0
        if goes := what_a_reserve_replaces(small.output):
            break
    words = named(small, "uids", goes)
    assert main(["remove", str(small.output), *words]) == 0
    kept = {row["uid"] for row in rows_of(small.output)}
    requests = len(server.requests)
    for _ in range(2):  # again, it adds nothing
        assert main(["remove", str(small.output), *words, "--replace"]) == 0
        after = rows_of(small.output)
        assert main(["verify", str(small.output), "--work"]) == 0
    new = {row["uid"] for row in after} - kept
    assert new
    assert kept < {row["uid"] for row in after}
    assert [sample["uid"] for sample in read_shards(small.output)] == [row["uid"] for row in after]
    with open_catalog(small.output) as database:
        (line,) = database.execute("SELECT rows_in, kept FROM ledger WHERE stage = 'takedown'").fetchall()
        twice = database.execute("SELECT count(*) FROM rejections SEMI JOIN samples USING (uid)").fetchall()
    assert line == (len(after) + len(goes), len(after))
    assert twice == [(0,)]
    assert small.run(*options) == 0
    chosen = rows_of(small.output)
    assert {row["uid"] for row in chosen} == {row["uid"] for row in after}
    by_uid = {row["uid"]: row["selected_by"] for row in chosen}
    assert all(set(row["selected_by"]) == set(by_uid[row["uid"]]) for row in after if row["uid"] in new)
    assert len(server.requests) == requests


def test_hosts_redirects_and_bodies_are_removed_and_turned_away(tmp_path: Path) -> None:
    pictures = {f"/{i}": text(picture(i, LARGE)) for i in range(4)}
    routes = pictures | {"/same": pictures["/0"]}
    with LoopbackServer(routes) as server:
        server.routes["/moved"] = redirect(server.url("/1"))
        small = SmallRun.make(tmp_path, server, [*routes, "/moved"])
        assert small.run() == 0
        rows = {f"/{row['url'].rpartition('/')[2]}": row for row in rows_of(small.output)}
        words = named(small, "urls", [rows["/1"]["url"]]) + named(small, "sha256", [rows["/0"]["sha256"]])
        assert main(["remove", str(small.output), *words]) == 0
        assert small.samples() == ["/2", "/3"]
        shutil.rmtree(small.output / "work" / "fetch")
        assert small.run() == 0
        assert small.samples() == ["/2", "/3"]
        words = named(small, "hosts", [urlsplit(rows["/2"]["url"]).hostname or ""])
        assert main(["remove", str(small.output), *words]) == 0
        assert small.samples() == []
        number = len(server.requests)
        assert small.run() == 0  # an empty version, as it was asked for
        assert len(server.requests) == number
        (tmp_path / "other.yaml").write_text(
            yaml.safe_dump(
                yaml.safe_load(small.config.read_text())
                | {"output": str(tmp_path / "other")}
                | {"fetch": yaml.safe_load(small.config.read_text())["fetch"] | {"block_files": small_lists(small)}}
            )
        )
        assert main(["run", str(tmp_path / "other.yaml")]) == 0  # another set that honours the list from the start
        assert len(server.requests) == number


def small_lists(small: SmallRun) -> list[str]:
    return sorted(str(file) for file in (small.output / "removed").iterdir())


def test_what_is_asked_for_is_read_strictly(small: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    state = small.state()
    for words, told in (
        (named(small, "urls", ["ftp://a.example/x"]), "urls-0.txt:2: 'ftp://a.example/x' is no URL"),
        (named(small, "hosts", ["a.example/x"]), "is no host (a path needs its http:// or https://)"),
        (named(small, "sha256", ["12"]), "is no SHA-256 (give 64 hex digits)"),
        (named(small, "uids", ["12"]), "is no uid (give 32 hex digits)"),
        (named(small, "uids", [""]), "nothing is named"),
        (["--urls", str(small.root / "absent.txt")], "absent.txt: cannot be read"),
        ([], "say what is to go: --urls FILE"),
        ([*named(small, "uids", ["0" * 32]), "--sign", str(small.config)], "no private key in PEM"),
    ):
        assert main(["remove", str(small.output), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
    words = named(small, "uids", [rows_of(small.output)[0]["uid"].hex()])
    assert main(["remove", str(small.output), *words, "--dry-run"]) == 0
    assert "1 samples of 1 shards" in capsys.readouterr().out
    assert small.state() == state
