"""`pipeline verify` finds every kind of damage, names its file, and finds none where there is none."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.load import fingerprint
from pipeline.commands import main
from pipeline.errors import OutputError
from pipeline.questions.verify import verify
from pipeline.questions.verify_shard import Passing, members
from pipeline.records.schema import SAMPLES
from pipeline.storage.atomic import write_json
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import pieces_of
from tests.pipeline.small_set import make_set


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify") / "set"
    make_set(root, 120)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage; nothing in it is linked to the original."""
    shutil.copytree(whole, tmp_path / "set", symlinks=True)
    return tmp_path / "set"


def _found(root: Path) -> list[tuple[str, str]]:
    return [(damage.file, damage.what) for damage in verify(root).damages]


def _rewrite(root: Path, name: str, data: bytes, *, vouch: bool = False) -> None:
    """Replace a published file; with `vouch`, the manifest vouches for the new bytes, as a wrong writer's would."""
    path = root / "shards" / name
    path.unlink()
    path.write_bytes(data)
    if vouch:
        manifest = json.loads((root / "shards/manifest.json").read_text())
        for entry in manifest["shards"]:
            if entry["name"] == name:
                entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            if entry["parquet"] == name:
                entry |= {"parquet_sha256": hashlib.sha256(data).hexdigest()}
        manifest["fingerprint"] = fingerprint("version", manifest["shards"])
        write_json(root / "shards/manifest.json", manifest)


def _edit_rows(root: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change the rows of the second shard's Parquet, vouched for."""
    path = root / "shards/00001.parquet"
    rows = pq.read_table(path).to_pylist()
    change(rows)
    scratch = root.parent / "scratch.parquet"
    write_parquet(scratch, pa.Table.from_pylist(rows, schema=SAMPLES), SAMPLES)
    _rewrite(root, path.name, scratch.read_bytes(), vouch=True)


def test_whole_set_has_no_damage(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = verify(whole)
    assert result.damages == []
    assert result.samples == json.loads((whole / "shards/manifest.json").read_text())["samples"] > 50
    assert main(["verify", str(whole)]) == 0
    assert "all whole" in capsys.readouterr().out


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), name=st.sampled_from(["00001.tar", "00002.parquet"])
)
def test_any_flipped_bit_is_found(whole: Path, place: float, bit: int, name: str) -> None:
    path = whole / "shards" / name
    data = path.read_bytes()
    try:
        damaged = bytearray(data)
        damaged[int(place * len(data))] ^= 1 << bit
        path.unlink()
        path.write_bytes(bytes(damaged))
        assert (f"shards/{name}", "its sha256 is not the manifest's") in _found(whole)
    finally:
        path.unlink()
        path.write_bytes(data)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bit_is_found_without_the_hash_of_the_tar_except_in_padding(
    whole: Path, place: float, bit: int
) -> None:
    rows = pq.read_table(whole / "shards/00001.parquet").cast(SAMPLES)
    data = bytearray((whole / "shards/00001.tar").read_bytes())
    position = int(place * len(data))
    data[position] ^= 1 << bit
    scratch = whole.parent / "flipped.tar"
    scratch.write_bytes(data)
    checked = set()
    with tarfile.open(whole / "shards/00001.tar") as tar:
        for member in tar:
            checked |= set(range(member.offset, member.offset_data))
            checked |= set(range(member.offset_data, member.offset_data + member.size))
        checked |= set(range(tar.offset, len(data)))  # the end
    unseen_kinds = {b"{", b"}", b" ", b'"'}  # JSON may still parse to the same row
    found = list(members(Passing(pieces_of(scratch)), rows))
    if position in checked:
        assert found or bytes([data[position]]) in unseen_kinds
    else:
        assert not found


def test_missing_and_truncated_files_are_named(root: Path) -> None:
    (root / "shards/00000.tar").unlink()
    (root / "shards/00001.parquet").unlink()
    data = (root / "shards/00002.tar").read_bytes()
    _rewrite(root, "00002.tar", data[:3000])
    found = _found(root)
    assert ("shards/00000.tar", "cannot be read (No such file or directory)") in found
    assert ("shards/00001.parquet", "cannot be read (No such file or directory)") in found
    assert ("shards/00002.tar", f"3000 bytes, the manifest says {len(data)}") in found
    assert any(file == "shards/00002.tar" and "end" in what for file, what in found)


def _members_of(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]  # all are files


def _tar_of(root: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    path = root.parent / "scratch.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, content in members:
            plain = tarfile.TarInfo(member.name)
            plain.size, plain.mode, plain.mtime = len(content), member.mode, member.mtime
            tar.addfile(plain, io.BytesIO(content))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("number", "word"),
    [(0, "the header of"), (1, "json should be"), (2, "txt should be"), (-1, "nothing"), (-3, "nothing")],
)
def test_dropped_member_is_found_even_where_the_manifest_vouches(root: Path, number: int, word: str) -> None:
    members = _members_of(root / "shards/00001.tar")
    if number == -3:
        del members[-3:]
    else:
        del members[number]
    _rewrite(root, "00001.tar", _tar_of(root, members), vouch=True)
    found = _found(root)
    assert {file for file, _ in found} == {"shards/00001.tar"}
    assert any(word in what for _, what in found), found


