from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.stages.extract import ExtractConfig, extract
from pipeline.steps.sources import find_sources
from tests.pipeline.archives import members, warc_record, wat_block
from tests.pipeline.loopback_server import LoopbackServer, answer

LINES = "crawl-data/segments/1/wat/a.warc.wat.gz\ncrawl-data/segments/2/wat/b.warc.wat.gz\n"


def test_paths_and_globs_are_found_once_and_sorted(tmp_path: Path) -> None:
    for name in ("b.wat.gz", "a.wat.gz"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "directory.wat.gz").mkdir()
    found = find_sources([str(tmp_path / "*.gz"), str(tmp_path / "a.wat.gz"), (tmp_path / "b.wat.gz").as_uri()])
    assert list(found) == [str(tmp_path / "a.wat.gz"), str(tmp_path / "b.wat.gz"), (tmp_path / "b.wat.gz").as_uri()]
    before = found[str(tmp_path / "a.wat.gz")]
    (tmp_path / "a.wat.gz").write_bytes(b"longer")
    assert find_sources([str(tmp_path / "a.wat.gz")]) != {str(tmp_path / "a.wat.gz"): before}


def test_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "few.paths").write_text("\n")
    with pytest.raises(InputError, match="names no file"):
        find_sources([str(tmp_path / "few.paths")])


@pytest.mark.parametrize("pattern", ["none.wat.gz", "*.wat.gz", "none.paths"])
def test_pattern_that_names_nothing_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match="no such source file"):
        find_sources([str(tmp_path / pattern)])


def test_unknown_protocol_is_told_in_one_line() -> None:
    with pytest.raises(InputError, match="cannot be reached"):
        find_sources(["nosuch://a/b.wat.gz"])


def test_list_on_a_server_counts_from_its_root() -> None:
    with LoopbackServer({"/crawl-data/wat.paths.gz": answer(200, gzip.compress(LINES.encode()))}) as server:
        found = find_sources([server.url("/crawl-data/wat.paths.gz")])
        assert list(found) == [server.url(f"/{line}") for line in LINES.split()]
        assert len(server.requests) == 1, "the files themselves are not asked after"


def test_list_is_kept_where_a_data_set_is_made(tmp_path: Path) -> None:
    with LoopbackServer({"/wat.paths": answer(200, b"a.wat.gz\n")}) as server:
        url = server.url("/wat.paths")
        first = find_sources([url], lists=tmp_path / "lists")
    assert find_sources([url], lists=tmp_path / "lists") == first, "without the server"


def test_list_from_elsewhere_names_no_files_of_this_machine(tmp_path: Path) -> None:
    with LoopbackServer(
        {"/a.paths": answer(200, b"/etc/passwd\n"), "/b.paths": answer(200, b"file:///etc/passwd\n")}
    ) as server:
        assert list(find_sources([server.url("/a.paths")])) == [server.url("/etc/passwd")]
        with pytest.raises(InputError, match="files of this machine"):
            find_sources([server.url("/b.paths")])


@pytest.mark.parametrize(
    ("pattern", "told"), [("https://a.example/*.wat.gz", "no directory to search"), ("{}/outer.paths", "another list")]
)
def test_what_a_list_or_a_web_server_cannot_do_is_told(tmp_path: Path, pattern: str, told: str) -> None:
    (tmp_path / "outer.paths").write_text("inner.paths\n")
    with pytest.raises(InputError, match=told):
        find_sources([pattern.format(tmp_path)])


def test_another_pattern_only_adds(tmp_path: Path) -> None:
    for crawl in "ab":
        names = (f"https://{crawl}.example/{number}.wat.gz\n" for number in range(50))
        (tmp_path / f"{crawl}.paths").write_text("".join(names))
    one, both = (find_sources([f"{tmp_path}/{crawl}.paths" for crawl in crawls], most=5) for crawls in ("a", "ab"))
    assert len(one) == 5
    assert len(both) == 10
    assert set(one) < set(both)


def test_archives_of_a_list_are_read_as_those_on_this_machine(tmp_path: Path) -> None:
    record = warc_record(wat_block([{"url": "/1.jpg", "alt": "a"}, {"url": "/2.jpg", "alt": "b"}]))
    (tmp_path / "a.warc.wat.gz").write_bytes(b"".join(members([record])))
    with LoopbackServer(
        {
            "/wat.paths": answer(200, b"crawl/a.warc.wat.gz\n"),
            "/crawl/a.warc.wat.gz": answer(200, (tmp_path / "a.warc.wat.gz").read_bytes()),
        }
    ) as server:
        (source,) = find_sources([server.url("/wat.paths")])
        there = [outcome.kept.drop_columns("source") for outcome in extract(source, ExtractConfig())]
    here = [outcome.kept.drop_columns("source") for outcome in extract(f"{tmp_path}/a.warc.wat.gz", ExtractConfig())]
    assert there == here
    assert sum(batch.num_rows for batch in here) == 2


def test_list_on_this_machine_counts_from_its_directory(tmp_path: Path) -> None:
    (tmp_path / "crawl").mkdir()
    for name in ("crawl/a.wat.gz", "b.wat.gz"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "few.paths").write_text(f"crawl/a.wat.gz\n\nhttps://a.example/c.wat.gz\n{tmp_path}/b.wat.gz\n")
    found = find_sources([str(tmp_path / "few.paths")])
    local = [f"{tmp_path}/b.wat.gz", f"{tmp_path}/crawl/a.wat.gz"]
    assert list(found) == [*local, "https://a.example/c.wat.gz"]
    assert {name: found[name] for name in local} == find_sources(local), "the same stamps as without a list"


def test_file_that_a_list_names_in_vain_is_told(tmp_path: Path) -> None:
    (tmp_path / "few.paths").write_text("gone.wat.gz\n")
    with pytest.raises(InputError, match=r"few\.paths: names a file that is not there .*gone\.wat\.gz"):
        find_sources([str(tmp_path / "few.paths")])


def test_list_on_an_object_store_counts_from_the_bucket() -> None:
    import fsspec

    with fsspec.open("memory://bucket/crawl-data/wat.paths", "w") as file:
        file.write("crawl-data/a.wat.gz\n")
    assert list(find_sources(["memory://bucket/crawl-data/wat.paths"])) == ["memory://bucket/crawl-data/a.wat.gz"]


def test_damaged_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wat.paths.gz").write_bytes(gzip.compress(LINES.encode())[:-4])
    with pytest.raises(InputError, match="not a list of files"):
        find_sources([str(tmp_path / "wat.paths.gz")])


def test_bomb_for_a_list_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.steps.sources._MAX_LIST_BYTES", 1 << 20)
    for name, data in (("a.paths.gz", gzip.compress(b"x" * (2 << 20))), ("a.paths", b"x" * (2 << 20))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match="more than 1 MiB, too much for a list of files"):
            find_sources([str(tmp_path / name)])


def test_larger_number_only_adds(tmp_path: Path) -> None:
    (tmp_path / "wat.paths").write_text("".join(f"https://a.example/{number}.wat.gz\n" for number in range(50)))
    taken = [set(find_sources([str(tmp_path / "wat.paths")], most=most)) for most in (5, 20, 100)]
    assert [len(names) for names in taken] == [5, 20, 50]
    assert taken[0] < taken[1] < taken[2]
    assert taken[0] != set(find_sources([str(tmp_path / "wat.paths")], most=5, seed=1))
