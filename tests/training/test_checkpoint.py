"""Checkpoints beside damaged ones, and a disk that fills."""

from __future__ import annotations

from pathlib import Path

from training.checkpoints.layout import Progress, commit, find_last


def _commit(directory: Path, samples: int, *, keep: int) -> Path:
    temporary = directory / f"{samples}.tmp"
    temporary.mkdir()
    (temporary / "model.safetensors").write_bytes(b"weights")
    final = directory / f"{samples:012d}"
    commit(temporary, final, Progress(samples_seen=samples), keep=keep)
    return final


def test_a_damaged_later_checkpoint_does_not_push_out_a_new_one(tmp_path: Path) -> None:
    damaged = _commit(tmp_path, 200, keep=1)
    (damaged / "model.safetensors").write_bytes(b"weight")
    new = _commit(tmp_path, 50, keep=1)
    found, problems = find_last(tmp_path)
    assert found == new
    assert len(problems) == 1
    assert problems[0].startswith(str(damaged))
    newer = _commit(tmp_path, 100, keep=1)
    assert find_last(tmp_path)[0] == newer
    assert not new.exists()
