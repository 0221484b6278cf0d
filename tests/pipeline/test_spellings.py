"""One picture, several spellings of its URL: one identity, one request, and the same choice in every run."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from pipeline.questions.explain import explain
from pipeline.records.identity import canonical_url, url_id_of
from pipeline.web.urls import resolver
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

_SPELLINGS = ["/x/a%2Db.jpg?s=%7e", "/x/a-b.jpg?s=~", "/x/./a-b%2ejpg?s=%7E#top"]


def _run(root: Path, server: LoopbackServer, paths: list[str], *words: str) -> SmallRun:
    small = SmallRun.make(root, server, paths)
    assert small.run(*words) == 0
    return small


def _requested(small: SmallRun) -> list[str]:
    files = sorted((small.output / "work" / "requests").glob("*.missing.parquet"))
    return [url for file in files for url in pq.read_table(file)["url"].to_pylist()]


def _server() -> LoopbackServer:
    spelt = [path.partition("#")[0].replace("/./", "/") for path in _SPELLINGS]
    return LoopbackServer({path: text(picture(0)) for path in [*spelt, "/x/a-b.jpg?s=~"]})


def test_picture_is_requested_once_in_a_spelling_of_a_page(tmp_path: Path) -> None:
    with _server() as server:
        wanted = {server.url(path.partition("#")[0].replace("/./", "/")) for path in _SPELLINGS}
        for by in ("url", "pair"):
            small = _run(tmp_path / by, server, _SPELLINGS, "--dedup.by", by)
            (asked,) = _requested(small)
            assert asked in wanted
            published = [server.url(path) for path in small.samples()]
            assert len(published) == (1 if by == "url" else 3)
            assert set(published) <= wanted
            assert asked in published
            for path in _SPELLINGS:
                assert explain(small.output, url=server.url(path))


def test_set_that_is_read_again_as_a_table_has_the_same_identities() -> None:
    for path in [*_SPELLINGS, "/ü |'?'{}^`[]", "/%zz?", "/a?b=c d"]:
        once = resolver("")(f"http://Ex.org{path}")
        assert url_id_of(canonical_url(resolver("")(once))) == url_id_of(canonical_url(once))


def test_user_info_is_no_part_of_an_identity() -> None:
    with_user, without = resolver("")("http://u:p@A.b/x.jpg"), resolver("")("http://a.b/x.jpg")
    assert with_user == without == canonical_url(without)
