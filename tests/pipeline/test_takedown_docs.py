"""docs/takedown.md: its commands are run as they stand, and the fields of its table are those of a delta."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.commands import main
from tests.conftest import REPOSITORY
from tests.pipeline import small_set

PAGE = (REPOSITORY / "docs" / "takedown.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys")
def test_every_command_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    samples = small_set.make_set(tmp_path / "data" / "sample")
    shutil.copytree("data/sample/shards", "data/copy")
    Path("urls.txt").write_text(samples[0]["url"].replace("user@", ""))
    Path("hosts.txt").write_text("example.org\n")
    Path("uids.txt").write_text(samples[1]["uid"].hex())
    for line in COMMANDS:
        program, *words = shlex.split(line)
        if program == "openssl":
            subprocess.run([program, *words], check=True, capture_output=True, timeout=60)
            continue
        assert [program, *words[:2]] == ["python", "-m", "pipeline"], line
        if words[2] == "apply-delta":
            shutil.copy(
                max(Path("data/sample/removed").iterdir(), key=lambda path: path.stat().st_mtime_ns), "delta.json"
            )
        if "--work" in words or "--replace" in words:  # the small set was made without a run
            words = [word for word in words if word not in ("--work", "--replace")]
        assert main(words[2:]) == 0, line
    copied, ours = (sorted((tmp_path / of).glob("*.tar")) for of in ("data/copy", "data/sample/shards"))
    assert [path.read_bytes() for path in copied] == [path.read_bytes() for path in ours]


def test_fields_are_those_of_a_delta(tmp_path: Path) -> None:
    (tmp_path / "sha256.txt").write_text(small_set.make_set(tmp_path / "set")[0]["sha256"])
    assert main(["remove", str(tmp_path / "set"), "--sha256", str(tmp_path / "sha256.txt")]) == 0
    (file,) = (tmp_path / "set" / "removed").iterdir()
    table = PAGE.partition("| field | what it is |")[2]
    told = {name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}
    assert told == json.loads(file.read_text()).keys() | {"signature"}
