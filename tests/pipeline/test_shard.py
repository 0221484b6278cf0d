"""A sample's JSON in the tar: readers that infer types from the first samples must find them in all."""

from __future__ import annotations

import json

from pipeline.records.schema import SAMPLES
from pipeline.records.shard import json_of
from tests.pipeline.small_set import make_rows


def test_json_has_one_type_a_field_and_no_number_beyond_int64() -> None:
    rows = [{name: row.get(name) for name in SAMPLES.names} for row in make_rows(60) if row["status"] == "success"]
    rows[0] |= {"phash": 2**64 - 1, "order": 2**63, "license": None, "exif": None}
    rows[1] |= {"phash": 0, "order": 0, "license": "https://l.example/", "exif": "{}"}
    samples = [json.loads(json_of({**row, "key": "0", "shard": 0, "tar_offset": 512})) for row in rows]
    assert samples[0]["phash"] == "f" * 16
    assert samples[1]["order"] == "0" * 16
    for name in SAMPLES.names:
        values = [sample[name] for sample in samples]
        assert len({type(value) for value in values}) == 1, name
        assert values[0] is not None
        assert all(abs(value) < 2**63 for value in values if isinstance(value, int)), name
