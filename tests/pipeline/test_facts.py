"""Facts about pictures are kept for good: what earlier versions wrote stays readable."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.consent.config import ConsentConfig
from pipeline.engine import Data, Done, EngineConfig, open_engine
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.privacy.config import PrivacyConfig
from pipeline.steps.fetch.facts import STORED, FactStore, earlier_settings, read_facts, settings_of
from pipeline.steps.fetch.requests import ListRequests, list_requests
from pipeline.steps.schedule import Selected
from pipeline.steps.step import Run
from pipeline.storage.atomic import sha256_of
from pipeline.storage.checked import digest_of
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet

CONFIG = FetchConfig(user_agent="test/1 (+http://test.example)")
SETTINGS = "76b803a8b67605176a82c101d9338b43"
"""Of CONFIG and the default image check, as records have it that are there already."""
NAME = "00000-0bc3c204b439"
STANDARD = ConsentConfig()


def test_facts_without_a_thumbnail_have_none(tmp_path: Path) -> None:
    earlier = pa.schema([field for field in FACTS if field.name != "thumbnail"])
    row = {**dict.fromkeys(earlier.names), "url_id": bytes(16), "status": "success", "phash": 5}
    path = tmp_path / "00000-abc.facts.parquet"
    write_parquet(path, pa.Table.from_pylist([row], schema=earlier), earlier)
    table = read_facts(Location(str(path), digest_of(path)), (0, 2**64 - 1))
    assert table.schema == STORED
    (found,) = table.to_pylist()
    assert found == {**row, "thumbnail": None, "staging_tar": "00000-abc.tar"}


def test_facts_of_before_consent_was_no_part_of_the_settings_hold() -> None:
    before = settings_of(CONFIG, ImageConfig())
    assert before == SETTINGS
    known = earlier_settings(CONFIG, ImageConfig(), ConsentConfig(x_robots_directives=("noai", "noml")))
    for directives in (("noai",), ()):  # as an earlier version could be told
        for reserves in (True, False):
            options = {"respect_x_robots_tag": directives, "respect_tdm_reservation": reserves}
            assert settings_of(CONFIG, ImageConfig(), options) in known - {before}
    assert before in known


# --- a store of an earlier version ----------------------------------------------------------------


def store_of_earlier(output: Path) -> Path:
    """Facts about the URLs 0 and 1, as a version wrote them whose records had SHA-256 and no check of their own."""
    store = output / "work/fetch"
    (store / "done").mkdir(parents=True)
    earlier = pa.schema([field for field in FACTS if field.name not in ("thumbnail", "stored_xxh3", "statements")])
    picture = {"url_id": (0).to_bytes(16, "big"), "status": "success", "tar_offset": 512, "num_bytes": 9}
    failure = {"url_id": (1).to_bytes(16, "big"), "status": "failed_to_download", "stage": "fetch"}
    rows = [dict.fromkeys(earlier.names) | row for row in (picture, failure | {"reason": "http_404"})]
    write_parquet(store / f"{NAME}.facts.parquet", pa.Table.from_pylist(rows, schema=earlier), earlier)
    (store / f"{NAME}.tar").write_bytes(bytes(1024))
    outputs = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in (store / f"{NAME}.facts.parquet", store / f"{NAME}.tar")
    }
    info = {"first": 0, "last": 2**63 - 1, "rows": 2, "seed": 0, "settings": SETTINGS, "success": 1}
    record = {"info": info, "key": "0bc3c204b43924b934e996fd74d4e2df", "outputs": outputs, "partition": NAME}
    (store / f"done/{NAME}.json").write_text(json.dumps(record, indent=1))
    return store


def planned_of(output: Path, count: int) -> Data[Selected]:
    """A plan of one staging shard with the URLs from 0 on."""
    planned = Data("schedule", Selected)
    planned.directory = output / "work/schedule"
    planned.directory.mkdir(parents=True, exist_ok=True)
    path = planned.directory / "00000.selected.parquet"
    rows = [{"url_id": i.to_bytes(16, "big"), "url": f"http://a.example/{i}"} for i in range(count)]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([("url_id", pa.binary(16)), ("url", pa.string())])), path)
    info = {"first": 0, "last": 2**64 - 1}
    planned.finish([Done(partition="00000", key="", outputs={path.name: digest_of(path)}, info=info)])
    return planned


def task_of(
    output: Path,
    planned: Data[Selected],
    config: FetchConfig = CONFIG,
    seed: int = 0,
    consent: ConsentConfig = STANDARD,
) -> ListRequests:
    run = Run(output=output, seed=seed, ledger=LedgerConfig())
    (task,) = list_requests(planned, None, config, consent, ImageConfig(), PrivacyConfig()).cut(run)
    assert isinstance(task, ListRequests)
    return task


def split(output: Path, task: ListRequests) -> tuple[list[dict[str, Any]], list[str]]:
    """What is known, and the paths of the URLs that are missing."""
    with open_engine(EngineConfig(kind="inline")) as engine:
        engine.run_step(output / "work/requests", [task])
    missing = pq.read_table(output / "work/requests/00000.missing.parquet")["url"].to_pylist()
    return pq.read_table(output / "work/requests/00000.known.parquet").to_pylist(), [url[-1] for url in missing]


def test_what_an_earlier_version_asked_for_is_not_asked_again(tmp_path: Path) -> None:
    store = store_of_earlier(tmp_path)
    (file,) = FactStore.of(store).files
    assert (file.settings, file.retry, len(file.file.digest)) == (settings_of(CONFIG, ImageConfig()), 0, 64)
    for seed in (0, 7):  # another order of the same pictures
        known, missing = split(tmp_path, task_of(tmp_path, planned_of(tmp_path, 3), seed=seed))
        assert [row["facts"] for row in known] == [f"{NAME}.facts.parquet"] * 2
        assert missing == ["2"]
    facts = read_facts(file.file, (0, 2**64 - 1)).to_pylist()
    assert [row["staging_tar"] for row in facts] == [f"{NAME}.tar", None]


def test_other_settings_know_nothing_and_speed_is_none_of_them(tmp_path: Path) -> None:
    store_of_earlier(tmp_path)
    planned = planned_of(tmp_path, 3)
    task = task_of(tmp_path, planned)
    faster = task_of(tmp_path, planned, dataclasses.replace(CONFIG, concurrency=7, shard_deadline_s=1.0))
    assert (faster.key, faster.files) == (task.key, task.files)
    assert len(task.files) == 1
    other = task_of(tmp_path, planned, dataclasses.replace(CONFIG, max_redirects=1))
    assert other.key != task.key
    assert other.files == ()


def test_a_block_list_judges_known_answers_again_and_asks_nothing(tmp_path: Path) -> None:
    store_of_earlier(tmp_path)
    planned = planned_of(tmp_path, 2)
    entries = tmp_path / "entries.txt"
    entries.write_text("http://a.example/0\n")
    task = task_of(tmp_path, planned, dataclasses.replace(CONFIG, block_files=(str(entries),)))
    assert task.key != task_of(tmp_path, planned).key
    assert task.key == task_of(tmp_path, planned, dataclasses.replace(CONFIG, block=("http://a.example/0",))).key
    known, missing = split(tmp_path, task)
    assert [row["detail"] for row in known] == ["URL http://a.example/0", None]
    assert missing == []
    entries.write_text("# nothing\n")
    assert task_of(tmp_path, planned, dataclasses.replace(CONFIG, block_files=(str(entries),))).key != task.key


def test_a_split_is_made_once_unless_what_it_relies_on_is_gone(tmp_path: Path) -> None:
    planned = planned_of(tmp_path, 2)
    before = task_of(tmp_path, planned)
    assert split(tmp_path, before) == ([], ["0", "1"])
    store = store_of_earlier(tmp_path)
    assert task_of(tmp_path, planned).key == before.key, "the answers to these very requests"
    (tmp_path / "work/requests/done/00000.json").unlink()
    relying = task_of(tmp_path, planned)
    assert split(tmp_path, relying)[1] == []
    assert task_of(tmp_path, planned).key == relying.key
    (store / f"{NAME}.tar").unlink()
    gone = task_of(tmp_path, planned)
    assert gone.key != relying.key
    assert split(tmp_path, gone) == ([], ["0", "1"])
