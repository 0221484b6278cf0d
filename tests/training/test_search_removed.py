"""An index that was made before a removal leaves out what was removed, and finds the others where they are now."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline.commands import main
from tests.pipeline.small_set import make_set
from training.embedding.shard_parts import shard_parts
from training.search.index_files import ROWS, IndexFacts
from training.search.originals import originals_of
from training.search.where import rows_there


def _facts(source: Path) -> tuple[IndexFacts, list[dict[str, object]]]:
    """An index over every sample of the set, as far as originals are concerned."""
    _, parts = shard_parts(source)
    rows = [
        {"uid": uid, "name": name, "part": number, "row": row}
        for number, part in enumerate(parts)
        for row, (uid, name) in enumerate(zip(part.rows().uids, part.rows().names, strict=True))
    ]
    about = {"features": "f", "content": "c", "of": "image", "model": "m", "model_fingerprint": "m", "model_name": "m"}
    facts = IndexFacts(
        **about,  # type: ignore[arg-type]  # texts
        rows=len(rows),
        width=2,
        source=str(source),
        kind="set",
        parts=tuple(part.name for part in parts),
        neighbours=1,
        effort=1,
        files={},
        num_bytes={},
    )
    return facts, rows


def test_removed_samples_are_not_found_and_the_others_have_their_captions(tmp_path: Path) -> None:
    samples = make_set(tmp_path / "set", 60)
    facts, rows = _facts(tmp_path / "set")
    table = pa.Table.from_pylist(rows, schema=ROWS)
    assert rows_there(tmp_path / "set", table) is None
    gone = [0, 7]
    (tmp_path / "uids.txt").write_text("\n".join(samples[place]["uid"].hex() for place in gone))
    assert main(["remove", str(tmp_path / "set"), "--uids", str(tmp_path / "uids.txt")]) == 0
    there = rows_there(tmp_path / "set", table)
    assert there is not None
    assert there.tolist() == [place for place in range(len(rows)) if place not in gone]
    places = [(row["uid"], row["part"], row["row"]) for row in table.take(there).to_pylist()]
    found, problem = originals_of(facts, str(tmp_path / "set"), places, pictures=True)
    assert problem is None
    assert [original.text for original in found] == [samples[place]["caption"] for place in there]
    assert all(original.picture for original in found)
    asked = [(rows[0]["uid"], 0, 0)]
    (lost,), problem = originals_of(facts, str(tmp_path / "set"), asked, pictures=True)  # type: ignore[arg-type]  # a uid
    assert (lost.text, lost.picture) == (None, None)
    assert problem is not None
