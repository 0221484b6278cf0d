"""A release: what goes out and what stays, that others can check it, and that it is whole or absent."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import ConfigError, load
from pipeline.commands import main
from pipeline.config import WitConfig
from pipeline.records.schema import SAMPLES
from pipeline.releasing import release as releasing
from pipeline.releasing.columns import COLUMNS, columns_of
from pipeline.releasing.public_config import public_config
from pipeline.releasing.rows import WriteLinks
from tests.conftest import REPOSITORY
from tests.pipeline.small_set import make_set, picture

PAGE = (REPOSITORY / "docs/release.md").read_text(encoding="utf-8")
TOLD = ("--licence", "CC-BY-4.0", "--creator", "person: Jane Doe", "--url", "https://example.org/wit")
TOLD += ("--citation", "@misc{wit}", "--contact", "removal@example.org", "--published", "2026-11-29")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("releasing") / "set"
    make_set(root)
    (root / "runs.jsonl").write_text(
        '{"started": "2026-05-05T01:02:03", "status": "finished", "host": "secret-node"}\n'
    )
    return root


@pytest.fixture(scope="module")
def released(dataset: Path) -> Path:
    """With pictures, signed by nobody."""
    out = dataset.parent / "released"
    assert main(["release", str(dataset), str(out), "--pictures", *TOLD]) == 0
    return out


def files_of(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "links").iterdir()) for row in pq.read_table(path).to_pylist()]


def told(capsys: pytest.CaptureFixture[str], *words: str, status: int) -> str:
    capsys.readouterr()
    assert main(list(words)) == status
    said = capsys.readouterr()
    return said.out + said.err


# --- what goes out ------------------------------------------------------------------------------


def test_every_column_is_decided_and_the_page_shows_the_decision() -> None:
    assert {column.name for column in COLUMNS} >= set(SAMPLES.names)
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [(column.name, column.when, column.says, column.why) for column in COLUMNS]


def test_rows_are_the_samples_in_order_without_what_is_private(dataset: Path, released: Path) -> None:
    samples = [
        row for path in sorted((dataset / "shards").glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    rows = rows_of(released)
    for row, sample in zip(rows, samples, strict=True):
        assert row["uid"] == sample["uid"].hex()
        assert not row.keys() & {"source", "record", "link", "exif", "extra", "alt_text", "status"}
        for name in row.keys() - {"uid", "tar_offset", "stored_xxh3"}:
            assert row[name] == sample[name]


def test_pictures_are_those_of_the_set_and_their_json_has_the_same_columns(dataset: Path, released: Path) -> None:
    rows = {row["key"]: row for row in rows_of(released)}
    seen = 0
    for path in sorted((released / "pictures").iterdir()):
        with tarfile.open(path) as tar:
            members = {member.name: member for member in tar}
            for name, member in members.items():
                key, _, ending = name.partition(".")
                content = tar.extractfile(member)
                assert content is not None
                data, row = content.read(), rows[key]
                if ending == "json":
                    assert json.loads(data).keys() == row.keys()
                    assert json.loads(data)["uid"] == row["uid"]
                elif ending == "txt":
                    assert data.decode() == row["caption"]
                else:
                    number = int(re.findall(r"(\d+)\.jpg$", row["url"])[0])
                    assert data == picture({"uid": bytes.fromhex(row["uid"]), "record": number})
                    assert (row["tar_offset"], row["num_bytes"]) == (member.offset_data, len(data))
                    seen += 1
    assert seen == len(rows) == 100


def test_nothing_of_the_machine_or_of_who_ran_it_goes_out(dataset: Path, released: Path) -> None:
    for name, content in files_of(released).items():
        plain = pq.read_table(io.BytesIO(content)).to_pydict() if name.endswith(".parquet") else content
        for secret in (str(dataset), "a.b", "secret-node", "file 0.parquet"):
            assert secret not in str(plain), (name, secret)


def test_config_goes_out_by_what_is_known_to_be_harmless() -> None:
    words = ["--sources", '["/home/me/links/*.parquet", "https://me:word@a.example/x.parquet?token=1"]']
    words += [
        "--queries",
        "/home/me/q.txt",
        "--output",
        "s3://mine/set",
        "--fetch.user_agent",
        "x/1 (+http://me.example)",
    ]
    words += [
        "--fetch.proxy",
        "http://me:word@proxy:1",
        "--fetch.block",
        "[a.example]",
        "--engine.address",
        "ray://me:1",
    ]
    words += ["--fetch.store", "/data/me", "--extract.url_columns", "[pic]", "--balance.mode", "metaclip"]
    text, left_out = public_config(load(WitConfig, None, words))
    plain = yaml.safe_load(text)
    assert plain["sources"] == ["*.parquet", "https://a.example/x.parquet"]
    assert (plain["queries"], plain["extract"]["url_columns"], plain["balance"]["mode"]) == (
        "q.txt",
        ["pic"],
        "metaclip",
    )
    left = {"output", "fetch.user_agent", "fetch.proxy", "fetch.block", "fetch.store", "engine.address"}
    assert set(left_out) >= left
    assert "output" not in plain
    assert not plain["fetch"].keys() & {"user_agent", "proxy", "block", "store"}
    assert "me" not in re.findall(r"\w+", "\n".join(line for line in text.splitlines() if not line.startswith("#")))


def test_columns_can_be_changed() -> None:
    def names(asked: str | None, *, pictures: bool = False) -> list[str]:
        return [column.name for column in columns_of(SAMPLES.names, pictures=pictures, asked=asked)]

    assert "tar_offset" in names(None, pictures=True)
    assert "tar_offset" not in names(None)
    assert names("caption,url,uid") == ["uid", "url", "caption"]
    assert set(names("+exif,-phash")) ^ set(names(None)) == {"exif", "phash"}
    for asked, says in (
        ("url,caption", "uid must be among them"),
        ("+exif,phash", "mixes a list with changes"),
        ("+status", "status is not published"),
        ("+width", "width is not published without pictures"),
        ("+exiv", "did you mean 'exif'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(says)):
            names(asked)


def test_column_that_nobody_decided_about_stays_in_and_is_told() -> None:
    there = [*SAMPLES.names, "new_column"]
    assert "new_column" not in [column.name for column in columns_of(there, pictures=True, asked=None)]
    assert releasing.undecided(there) == ["new_column"]


def test_set_of_an_earlier_version_is_released_with_what_it_has(tmp_path: Path) -> None:
    lacking = ("lang_by", "stored_xxh3")
    make_set(tmp_path / "set", 30)
    manifest = tmp_path / "set/shards/manifest.json"
    plain = json.loads(manifest.read_text())
    for entry in plain["shards"]:
        parquet = manifest.with_name(entry["parquet"])
        pq.write_table(pq.read_table(parquet).drop_columns(list(lacking)), parquet)
        entry["parquet_sha256"] = hashlib.sha256(parquet.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(plain))
    assert main(["release", str(tmp_path / "set"), str(tmp_path / "out"), "--pictures"]) == 0
    assert main(["verify", str(tmp_path / "out")]) == 0
    (row, *_) = rows_of(tmp_path / "out")
    assert not row.keys() & set(lacking)
    fields = json.loads((tmp_path / "out/croissant.json").read_text())["recordSet"][0]["field"]
    assert [field["name"] for field in fields] == list(row)
    (tar,) = (tmp_path / "set/shards").glob("*.tar")
    tar.write_bytes(tar.read_bytes()[:-600])  # no picture has a hash: the whole is looked at
    assert main(["release", str(tmp_path / "set"), str(tmp_path / "again"), "--pictures"]) == 2


# --- what is told of it -------------------------------------------------------------------------


def test_croissant_has_what_the_specification_asks_for(released: Path) -> None:
    """Croissant 1.1: "Dataset-level Information", required and recommended; every reference leads somewhere."""
    found = json.loads((released / "croissant.json").read_text())
    required = (
        "@context",
        "@type",
        "name",
        "description",
        "license",
        "url",
        "creator",
        "datePublished",
        "distribution",
    )
    for name in (*required, "version", "citeAs", "keywords", "inLanguage", "dateCreated", "recordSet"):
        assert found[name], name
    assert found["conformsTo"][0] == "http://mlcommons.org/croissant/1.1"
    assert found["license"] == "https://spdx.org/licenses/CC-BY-4.0.html"
    assert found["creator"] == [{"@type": "sc:Person", "name": "Jane Doe"}]
    assert (found["datePublished"], found["version"]) == ("2026-11-29", "1.0.0")
    objects = {each["@id"]: each for each in found["distribution"]}
    sums = dict(line.split("  ")[::-1] for line in (released / "SHA256SUMS").read_text().splitlines())
    for name, each in objects.items():
        if each["@type"] == "cr:FileObject":
            assert (each["sha256"], each["contentUrl"]) == (sums[name], name)
            assert each["contentSize"] == f"{(released / name).stat().st_size} B"
    assert {name for name in sums if name.startswith(("links/", "pictures/"))} <= objects.keys()
    ids = [each["@id"] for record_set in found["recordSet"] for each in (record_set, *record_set["field"])]
    assert len(set(ids) | objects.keys()) == len(ids) + len(objects)
    files = {"samples": released / "links/00000.parquet", "queries": released / "queries.parquet"}
    for record_set in found["recordSet"]:
        assert record_set["key"]["@id"] in ids
        if record_set["@id"] in files:
            columns = [field["source"]["extract"]["column"] for field in record_set["field"]]
            assert columns == pq.read_schema(files[record_set["@id"]]).names
        for field in record_set["field"]:
            (source,) = (field["source"][kind]["@id"] for kind in ("fileSet", "fileObject") if kind in field["source"])
            assert source in objects
    assert [each["@id"] for each in found["recordSet"]] == ["samples", "pictures", "queries"]
    tars = [each["@id"] for each in objects["picture-files"]["containedIn"]]
    assert tars == sorted(name for name in sums if name.endswith(".tar"))
    assert found["rai:dataCollectionTimeFrame"] == ["2026-05-05"]
    assert "tdm-reservation" in found["rai:dataCollection"]
    assert "removal@example.org" in " ".join(found["rai:personalSensitiveInformation"])
    assert "14 pairs http_404 (fetch)" in found["rai:dataCollectionMissingData"]


def test_readme_has_the_header_of_a_hub(released: Path) -> None:
    _, front, page = (released / "README.md").read_text().split("---\n", 2)
    header = yaml.safe_load(front)
    assert (header["license"], header["language"], header["size_categories"]) == ("cc-by-4.0", ["en"], ["n<1K"])
    assert [each["data_files"][0]["path"] for each in header["configs"]] == ["links/*.parquet", "queries.parquet"]
    assert "at most 20 pairs" in page
    assert "@misc{wit}" in page


def test_what_nobody_said_is_told_and_not_made_up(dataset: Path, tmp_path: Path, capsys: Any) -> None:
    said = told(capsys, "release", str(dataset), str(tmp_path / "out"), status=0)
    assert "not told, since only you know: licence, creator, url, citation, contact; say it with --licence" in said
    found = json.loads((tmp_path / "out/croissant.json").read_text())
    assert not found.keys() & {"license", "creator", "url", "citeAs", "rai:dataSocialImpact", "rai:dataUseCases"}
    assert "license" not in yaml.safe_load((tmp_path / "out/README.md").read_text().split("---\n")[1])
    card = (tmp_path / "out/card.html").read_text()
    assert "data:image" not in card
    assert "Not shown on this card." in card


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--licence", "some licence"), "licence: 'some licence' is neither"),
        (("--url", "example"), "url: 'example' is no http(s) URL"),
        (("--version", "1"), "version: '1' is not MAJOR.MINOR.PATCH"),
        (("--published", "today"), "published: 'today' is no day"),
        (("--supersedes", "/nowhere"), "supersedes: /nowhere: no release is there"),
        (("--columns", "uid"), "columns: url must be among them"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(
    dataset: Path, tmp_path: Path, capsys: Any, option: tuple[str, str], says: str
) -> None:
    said = told(capsys, "release", str(dataset), str(tmp_path / "out"), *option, status=2)
    assert says in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


# --- whole or absent ----------------------------------------------------------------------------


def test_second_run_gives_the_same_bytes_and_the_first_is_left_alone(
    dataset: Path, released: Path, capsys: Any
) -> None:
    times = {path: path.stat().st_mtime_ns for path in released.rglob("*")}
    again = released.with_name("again")
    words = ("--pictures", *TOLD)
    assert "is whole already: 100 samples" in told(capsys, "release", str(dataset), str(released), *words, status=0)
    assert {path: path.stat().st_mtime_ns for path in released.rglob("*")} == times
    assert main(["release", str(dataset), str(again), *words]) == 0
    assert files_of(again) == files_of(released)


def test_release_that_was_killed_goes_on_and_ends_the_same(
    dataset: Path, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is: among the rows, among the files that tell of them, before the sums, before the name."""
    out = tmp_path / "out"
    words = ["release", str(dataset), str(out), "--rows_per_file", "30", *TOLD]
    assert main([*words[:2], str(tmp_path / "whole"), *words[3:]]) == 0
    written: list[str] = []
    work = WriteLinks.work

    class Killed(BaseException):
        pass

    def kill(*_: Any, **__: Any) -> Any:
        raise Killed

    def one_more(task: WriteLinks, files: Any) -> Any:
        written.append(task.partition)
        if len(written) == 3:
            raise Killed
        return work(task, files)

    monkeypatch.setattr(WriteLinks, "work", one_more)
    for killed_in in (None, "readme_of", "sums_of", None):
        with pytest.MonkeyPatch.context() as patch:
            if killed_in is not None:
                patch.setattr(releasing, killed_in, kill)
            elif len(written) > 3:
                patch.setattr(Path, "rename", kill)
            with pytest.raises(Killed):
                main(words)
        assert not out.exists()
    (aside,) = (path for path in tmp_path.iterdir() if path.name not in ("whole", "out"))
    (aside / "rows" / "00000.parquet").write_bytes(b"x" * (aside / "rows" / "00000.parquet").stat().st_size)
    assert main(words) == 0
    assert files_of(out) == files_of(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    assert len(list((out / "links").iterdir())) == 4


def test_version_that_a_run_publishes_meanwhile_is_not_mixed_in(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    shutil.copytree(dataset, tmp_path / "set", symlinks=True)
    manifest, facts_of = tmp_path / "set/shards/manifest.json", releasing.facts_of

    def meanwhile(*words: Any, **more: Any) -> Any:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"fingerprint": "other"}))
        return facts_of(*words, **more)

    monkeypatch.setattr(releasing, "facts_of", meanwhile)
    said = told(capsys, "release", str(tmp_path / "set"), str(tmp_path / "out"), status=2)
    assert "another version was published meanwhile" in said
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_never_overwritten(dataset: Path, released: Path, tmp_path: Path, capsys: Any) -> None:
    before = files_of(released)
    said = told(capsys, "release", str(dataset), str(released), status=2)
    assert "holds another release, set 1.0.0" in said
    assert files_of(released) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    assert "exists, and is no release" in told(capsys, "release", str(dataset), str(tmp_path / "mine"), status=2)
    assert "inside a data set" in told(capsys, "release", str(dataset), str(dataset / "out"), status=2)


