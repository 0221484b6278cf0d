"""Facts about pictures are kept for good: what earlier versions wrote stays readable."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline.checked import Vouched, digest_of
from pipeline.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.fetch.config import FetchConfig
from pipeline.steps.facts import STORED, read_facts, settings_of
from pipeline.storage import write_parquet


def test_facts_without_a_thumbnail_have_none(tmp_path: Path) -> None:
    earlier = pa.schema([field for field in FACTS if field.name != "thumbnail"])
    row = {**dict.fromkeys(earlier.names), "url_id": bytes(16), "status": "success", "phash": 5}
    path = tmp_path / "00000-abc.facts.parquet"
    write_parquet(path, pa.Table.from_pylist([row], schema=earlier), earlier)
    table = read_facts(Vouched(str(path), digest_of(path)), (0, 2**64 - 1))
    assert table.schema == STORED
    (found,) = table.to_pylist()
    assert found == {**row, "thumbnail": None, "staging_tar": "00000-abc.tar"}


def test_facts_of_before_noml_was_a_directive_hold() -> None:
    def settings(*directives: str) -> str:
        config = FetchConfig(user_agent="test/1 (+http://test.example)", respect_x_robots_tag=directives)
        return settings_of(config, ImageConfig())

    before = settings("noai", "noimageai", "noindex", "noimageindex", "none", "unavailable_after")
    assert settings_of(FetchConfig(user_agent="test/1 (+http://test.example)"), ImageConfig()) == before
    assert settings("noai") != before
    assert settings("noai", "noml") == settings("noai")
