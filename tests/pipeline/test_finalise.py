"""The steps between fetching and the final balance, over files: filters and scores, evaluation sets, image dedup."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.load import ConfigError, from_mapping
from pipeline.checked import digest_of
from pipeline.engine import Done, EngineConfig, open_engine
from pipeline.errors import InputError
from pipeline.identity import first_64_bits, keyed_hash
from pipeline.ledger import LedgerConfig, totals
from pipeline.reasons import is_reason
from pipeline.schema import FETCHED
from pipeline.stages.check_image.check import check_image
from pipeline.stages.check_image.config import ImageConfig, Picture
from pipeline.stages.decontaminate import DecontaminateConfig, normal_form
from pipeline.stages.image_filters import FiltersConfig, ScoreFilter
from pipeline.steps import decontaminate, image_dedup, image_filters
from pipeline.steps.image_dedup import ImageDedupConfig
from pipeline.steps.step import Step
from pipeline.storage import write_parquet
from pipeline.thumbnail import look_alike

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


def staged(directory: Path, rows: Sequence[Row], shards: int = 3) -> tuple[list[Done], Path]:
    """The rows as FETCHED files, one per range of `order`, with their records."""
    directory.mkdir(parents=True, exist_ok=True)
    done = []
    for shard in range(shards):
        mine = [r for r in rows if r["order"] * shards >> 64 == shard]
        mine.sort(key=lambda r: (r["order"], r["uid"]))
        name = f"{shard:05d}.fetched.parquet"
        write_parquet(directory / name, pa.Table.from_pylist(mine, schema=FETCHED), FETCHED)
        digest = digest_of(directory / name)
        done.append(Done(partition=f"{shard:05d}", key="", outputs={name: digest}, info={"success": len(mine)}))
    return done, directory


class Runner:
    """Runs steps one after the other, each in its own directory, and remembers the records."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records: list[Done] = []

    def __call__(self, step: Step) -> tuple[list[Done], Path]:
        with open_engine(EngineConfig(kind="inline")) as engine:
            done = engine.run_step(self.root / step.name, step.tasks)
        self.records += done
        return done, self.root / step.name

    def line(self, stage: str) -> Any:
        (line,) = [line for line in totals(r.info for r in self.records) if line.stage == stage]
        assert all(is_reason(stage, reason) for reason in line.rejected)
        return line


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "work")


def rows_of(place: tuple[Sequence[Done], Path], kind: str = "fetched") -> list[Row]:
    return [r for done in place[0] for r in pq.read_table(done.path(place[1], kind)).to_pylist()]


# --- filters ---------------------------------------------------------------------------------------


def filtered(run: Runner, place: Any, config: FiltersConfig) -> tuple[set[int], dict[int, tuple[str, str]]]:
    scores = run(image_filters.plan_scores(config))
    judged = run(image_filters.plan(place, scores, config, LEDGER))
    kept = {r["record"] for r in rows_of(judged)}
    return kept, {r["record"]: (r["reason"], r["detail"]) for r in rows_of(judged, "rejections")}


def test_filters_are_off_by_default(run: Runner, tmp_path: Path) -> None:
    place = staged(tmp_path / "fetched", [row(1)])
    config = FiltersConfig()
    assert not run(image_filters.plan_scores(config))[0]
    assert not run(image_filters.plan(place, ([], tmp_path), config, LEDGER))[0]


def test_datacomp_basic_judges_both_sides_of_each_limit(run: Runner, tmp_path: Path) -> None:
    config = FiltersConfig(min_side=200, max_aspect_ratio=3, min_words=3, min_chars=6, languages=("en",))
    place = staged(
        tmp_path / "fetched",
        [
            row(0, original_width=200, original_height=600),
            row(1, original_width=199, original_height=300),
            row(2, original_width=200, original_height=601),
            row(3, caption="two words"),
            row(4, caption="a b c"),
            row(5, caption="a b cd"),
            row(6, lang="de"),
            row(7, status="failed_to_download", original_width=None, original_height=None, sha256=None, phash=None),
        ],
    )
    kept, gone = filtered(run, place, config)
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
    place = staged(tmp_path / "fetched", rows)
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
            kept, gone = filtered(run, place, config)
            known = {i for i in range(40) if i % 10 != 9 and 10 <= i < 30}
            assert kept == known | ({9, 19, 29, 39} if missing == "keep" else set())
            assert gone[0][0] == "low_score"
            assert gone[38][0] == "high_score"
            assert (9 in gone) == (missing == "reject")