def test_set_without_a_sample_is_no_release(dataset: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(dataset, tmp_path / "set", symlinks=True)
    manifest = tmp_path / "set/shards/manifest.json"
    plain = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(plain | {"samples": 0, "shards": []}))
    assert "nothing to release" in told(capsys, "release", str(tmp_path / "set"), str(tmp_path / "out"), status=2)
    (manifest.parent / "tombstones.json").write_text("{}")
    manifest.write_text(json.dumps(plain))
    assert "compact" in told(capsys, "release", str(tmp_path / "set"), str(tmp_path / "out"), status=2)
    manifest.unlink()
    assert "has no published shards" in told(capsys, "release", str(tmp_path / "set"), str(tmp_path / "out"), status=2)


# --- checking it --------------------------------------------------------------------------------


def test_whole_release_is_whole_to_verify_and_to_sha256sum(released: Path, capsys: Any) -> None:
    said = told(capsys, "verify", str(released), status=0)
    assert f": {len(files_of(released)) - 1} files, 100 samples" in said
    assert "all whole" in said
    if shutil.which("sha256sum") is not None:
        subprocess.run(["sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS"], cwd=released, check=True)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("links/00001.parquet", b"other", "damaged: links/00001.parquet: its bytes are not those"),
        ("pictures/00000.tar", None, "damaged: pictures/00000.tar: missing"),
        ("links/00009.parquet", b"more", "damaged: links/00009.parquet: not in SHA256SUMS"),
        ("release.json", b"{}", "damaged: release.json: its bytes are not those"),
        ("SHA256SUMS", b"x", "damaged: SHA256SUMS: not of the form"),
        ("SHA256SUMS", None, "damaged: SHA256SUMS: missing"),
    ],
)
def test_damage_is_found(
    released: Path, tmp_path: Path, capsys: Any, name: str, content: bytes | None, says: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(released, copy)
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    said = told(capsys, "verify", str(copy), status=1)
    assert says in said
    assert "1 damaged" in said


def test_signature_tells_who_released_it(dataset: Path, tmp_path: Path, capsys: Any) -> None:
    for name in ("ours", "theirs"):
        _write_keys(tmp_path, name)
    out = tmp_path / "out"
    assert main(["release", str(dataset), str(out), "--sign", str(tmp_path / "ours.pem"), *TOLD]) == 0
    assert "all whole" in told(capsys, "verify", str(out), "--key", str(tmp_path / "ours.pub"), status=0)
    said = told(capsys, "verify", str(out), "--key", str(tmp_path / "theirs.pub"), status=1)
    assert "SHA256SUMS.sig: not of SHA256SUMS by the owner of this key" in said
    assert "no public key in PEM" in told(capsys, "verify", str(out), "--key", str(tmp_path / "ours.pem"), status=2)
    (out / "SHA256SUMS.sig").unlink()
    assert "nobody signed" in told(capsys, "verify", str(out), "--key", str(tmp_path / "ours.pub"), status=1)


def _write_keys(directory: Path, name: str) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (directory / f"{name}.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (directory / f"{name}.pub").write_bytes(public)


# --- one after the other ------------------------------------------------------------------------


def test_next_release_names_the_one_before_and_what_is_gone(dataset: Path, tmp_path: Path) -> None:
    first, fewer, second, third = (tmp_path / name for name in ("first", "fewer", "second", "third"))
    assert main(["release", str(dataset), str(first), *TOLD]) == 0
    where = "original_width > 200"
    assert main(["subset", str(dataset), "--out", str(fewer), "--where", where]) == 0
    (fewer / "removed").mkdir()
    (fewer / "removed/20260131T000000Z-0123abcd.json").write_text('{"state": "done"}')
    (fewer / "removed/20260231T000000Z-0123abcd.json").write_text('{"state": "begun"}')
    assert main(["release", str(fewer), str(second), "--supersedes", str(first), *TOLD]) == 0
    manifest = json.loads((second / "release.json").read_text())
    assert manifest["release"] == "2.0.0"
    (before,) = manifest["supersedes"]
    assert before["sums"] == hashlib.sha256((first / "SHA256SUMS").read_bytes()).hexdigest()
    gone = {row["uid"] for row in rows_of(first)} - {row["uid"] for row in rows_of(second)}
    assert (second / "gone/since-1.0.0.txt").read_text().splitlines() == sorted(gone)
    assert [path.name for path in (second / "removed").iterdir()] == ["20260131T000000Z-0123abcd.json"]
    assert main(["release", str(fewer), str(third), "--supersedes", str(second), "--title", "more", *TOLD]) == 0
    history = json.loads((third / "release.json").read_text())["supersedes"]
    assert [each["release"] for each in history] == ["2.0.0", "1.0.0"]
    assert main(["verify", str(third)]) == 0


# --- the page -----------------------------------------------------------------------------------


def test_commands_of_the_page_work(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, over a small set in the place of the sample."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(dataset, tmp_path / "data/sample", symlinks=True)
    (about,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "release.yaml").write_text(about)
    for line in _lines(PAGE):
        if line.startswith("python -m pipeline "):
            assert main(shlex.split(line)[3:]) == 0, line
        elif shutil.which(line.split()[0]) is not None:
            subprocess.run(["bash", "-euc", line], check=True, capture_output=True, cwd=tmp_path)
        elif line.startswith("openssl genpkey"):
            pytest.skip("there is no openssl here")
    code = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for snippet in code:
        exec(compile(snippet, "docs/release.md", "exec"), {})


def _lines(page: str) -> Iterator[str]:
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
