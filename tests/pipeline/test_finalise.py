"""The steps between fetching and the final balance, over files: filters and scores, evaluation sets, image dedup."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.load import ConfigError, from_mapping
from pipeline.config import WitConfig
from pipeline.engine import Data, Done, EngineConfig, Info, Task, open_engine
from pipeline.errors import InputError
from pipeline.pictures.thumbnail import look_alike
from pipeline.records.identity import first_64_bits, keyed_hash
from pipeline.records.ledger import totals
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome, reject
from pipeline.records.schema import FETCHED
from pipeline.stages.check_image.check import check_image
from pipeline.stages.check_image.config import ImageConfig, Picture
from pipeline.stages.decontaminate import normal_form
from pipeline.stages.decontaminate_config import DecontaminateConfig
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.image_filters_config import FiltersConfig, ScoreFilter
from pipeline.stages.stage import Stage
from pipeline.steps.judges.decontaminate import decontaminate
from pipeline.steps.judges.image_dedup import image_dedup
from pipeline.steps.judges.image_dedup_config import ImageDedupConfig
from pipeline.steps.judges.image_filters import filters
from pipeline.steps.judges.judge_pairs import judge_pairs
from pipeline.steps.judges.same_pictures import list_pictures
from pipeline.steps.judges.survivors import Survivors
from pipeline.steps.step import Page, Run, step
from pipeline.storage.parquet import write_parquet
from pipeline.wit import build
from tests.pipeline.pages import run_page

LEDGER = LedgerConfig()
Row = dict[str, Any]


def row(number: int, **facts: Any) -> Row:
    """A fetched pair; the URL is its own unless `url` says otherwise."""
    url = facts.pop("url", number)
    url_id = hashlib.md5(f"url {url}".encode()).digest()
    base: Row = dict.fromkeys(FETCHED.names)
    base |= {
        "uid": hashlib.md5(f"pair {number}".encode()).digest(),
        "url_id": url_id,
        "url": f"http://a.b/{url}",
        "alt_text": "text",
        "text_source": "alt",
        "source": "file",
        "record": number,
        "link": 0,
        "caption": "a red fox in the snow",
        "lang": "en",
        "p_en": 0.9,
        "lang_by": "model",
        "query_ids": [1],
        "selected_by": [1],
        "order": int(keyed_hash(0, first_64_bits(url_id))[0]),
        "staging_shard": 0,
        "status": "success",
        "original_width": 400,
        "original_height": 300,
        "sha256": hashlib.sha256(str(facts.pop("file", f"own {url}")).encode()).hexdigest(),
        "phash": 0,
    }
    return base | facts


@dataclass(frozen=True, kw_only=True)
class Put(Task[Survivors]):
    """Rows as they are."""

    rows: tuple[Row, ...]

    def work(self, out: Survivors) -> Info:
        write_parquet(out.fetched.local, pa.Table.from_pylist(list(self.rows), schema=FETCHED), FETCHED)
        out.rejections.local.touch()
        return {"success": len(self.rows)}


@step("fetched", Put, title="put rows", per="staging shard")
def put(run: Run, rows: Sequence[Row], shards: int = 3) -> Iterator[Put]:
    """One task per range of `order`."""
    for shard in range(shards):
        mine = [r for r in rows if r["order"] * shards >> 64 == shard]
        mine.sort(key=lambda r: (r["order"], r["uid"]))
        yield Put(partition=f"{shard:05d}", rows=tuple(mine))


class Runner:
    """Runs pages one after the other over the same directory, and remembers what their tasks told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told: list[Mapping[str, Any]] = []
        self.reasons: dict[str, Mapping[str, str]] = {}

    def page(self) -> Page:
        return Page(self.root, seed=0, ledger=LEDGER)

    def __call__(self, page: Page) -> None:
        with open_engine(EngineConfig(kind="inline")) as engine:
            run_page(page, engine)
        self.told += [told for each in page.steps for told in each.data.said()]
        for each in page.steps:
            self.reasons |= each.stages

    def line(self, stage: str) -> Any:
        (line,) = [line for line in totals(self.told) if line.stage == stage]
        assert all(reason in self.reasons[stage] for reason in line.rejected)
        return line


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "run")


