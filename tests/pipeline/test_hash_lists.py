"""Lists of pictures that may not be kept: nothing of a listed body is stored, and what is stored of one goes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from configs.load import ConfigError
from pipeline.pictures.pdq import pdq_of
from pipeline.pictures.pdq_record import NUM_BYTES
from pipeline.runs import expunge
from pipeline.stages.fetch.block import BlockList, read_block_list
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.privacy.config import PrivacyConfig
from pipeline.stages.privacy.hash_lists import HashLists, list_of_detail, read_hash_lists
from pipeline.steps.fetch.requests import stop_key
from pipeline.takedown.asked import read_asked
from tests.pipeline.earlier_facts import drop_hashes
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun
from tests.pipeline.test_pdq import photograph

PATHS = [f"/{i}" for i in range(5)]
LISTED = "/2"


def body(number: int) -> bytes:
    """A PNG, and for every other number a JPEG, that stays as it is when it is stored (`store_original`)."""
    buffer = io.BytesIO()
    Image.fromarray(photograph(96, 128, seed=number)).save(buffer, "PNG" if number % 2 else "JPEG", quality=95)
    return buffer.getvalue()


def looks(number: int) -> bytes:
    found = pdq_of(np.asarray(Image.open(io.BytesIO(body(number))).convert("RGB")))
    assert found is not None
    return found.hashes[:NUM_BYTES]


def _mirrored_look() -> str:
    found = pdq_of(np.ascontiguousarray(np.fliplr(np.asarray(Image.open(io.BytesIO(body(2))).convert("RGB")))))
    assert found is not None
    return (int.from_bytes(found.hashes[:NUM_BYTES], "big") ^ 0b10101).to_bytes(NUM_BYTES, "big").hex()


LISTS: dict[str, tuple[str, Callable[[], str]]] = {
    "md5": ("hash_lists", lambda: hashlib.md5(body(2), usedforsecurity=False).hexdigest()),
    "sha1": ("hash_lists", lambda: hashlib.sha1(body(2), usedforsecurity=False).hexdigest().upper()),
    "sha256": ("hash_lists", lambda: hashlib.sha256(body(2)).hexdigest()),
    "pdq": ("pdq_lists", _mirrored_look),
}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({path: text(body(i)) for i, path in enumerate(PATHS)}) as server:
        yield server


@pytest.fixture
def small(tmp_path: Path, server: LoopbackServer) -> SmallRun:
    return SmallRun.make(tmp_path, server, PATHS)


def words_of(tmp_path: Path, kind: str) -> list[str]:
    """A list of that kind in a file, as options."""
    option, entry = LISTS[kind]
    file = tmp_path / f"known_{kind}.txt"
    file.write_text(f"# of a hotline\n{entry()},100,for people\n\n{'0' * len(entry())}\n")
    return [f"--privacy.{option}", f"[{file}]", "--image.store_original", "true"]


def assert_nothing_is_left(small: SmallRun, kind: str) -> None:
    """Of the listed picture: no bytes, no hash, no thumbnail, in no file of the data set."""
    whole = body(2)
    traces = [whole, hashlib.sha256(whole).hexdigest().encode(), whole[len(whole) // 2 :][:60]]
    files = [path for path in small.output.rglob("*") if path.is_file()]
    assert [path for path in files if any(trace in path.read_bytes() for trace in traces)] == []
    (row,) = [
        row
        for file in (small.output / "work" / "fetch").glob("*.facts.parquet")
        for row in pq.read_table(file).to_pylist()
        if row["reason"] == "hash_list"
    ]
    told = {name for name, value in row.items() if value is not None}
    assert told == {"url_id", "status", "stage", "reason", "detail"}
    assert list_of_detail(row["detail"]) == f"known_{kind}"
    for step in ("fetched", "final_balance"):
        for file in (small.output / "work" / step).glob("*.fetched.parquet"):
            for row in pq.read_table(file).to_pylist():
                if row["url"].endswith(LISTED):
                    assert {row[name] for name in ("sha256", "phash", "thumbnail", "stored_xxh3", "width")} == {None}


@pytest.mark.parametrize("kind", ["sha256", "pdq"])
def test_nothing_of_a_listed_picture_is_ever_stored(small: SmallRun, server: LoopbackServer, kind: str) -> None:
    assert small.run(*words_of(small.root, kind)) == 0
    assert small.samples() == [path for path in PATHS if path != LISTED]
    reason, detail = small.rejections()[LISTED]
    assert (reason, list_of_detail(detail or "")) == ("hash_list", f"known_{kind}")
    assert '"hash_list": 1' in (small.output / "ledger.json").read_text()
    assert_nothing_is_left(small, kind)
    state, asked = small.state(), len(server.requests)
    assert small.run(*words_of(small.root, kind)) == 0
    assert (small.state(), len(server.requests)) == (state, asked), "a run with nothing to do does nothing"


@pytest.mark.parametrize("kind", ["md5", "pdq"])
def test_stored_picture_leaves_with_the_run_that_has_the_list(
    small: SmallRun, server: LoopbackServer, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    original = ("--image.store_original", "true")
    assert small.run(*original) == 0
    assert small.samples() == PATHS
    asked = len(server.requests)
    assert small.run(*words_of(small.root, kind)) == 0
    assert "1 pictures that were stored are on them" in capsys.readouterr().err
    assert small.samples() == [path for path in PATHS if path != LISTED]
    assert len(server.requests) == asked, "what is known is not requested again"
    assert_nothing_is_left(small, kind)
    assert small.run(*original) == 0
    assert small.samples() == PATHS
    assert len(server.requests) == asked + 1, "a list that is withdrawn forbids nothing, and its picture is unknown"


def test_pictures_without_hashes_of_their_own_stay_when_another_goes(small: SmallRun, server: LoopbackServer) -> None:
    assert small.run("--image.store_original", "true", "--shards.keep_staging", "true") == 0
    asked = len(server.requests)
    drop_hashes(small.output / "work" / "fetch")
    assert small.run(*words_of(small.root, "sha256"), "--shards.keep_staging", "true") == 0
    assert small.samples() == [path for path in PATHS if path != LISTED]
    assert len(server.requests) == asked
    assert_nothing_is_left(small, "sha256")


def test_run_that_was_killed_while_pictures_went_comes_to_the_same_end(
    small: SmallRun, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    assert small.run("--image.store_original", "true") == 0
    asked = len(server.requests)
    for kind, place in (("md5", "forget"), ("sha1", "_remove"), ("md5", "_remove"), ("sha1", "write_sealed")):
        with monkeypatch.context() as dying:
            dying.setattr(expunge, place, killed)
            with pytest.raises(KilledError):
                small.run(*words_of(small.root, kind))
    assert small.run(*words_of(small.root, "sha1")) == 0
    assert small.samples() == [path for path in PATHS if path != LISTED]
    assert len(server.requests) == asked
    assert_nothing_is_left(small, "sha1")


def test_lists_have_no_part_in_a_key_where_there_are_none(tmp_path: Path) -> None:
    fetch = FetchConfig(user_agent="a (+http://localhost)", block=("a.example",))
    assert stop_key(fetch, PrivacyConfig()) == read_block_list(fetch.block, ()).key
    (tmp_path / "a.txt").write_text("00" * 16)
    listed = PrivacyConfig(hash_lists=(str(tmp_path / "a.txt"),))
    key = stop_key(fetch, listed)
    assert key != stop_key(fetch, PrivacyConfig())
    (tmp_path / "a.txt").write_text("# the same\n" + "00" * 16 + " and more\n")
    assert stop_key(fetch, listed) == key
    (tmp_path / "a.txt").write_text("01" * 16)
    assert stop_key(fetch, listed) != key


@pytest.mark.parametrize(
    ("option", "content", "said"),
    [
        ("hash_lists", "abc\n", "is no MD5, SHA-1 or SHA-256"),
        ("hash_lists", "\nnothing hexadecimal\n", "a.txt:2: 'nothing' is no hash in hex digits"),
        ("pdq_lists", "00" * 16, "is no PDQ hash of 64 hex digits"),
        ("pdq_lists", None, "pdq_lists: cannot read"),
    ],
)
def test_list_that_is_none_stops_the_run_with_its_place(
    tmp_path: Path, option: str, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_text(content)
    config = PrivacyConfig(**{option: (str(tmp_path / "a.txt"),)})  # type: ignore[arg-type]  # as YAML gives it
    with pytest.raises(ConfigError, match=said):
        read_hash_lists(config)


def test_lists_of_one_name_and_limits_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="no two may have the same"):
        PrivacyConfig(hash_lists=("a/known.txt",), pdq_lists=("s3://b/known.csv",))
    with pytest.raises(ConfigError, match="pdq_max_distance"):
        PrivacyConfig(pdq_max_distance=200)
    with pytest.raises(ConfigError, match="pdq_min_quality"):
        PrivacyConfig(pdq_min_quality=101)


def test_other_engine_is_refused_since_it_stores_first(small: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--fetch.engine",
        "img2dataset",
        "--fetch.engine_python",
        "python",
        "--fetch.respect_tdm_reservation",
        "false",
    )
    assert small.run(*words_of(small.root, "md5"), *words) == 2
    assert "stores a body before it can be held against hash_lists" in capsys.readouterr().err


def test_a_list_that_windows_saved_is_read(tmp_path: Path) -> None:
    for encoding, newline in (("utf-8", "\n"), ("utf-8-sig", "\r\n")):
        (tmp_path / "known.txt").write_text(f"{'a' * 32}\n{'b' * 64}\n", encoding=encoding, newline=newline)
        lists = HashLists(PrivacyConfig(hash_lists=(str(tmp_path / "known.txt"),)))
        assert lists.match_digests({"md5": bytes.fromhex("a" * 32)}) == "known"
        assert lists.match_digests({"sha256": bytes.fromhex("b" * 64)}) == "known"
        (tmp_path / "blocked.txt").write_text("http://a.example/x\n", encoding=encoding, newline=newline)
        assert BlockList((), [str(tmp_path / "blocked.txt")]).match_url("http://a.example/x") is not None
        (tmp_path / "uids.txt").write_text(f"{'c' * 32}\n", encoding=encoding, newline=newline)
        assert read_asked({"uids": str(tmp_path / "uids.txt")}).uids == {bytes.fromhex("c" * 32)}