@pytest.mark.parametrize("change", ["time", "mode", "caption", "json", "swap", "extra", "name"])
def test_wrong_member_is_found_even_where_the_manifest_vouches(root: Path, change: str) -> None:
    members = _members_of(root / "shards/00001.tar")
    if change == "time":
        members[4][0].mtime = 1
    elif change == "mode":
        members[4][0].mode = 0o600
    elif change == "caption":
        members[5] = (members[5][0], members[5][1][:-1] + b"x")
    elif change == "json":
        members[4] = (members[4][0], members[4][1].replace(b'"lang": "en"', b'"lang": "de"'))
    elif change == "swap":
        members[3:6], members[6:9] = members[6:9], members[3:6]
    elif change == "extra":
        members.append((tarfile.TarInfo("stowaway.jpg"), b"x"))
    else:
        members[5][0].name = "other.txt"
    _rewrite(root, "00001.tar", _tar_of(root, members), vouch=True)
    found = _found(root)
    assert found
    assert {file for file, _ in found} == {"shards/00001.tar"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop(), "samples"),
        (lambda rows: rows[3].update(key=rows[2]["key"]), "is not above the one before"),
        (lambda rows: rows[3].update(tar_offset=rows[3]["tar_offset"] + 512), "its turn is at"),
        (lambda rows: rows[3].update(num_bytes=rows[3]["num_bytes"] + 1), "where the header of"),
        (lambda rows: rows[3].update(caption="another"), "differs from its row"),
        (lambda rows: rows[3].update(sha256="abc"), "sha256 is not 64 hex digits"),
        (lambda rows: rows[3].update(shard=7), "says it is of shard 7"),
        (lambda rows: rows[3].update(status="failed_to_resize"), "its status is failed_to_resize"),
        (lambda rows: rows[3].update(selected_by=[99]), "selected by a query that it does not contain"),
        (lambda rows: rows[3].update(uid=rows[4]["uid"]), "is there 2 times in the set"),
    ],
)
def test_wrong_row_is_found_even_where_the_manifest_vouches(
    root: Path, change: Callable[[list[dict[str, Any]]], object], message: str
) -> None:
    _edit_rows(root, change)
    assert any(message in what for _, what in _found(root)), _found(root)


def test_keys_must_rise_from_shard_to_shard(root: Path) -> None:
    manifest = json.loads((root / "shards/manifest.json").read_text())
    manifest["shards"].reverse()
    manifest["fingerprint"] = fingerprint("version", manifest["shards"])
    write_json(root / "shards/manifest.json", manifest)
    assert any("is not above the last of the shard before" in what for _, what in _found(root))


def _entry_of(name: str) -> dict[str, object]:
    parquet = name.removesuffix(".tar") + ".parquet"
    return {"name": name, "samples": 1, "bytes": 1, "sha256": "0", "parquet": parquet, "parquet_sha256": "0"}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sizes.json", {"00001.tar": 7}, "says 7 samples of 00001.tar"),
        ("sizes.json", {"00009.tar": 7}, "names 00009.tar"),
        ("00001_stats.json", {"successes": 3}, "says 3 samples"),
        ("00001_stats.json", {"failed_to_resize": 1}, "something else than was written"),
        ("manifest.json", {"samples": 3}, "says 3 samples, its shards' sum"),
        ("manifest.json", {"fingerprint": "0"}, "it was changed"),
        ("manifest.json", {"version": 99}, "of version 99"),
        ("manifest.json", {"shards": [{"name": "x"}]}, "entry is not whole"),
        ("manifest.json", {"shards": [_entry_of("00000>tar")]}, "no files of a shard"),
        ("manifest.json", {"shards": [_entry_of("../00000.tar")]}, "no files of a shard"),
        ("manifest.json", {"shards": [_entry_of("x.tar")]}, "no files of a shard"),
        ("manifest.json", {"shards": [_entry_of("00000.tar") | {"parquet": "00001.parquet"}]}, "no files of a shard"),
    ],
)
def test_changed_counts_are_found(root: Path, name: str, change: dict[str, Any], message: str) -> None:
    path = root / "shards" / name
    content = json.loads(path.read_text())
    path.unlink()
    write_json(path, content | change)
    assert any(file == f"shards/{name}" and message in what for file, what in _found(root)), _found(root)


@pytest.mark.parametrize("name", ["sizes.json", "manifest.json", "00001_stats.json"])
@pytest.mark.parametrize("content", [None, b"{"])
def test_missing_or_broken_json_is_found(root: Path, name: str, content: bytes | None) -> None:
    (root / "shards" / name).unlink()
    if content is not None:
        (root / "shards" / name).write_bytes(content)
    assert _found(root) == [(f"shards/{name}", "missing, or not JSON")]


def test_stranger_and_ledger_that_does_not_add_up(root: Path) -> None:
    (root / "shards/00017.tar").write_bytes(b"")
    ledger = json.loads((root / "ledger.json").read_text())
    ledger["lines"][0]["kept"] += 1
    write_json(root / "ledger.json", ledger)
    assert _found(root) == [
        ("shards/00017.tar", "not in the manifest"),
        ("ledger.json", "stage fetch: in is not kept plus rejected"),
    ]


def test_many_damages_of_a_file_are_summed_up(root: Path) -> None:
    _edit_rows(root, lambda rows: [row.update(sha256="") for row in rows])
    found = [what for file, what in _found(root) if file == "shards/00001.parquet"]
    assert len(found) == 11
    assert found[-1].startswith("and ")


def test_damage_is_exit_status_1_and_no_data_set_is_2(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "shards/00000.tar").unlink()
    assert main(["verify", str(root)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first == "damaged: shards/00000.tar: cannot be read (No such file or directory)"
    assert last.endswith(": 1 damaged")
    assert main(["verify", str(root.parent)]) == 2
    (root / "shards").unlink()
    with pytest.raises(OutputError, match="no published shards"):
        verify(root)