def rows_of(data: Data[Survivors]) -> list[Row]:
    return [r for file in data.files(lambda out: out.fetched) for r in pq.read_table(file.path).to_pylist()]


def rejections_of(data: Data[Survivors]) -> list[Row]:
    return [r for file in data.files(lambda out: out.rejections) for r in pq.read_table(file.path).to_pylist()]


# --- filters ---------------------------------------------------------------------------------------


def filtered(run: Runner, rows: Sequence[Row], config: FiltersConfig) -> tuple[set[int], dict[int, tuple[str, str]]]:
    page = run.page()
    arrived = page.add(put(rows))
    judged = page.add(judge_pairs(arrived, filters(page, config)))
    run(page)
    kept = {r["record"] for r in rows_of(judged)}
    return kept, {r["record"]: (r["reason"], r["detail"]) for r in rejections_of(judged)}


def test_filters_are_off_by_default(run: Runner) -> None:
    page = run.page()
    assert not filters(page, FiltersConfig())
    assert not page.steps


def test_datacomp_basic_judges_both_sides_of_each_limit(run: Runner) -> None:
    config = FiltersConfig(min_side=200, max_aspect_ratio=3, min_words=3, min_chars=6, languages=("en",))
    rows = [
        row(0, original_width=200, original_height=600),
        row(1, original_width=199, original_height=300),
        row(2, original_width=200, original_height=601),
        row(3, caption="two words"),
        row(4, caption="a b c"),
        row(5, caption="a b cd"),
        row(6, lang="de"),
        row(7, status="failed_to_download", original_width=None, original_height=None, sha256=None, phash=None),
    ]
    kept, gone = filtered(run, rows, config)
    assert kept == {0, 5}
    assert {k: v[0] for k, v in gone.items()} == {
        1: "too_small",
        2: "aspect_ratio",
        3: "too_few_words",
        4: "too_short",
        6: "other_language",
    }
    line = run.line("filters")
    assert (line.rows_in, line.kept) == (7, len(kept)), "a failed download is not of this stage"


def test_scores_arrive_by_uid_in_any_order_and_form(run: Runner, tmp_path: Path) -> None:
    rows = [row(i) for i in range(40)]
    score = {r["uid"]: r["record"] / 40 for r in rows if r["record"] % 10 != 9}
    items = sorted(score.items(), key=lambda item: item[0][::-1])
    first, second = items[:20], items[20:]
    pq.write_table(
        pa.table({"uid": pa.array([u for u, _ in first], pa.binary(16)), "s": [v for _, v in first]}),
        tmp_path / "a.parquet",
    )
    pq.write_table(
        pa.table({"uid": [u.hex() for u, _ in second], "s": pa.array([v for _, v in second], pa.float32())}),
        tmp_path / "b.parquet",
    )
    for missing in ("reject", "keep"):
        limits = ScoreFilter(files=(str(tmp_path / "*.parquet"),), column="s", min=0.25, max=0.7499999, missing=missing)
        for partitions in (1, 5):
            config = FiltersConfig(scores=(limits,), score_partitions=partitions)
            kept, gone = filtered(run, rows, config)
            known = {i for i in range(40) if i % 10 != 9 and 10 <= i < 30}
            assert kept == known | ({9, 19, 29, 39} if missing == "keep" else set())
            assert gone[0][0] == "low_score"
            assert gone[38][0] == "high_score"
            assert (9 in gone) == (missing == "reject")


def test_uids_that_share_their_first_half_are_told_apart(run: Runner, tmp_path: Path) -> None:
    rows = [row(i, uid=bytes(8) + bytes([0] * 7 + [i])) for i in range(6)]
    pq.write_table(
        pa.table({"uid": [r["uid"].hex() for r in rows], "label": [i % 2 == 0 for i in range(6)]}),
        tmp_path / "s.parquet",
    )
    config = FiltersConfig(scores=(ScoreFilter(files=(str(tmp_path / "s.parquet"),), column="label", max=0),))
    assert filtered(run, rows, config)[0] == {1, 3, 5}