def test_uids_that_share_their_first_half_are_told_apart(run: Runner, tmp_path: Path) -> None:
    rows = [row(i, uid=bytes(8) + bytes([0] * 7 + [i])) for i in range(6)]
    place = staged(tmp_path / "fetched", rows)
    pq.write_table(
        pa.table({"uid": [r["uid"].hex() for r in rows], "label": [i % 2 == 0 for i in range(6)]}),
        tmp_path / "s.parquet",
    )
    config = FiltersConfig(scores=(ScoreFilter(files=(str(tmp_path / "s.parquet"),), column="label", max=0),))
    assert filtered(run, place, config)[0] == {1, 3, 5}


def test_wrong_score_files_are_refused_before_work(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": ["0" * 32], "name": ["x"]}), tmp_path / "s.parquet")

    def plan(path: str, column: str) -> Step:
        score = ScoreFilter(files=(str(tmp_path / path),), column=column, min=0)
        return image_filters.plan_scores(FiltersConfig(scores=(score,)))

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
def evaluated(run: Runner, tmp_path: Path) -> Callable[..., dict[int, str]]:
    """Judge five pairs against the sets of a config: the reasons by record."""
    image = ImageConfig(image_size=128)
    same, again, other = photograph(1), photograph(2), photograph(3)
    bodies = {0: jpeg(same), 1: jpeg(again, 60), 2: jpeg(other)}
    rows = [row(i, **facts(body, image)) for i, body in bodies.items()]
    rows += [row(3, caption="A Photo of a RED-fox!", sha256="0" * 64), row(4, caption="a photo of many foxes")]
    place = staged(tmp_path / "fetched", rows)

    def judge(**options: Any) -> dict[int, str]:
        config = DecontaminateConfig(**options)
        evaluation = run(decontaminate.plan_evaluation(config, image))
        judged = run(decontaminate.plan(place, evaluation, config, LEDGER))
        gone = {r["record"]: r["reason"] for r in rows_of(judged, "rejections")}
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
    with pytest.raises(InputError, match="no such file"):
        decontaminate.plan_evaluation(DecontaminateConfig(images=(str(tmp_path / "absent"),)), image)
    with pytest.raises(InputError, match="neither a folder nor"):
        decontaminate.plan_evaluation(DecontaminateConfig(images=(str(tmp_path / "list"),)), image)
    with pytest.raises(InputError, match="neither pictures nor tars"):
        decontaminate.plan_evaluation(DecontaminateConfig(images=(str(tmp_path / "empty"),)), image)
    with pytest.raises(InputError, match="line 1"):
        run(decontaminate.plan_evaluation(DecontaminateConfig(hashes=(str(tmp_path / "list"),)), image))
    with pytest.raises(ConfigError, match="only together"):
        DecontaminateConfig(templates=("x",))


# --- image dedup -----------------------------------------------------------------------------------


def deduplicated(run: Runner, place: Any, config: ImageDedupConfig) -> tuple[set[int], dict[int, tuple[str, str]]]:
    pictures = run(image_dedup.plan_pictures(place, config))
    same = run(image_dedup.plan_same(pictures, config))
    near = run(image_dedup.plan_near(same, config))
    clusters = run(image_dedup.plan_clusters(near, same, config))
    judged = run(image_dedup.plan(place, same, clusters, config, LEDGER))
    kept = {r["record"] for r in rows_of(judged)}
    gone = {r["record"]: (r["reason"], r["detail"]) for r in rows_of(judged, "rejections")}
    if config.mode != "off":
        line = run.line("image_dedup")
        assert line.rows_in == len(kept) + len(gone)
        run.records.clear()
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
def test_dedup_equals_the_naive_rule_at_any_cut(mode: Any, thumbnails: bool, run: Runner, tmp_path: Path) -> None:
    for seed, (shards, partitions, ranges) in enumerate([(1, 1, 1), (3, 4, 1), (5, 2, 7)]):
        rows = many_rows(9, thumbnails=thumbnails)
        config = ImageDedupConfig(mode=mode, partitions=partitions, ranges=ranges)
        kept, gone = deduplicated(run, staged(tmp_path / str(seed), rows, shards), config)
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


def test_largest_original_stays_and_a_picture_keeps_its_captions(run: Runner, tmp_path: Path) -> None:
    rows = [
        row(0, url="small", file="f", original_width=100),
        row(1, url="large", file="f", original_width=900),
        row(2, url="large", file="f", original_width=900),
        row(3, url="like", file="g", original_width=500, phash=0b1111),
        row(4, url="alike", file="h", original_width=501, phash=0b1),
        row(5, url="flat", file="i", phash=0),
        row(6, url="flat too", file="j", phash=0),
    ]
    kept, gone = deduplicated(run, staged(tmp_path / "f", rows), ImageDedupConfig(mode="near", max_distance=3))
    assert kept == {1, 2, 4, 5, 6}
    assert gone[0] == ("same_file", min(r["uid"] for r in rows[1:3]).hex())
    assert gone[3] == ("same_picture", rows[4]["uid"].hex())


def test_pictures_of_one_hash_are_compared_by_their_thumbnails(run: Runner, tmp_path: Path) -> None:
    looks = [gray_thumbnail(level) for level in (60, 80, 120, 140, 200)] + [None]
    rows = [row(i, file=f"{i}", original_width=900 - i, phash=77, thumbnail=look) for i, look in enumerate(looks)]
    rows.append(row(6, file="6", original_width=100, phash=77 ^ 0b11, thumbnail=gray_thumbnail(200)))
    place = staged(tmp_path / "f", rows)
    kept, gone = deduplicated(run, place, ImageDedupConfig(mode="near"))
    assert kept == {0, 2, 4}
    assert {record: detail for record, (_, detail) in gone.items()} == {
        1: rows[0]["uid"].hex(),
        3: rows[2]["uid"].hex(),
        5: rows[0]["uid"].hex(),  # it has no thumbnail: by its hash alone
        6: rows[4]["uid"].hex(),
    }


def test_what_goes_by_its_hash_alone_is_counted(run: Runner, tmp_path: Path) -> None:
    looks = [None, None, gray_thumbnail(60), gray_thumbnail(60)]
    rows = [
        row(i, file=f"{i}", original_width=900 - i, phash=77 ^ (i % 2), thumbnail=look) for i, look in enumerate(looks)
    ]
    config = ImageDedupConfig(mode="near")
    same = run(image_dedup.plan_same(run(image_dedup.plan_pictures(staged(tmp_path / "f", rows), config)), config))
    clusters = run(image_dedup.plan_clusters(run(image_dedup.plan_near(same, config)), same, config))
    counts = [record.info["by_hash_alone"] for place in (same, clusters) for record in place[0]]
    assert sum(counts) == 3


def test_off_and_an_empty_set_are_fine(run: Runner, tmp_path: Path) -> None:
    place = staged(tmp_path / "f", [row(0)])
    assert deduplicated(run, place, ImageDedupConfig()) == (set(), {})
    assert not run.records
    nothing = staged(tmp_path / "g", [])
    config = ImageDedupConfig(mode="near")
    same = run(image_dedup.plan_same(run(image_dedup.plan_pictures(nothing, config)), config))
    near = run(image_dedup.plan_near(same, config))
    clusters = run(image_dedup.plan_clusters(near, same, config))
    assert rows_of(run(image_dedup.plan(nothing, same, clusters, config, LEDGER))) == []


def test_tasks_change_their_keys_only_with_what_they_use() -> None:
    def keys(step: Step) -> list[str]:
        return [task.key for task in step.tasks]

    done = [Done(partition="00000", key="", outputs={"00000.fetched.parquet": "hash"}, info={})]
    place = (done, Path())
    one, two = ImageDedupConfig(mode="near"), ImageDedupConfig(mode="near", max_distance=6)
    assert keys(image_dedup.plan_pictures(place, one)) == keys(image_dedup.plan_pictures(place, two))
    other = ImageDedupConfig(mode="same_file")
    assert keys(image_dedup.plan_pictures(place, one)) != keys(image_dedup.plan_pictures(place, other))