def test_wrong_score_files_are_refused_before_work(tmp_path: Path, run: Runner) -> None:
    pq.write_table(pa.table({"uid": ["0" * 32], "name": ["x"]}), tmp_path / "s.parquet")

    def plan(path: str, column: str) -> None:
        score = ScoreFilter(files=(str(tmp_path / path),), column=column, min=0)
        page = run.page()
        filters(page, FiltersConfig(scores=(score,)))
        page.check()

    with pytest.raises(InputError, match="no such file"):
        plan("absent.parquet", "s")
    with pytest.raises(InputError, match="no column 's'"):
        plan("s.parquet", "s")
    with pytest.raises(InputError, match="not numbers"):
        plan("s.parquet", "name")
    (tmp_path / "noise.parquet").write_bytes(b"PAR1" * 9)
    with pytest.raises(InputError, match="not a Parquet file"):
        plan("noise.parquet", "s")
    with pytest.raises(ConfigError, match="give min, max or both"):
        from_mapping(FiltersConfig, {"scores": [{"files": ["x"], "column": "s"}]})


# --- evaluation sets -------------------------------------------------------------------------------


def photograph(seed: int, side: int = 300) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (6, 8, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, (side * 4 // 3, side), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int = 92) -> bytes:
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def facts(body: bytes, config: ImageConfig) -> Row:
    picture = check_image(body, config)
    assert isinstance(picture, Picture)
    return {"sha256": picture.sha256, "phash": picture.phash}


@pytest.fixture
def evaluated(run: Runner) -> Callable[..., dict[int, str]]:
    """Judge five pairs against the sets of a config: the reasons by record."""
    image = ImageConfig(image_size=128)
    same, again, other = photograph(1), photograph(2), photograph(3)
    bodies = {0: jpeg(same), 1: jpeg(again, 60), 2: jpeg(other)}
    rows = [row(i, **facts(body, image)) for i, body in bodies.items()]
    rows += [row(3, caption="A Photo of a RED-fox!", sha256="0" * 64), row(4, caption="a photo of many foxes")]

    def judge(**options: Any) -> dict[int, str]:
        page = run.page()
        arrived = page.add(put(rows))
        judged = page.add(judge_pairs(arrived, decontaminate(page, DecontaminateConfig(**options), image)))
        run(page)
        gone = {r["record"]: r["reason"] for r in rejections_of(judged)}
        assert {r["record"] for r in rows_of(judged)} == set(range(5)) - set(gone)
        return gone

    return judge


def add(tar: tarfile.TarFile, name: str, body: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(body)
    tar.addfile(member, io.BytesIO(body))


def test_evaluation_folder_finds_files_and_pictures_made_smaller(
    evaluated: Callable[..., dict[int, str]], tmp_path: Path
) -> None:
    folder = tmp_path / "eval" / "class"
    folder.mkdir(parents=True)
    (folder / "a.JPEG").write_bytes(jpeg(photograph(1)))
    (folder / "b.png").write_bytes(bytes(cv2.imencode(".png", cv2.resize(photograph(2), (160, 120)))[1]))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    assert evaluated(images=(str(tmp_path / "eval"),)) == {0: "evaluation_file", 1: "evaluation_picture"}
    assert evaluated(images=(str(tmp_path / "eval"),), max_distance=None) == {0: "evaluation_file"}


def test_evaluation_tars_with_pictures_and_captions(evaluated: Callable[..., dict[int, str]], tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    with tarfile.open(tmp_path / "test" / "0.tar", "w") as tar:
        add(tar, "s0.jpg", jpeg(photograph(1)))
        add(tar, "s0.txt", b"a photo of a red fox\nanother caption")
        add(tar, "s0.cls", b"3")
    found = {0: "evaluation_file"}
    assert evaluated(images=(str(tmp_path / "test"),)) == found
    assert evaluated(images=(str(tmp_path / "test" / "*.tar"),), tar_captions=True) == found | {3: "evaluation_caption"}


def test_lists_of_hashes_captions_and_prompts(evaluated: Callable[..., dict[int, str]], tmp_path: Path) -> None:
    known = facts(jpeg(photograph(2), 60), ImageConfig(image_size=128))
    near = known["phash"] ^ 0b101
    (tmp_path / "hashes").write_text(f"{'0' * 64}\n{near:016X}\n\n")
    assert evaluated(hashes=(str(tmp_path / "hashes"),)) == {1: "evaluation_picture", 3: "evaluation_file"}
    assert evaluated(hashes=(str(tmp_path / "hashes"),), max_distance=1) == {3: "evaluation_file"}
    (tmp_path / "names").write_text("red fox\nblue whale\n")
    (tmp_path / "templates").write_text("a photo of a {c}.\n")
    prompts = {"class_names": (str(tmp_path / "names"),), "templates": (str(tmp_path / "templates"),)}
    assert evaluated(**prompts) == {3: "evaluation_caption"}
    (tmp_path / "captions").write_text("a photo of many  Foxes\n...\n")
    assert evaluated(captions=(str(tmp_path / "captions"),)) == {4: "evaluation_caption"}
    assert normal_form("  ＲＥＤ－Fox, “Straße”_1 ") == "red fox strasse 1"


def test_wrong_evaluation_sources_are_refused(tmp_path: Path, run: Runner) -> None:
    image = ImageConfig()
    (tmp_path / "list").write_text("0123\n")
    (tmp_path / "empty").mkdir()

    def plan(**options: Any) -> Page:
        page = run.page()
        decontaminate(page, DecontaminateConfig(**options), image)
        page.check()
        return page

    with pytest.raises(InputError, match="no such file"):
        plan(images=(str(tmp_path / "absent"),))
    with pytest.raises(InputError, match="neither a folder nor"):
        plan(images=(str(tmp_path / "list"),))
    with pytest.raises(InputError, match="neither pictures nor tars"):
        plan(images=(str(tmp_path / "empty"),))
    with pytest.raises(InputError, match="line 1"):
        run(plan(hashes=(str(tmp_path / "list"),)))
    with pytest.raises(ConfigError, match="only together"):
        DecontaminateConfig(templates=("x",))


# --- stages of one's own ---------------------------------------------------------------------------


class OneHost(Stage):
    """Adds the host, and keeps the pairs of one."""

    name = "one_host"
    reasons = {"other_host": "the picture lies on another host"}  # noqa: RUF012 - as the documentation has it
    reads = ("url",)

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        hosts = [url.split("/")[2] for url in batch.column("url").to_pylist()]
        reasons = pa.array([None if host == "a.b" else "other_host" for host in hosts], pa.string())
        added = batch.append_column("host", pa.array(hosts, pa.string()))
        return reject(added, stage=self.name, reasons=reasons, details=pa.array(hosts, pa.string()))


def test_stages_judge_one_after_the_other_and_all_columns_are_there(run: Runner) -> None:
    seen: list[list[str]] = []

    class Look(Stage):
        name = "look"
        reasons: Mapping[str, str] = {}

        def judge(self, batch: pa.RecordBatch) -> Outcome:
            seen.append(batch.schema.names)
            return reject(batch, stage=self.name, reasons=pa.nulls(batch.num_rows, pa.string()))

    rows = [row(0), row(1) | {"url": "http://c.d/1"}, row(2, lang="de") | {"url": "http://c.d/2"}, row(3)]
    page = run.page()
    arrived = page.add(put(rows))
    stages = [*filters(page, FiltersConfig(languages=("en",))), OneHost(), Look()]
    judged = page.add(judge_pairs(arrived, stages))
    assert list(page["judge_pairs"].stages) == ["filters", "one_host", "look"]
    run(page)
    assert {r["record"] for r in rows_of(judged)} == {0, 3}
    told = {r["record"]: (r["stage"], r["reason"], r["detail"]) for r in rejections_of(judged)}
    assert told == {1: ("one_host", "other_host", "c.d"), 2: ("filters", "other_language", "de")}
    assert [line.rows_in for line in totals(run.told)] == [4, 3, 2]
    assert all(set(FETCHED.names) < set(names) for names in seen)


# --- image dedup -----------------------------------------------------------------------------------


def deduplicated(
    run: Runner, rows: Sequence[Row], config: ImageDedupConfig, shards: int = 3
) -> tuple[set[int], dict[int, tuple[str, str]]]:
    page = run.page()
    judged = image_dedup(page, page.add(put(rows, shards)), config)
    run(page)
    kept = {r["record"] for r in rows_of(judged)}
    gone = {r["record"]: (r["reason"], r["detail"]) for r in rejections_of(judged)}
    line = run.line("image_dedup")
    assert line.rows_in == len(kept) + len(gone)
    run.told.clear()
    return kept, gone


def naive(rows: Sequence[Row], config: ImageDedupConfig) -> set[int]:
    """Records that stay: equal files first, then equal hashes, then best first among those that look alike."""

    def rank(r: Row) -> Any:
        return -r["original_width"] * r["original_height"], r["order"], r["url_id"]

    pictures = sorted({r["url_id"]: r for r in rows}.values(), key=rank)
    files: set[str] = set()
    kept: list[Row] = []
    for r in pictures:
        if r["sha256"] in files:
            continue
        files.add(r["sha256"])
        limit = config.max_distance if config.mode == "near" else -1
        near = [k for k in kept if r["phash"] and k["phash"] and (r["phash"] ^ k["phash"]).bit_count() <= limit]
        if not any(look_the_same(r, k) for k in near):
            kept.append(r)
    urls = {r["url_id"] for r in kept}
    return {r["record"] for r in rows if r["url_id"] in urls}


def look_the_same(a: Row, b: Row) -> bool:
    if a["thumbnail"] is None or b["thumbnail"] is None:
        return True
    left, right = (np.frombuffer(r["thumbnail"], np.uint8)[None] for r in (a, b))
    return bool(look_alike(left, right)[0])


def gray_thumbnail(level: int) -> bytes:
    """Levels up to 22 apart look alike: in a row of them not every one looks like every other."""
    return bytes([level]) * 256 + bytes([128]) * 32


def many_rows(seed: int, *, thumbnails: bool = False) -> list[Row]:
    """Pictures in clusters of like hashes, some under several URLs, some with several captions, some flat."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(150):
        centre = int(draw.integers(20))
        phash = int(np.random.default_rng(centre).integers(1, 2**63))
        for bit in draw.choice(64, draw.integers(0, 5), replace=False):
            phash ^= 1 << int(bit)
        file = f"file {centre} {draw.integers(8)}"
        phash = int(hashlib.md5(file.encode()).hexdigest()[:8], 16) ^ phash if centre == 0 else phash
        if centre == 1:
            phash = 0
        side = 100 * int(draw.integers(1, 4))
        look = gray_thumbnail(100 + 9 * int(draw.integers(5))) if thumbnails and draw.random() < 0.8 else None
        about = {"file": file, "original_width": side, "phash": phash, "thumbnail": look}
        rows.append(row(number, url=int(draw.integers(110)), **about))
    first: dict[bytes, Row] = {}
    files: dict[str, tuple[int, bytes | None]] = {}
    for r in rows:  # a URL has one picture, a file one hash
        r |= {k: first.setdefault(r["url_id"], r)[k] for k in ("sha256", "phash", "original_width", "thumbnail")}
        r["phash"], r["thumbnail"] = files.setdefault(r["sha256"], (r["phash"], r["thumbnail"]))
    return rows


@pytest.mark.parametrize(("mode", "thumbnails"), [("same_file", False), ("near", False), ("near", True)])
def test_dedup_equals_the_naive_rule_at_any_cut(mode: Any, thumbnails: bool, run: Runner) -> None:
    for shards, partitions, ranges in [(1, 1, 1), (3, 4, 1), (5, 2, 7)]:
        rows = many_rows(9, thumbnails=thumbnails)
        config = ImageDedupConfig(mode=mode, partitions=partitions, ranges=ranges)
        kept, gone = deduplicated(run, rows, config, shards)
        assert kept == naive(rows, config)
        assert len(kept) < 130
        uids = {r["uid"].hex(): r["record"] for r in rows}
        for record, (reason, detail) in gone.items():
            assert uids[detail] != record
            assert mode == "near" or reason == "same_file"
            steps = 0
            while uids[detail] not in kept and steps < 3:  # who stays for it, or goes for another in turn
                detail, steps = gone[uids[detail]][1], steps + 1
            assert uids[detail] in kept


def test_largest_original_stays_and_a_picture_keeps_its_captions(run: Runner) -> None:
    rows = [
        row(0, url="small", file="f", original_width=100),
        row(1, url="large", file="f", original_width=900),
        row(2, url="large", file="f", original_width=900),
        row(3, url="like", file="g", original_width=500, phash=0b1111),
        row(4, url="alike", file="h", original_width=501, phash=0b1),
        row(5, url="flat", file="i", phash=0),
        row(6, url="flat too", file="j", phash=0),
    ]
    kept, gone = deduplicated(run, rows, ImageDedupConfig(mode="near", max_distance=3))
    assert kept == {1, 2, 4, 5, 6}
    assert gone[0] == ("same_file", min(r["uid"] for r in rows[1:3]).hex())
    assert gone[3] == ("same_picture", rows[4]["uid"].hex())


def test_pictures_of_one_hash_are_compared_by_their_thumbnails(run: Runner) -> None:
    looks = [gray_thumbnail(level) for level in (60, 80, 120, 140, 200)] + [None]
    rows = [row(i, file=f"{i}", original_width=900 - i, phash=77, thumbnail=look) for i, look in enumerate(looks)]
    rows.append(row(6, file="6", original_width=100, phash=77 ^ 0b11, thumbnail=gray_thumbnail(200)))
    kept, gone = deduplicated(run, rows, ImageDedupConfig(mode="near"))
    assert kept == {0, 2, 4}
    assert {record: detail for record, (_, detail) in gone.items()} == {
        1: rows[0]["uid"].hex(),
        3: rows[2]["uid"].hex(),
        5: rows[0]["uid"].hex(),  # it has no thumbnail: by its hash alone
        6: rows[4]["uid"].hex(),
    }


def test_what_goes_by_its_hash_alone_is_counted(run: Runner) -> None:
    looks = [None, None, gray_thumbnail(60), gray_thumbnail(60)]
    rows = [
        row(i, file=f"{i}", original_width=900 - i, phash=77 ^ (i % 2), thumbnail=look) for i, look in enumerate(looks)
    ]
    page = run.page()
    image_dedup(page, page.add(put(rows)), ImageDedupConfig(mode="near"))
    run(page)
    counts = [page[name].data.total("by_hash_alone") for name in ("same_pictures", "clusters")]
    assert sum(counts) == 3


def test_an_empty_set_is_fine(run: Runner) -> None:
    page = run.page()
    judged = image_dedup(page, page.add(put([])), ImageDedupConfig(mode="near"))
    run(page)
    assert rows_of(judged) == []


def test_all_is_off_by_default() -> None:
    agent = "openwit-test/0.1 (+https://example.org/contact)"
    page = build(WitConfig(sources=("a",), queries="q", output="o", fetch=FetchConfig(user_agent=agent)))
    off = {"scores", "evaluation", "judge_pairs", "pictures", "same_pictures", "image_dedup"}
    assert off.isdisjoint(each.name for each in page.steps)


def test_a_mode_has_the_steps_that_it_needs(run: Runner) -> None:
    def steps(mode: Any) -> list[str]:
        page = run.page()
        image_dedup(page, page.add(put([])), ImageDedupConfig(mode=mode))
        return [each.name for each in page.steps[1:]]

    assert steps("same_file") == ["pictures", "same_pictures", "image_dedup"]
    assert steps("near") == ["pictures", "same_pictures", "near_pictures", "clusters", "image_dedup"]


def test_tasks_change_their_keys_only_with_what_they_use(run: Runner) -> None:
    def keys(config: ImageDedupConfig) -> list[str]:
        return [task.key for task in list_pictures(arrived, config).cut(run.page().run)]

    arrived = Data("fetched", Survivors)
    arrived.directory = run.page().run.directory("fetched")
    outputs = {"00000.fetched.parquet": "hash", "00000.rejections.parquet": ""}
    arrived.finish([Done(partition="00000", key="", outputs=outputs)])
    one, two = ImageDedupConfig(mode="near"), ImageDedupConfig(mode="near", max_distance=6)
    assert keys(one) == keys(two)
    other = ImageDedupConfig(mode="same_file")
    assert keys(one) != keys(other)
