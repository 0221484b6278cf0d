"""What the Tab key offers: the rule, and bash with the script."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openwit.command.completion import SHELLS, candidates
from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "links.parquet").write_text("")
    (tmp_path / "my data").mkdir()
    (tmp_path / ".hidden").mkdir()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sh"], ["shards"]),
        (["--v"], ["--version"]),
        (["nothing", ""], []),
        (["shards", "commonc"], ["commoncrawl"]),
        (["shards", "m"], ["mine.yaml", "my data/"]),
        (["shards", "l"], ["laion"]),
        (["train", "clip-vit-b-1"], ["clip-vit-b-16"]),
        (["queries", "wi"], ["wikipedia"]),
        (["queries", "sta"], ["stats"]),
        (["queries", "stats", "li"], ["links.parquet"]),
        (["shards", "--fe"], ["--fetch."]),
        (["shards", "--max_s"], ["--max_sources"]),
        (["shards", "sample", "--fetch.retr"], ["--fetch.retries"]),
        (["shards", "--ext"], ["--extend", "--extract."]),
        (["sql", "--allow"], ["--allow-files"]),
        (["train", "--data.augment.fl"], ["--data.augment.flip_probability"]),
        (["train", "--data.au"], ["--data.augment."]),
        (["shards", "--balance.mode", ""], ["quota", "coordinated", "metaclip", "none"]),
        (["shards", "--balance.mode=q"], ["--balance.mode=quota"]),
        (["shards", "--balance.mode", "=", "q"], ["quota"]),
        (["shards", "--balance.mode", "="], ["quota", "coordinated", "metaclip", "none"]),
        (["shards", "--fetch.http2", "t"], ["true"]),
        (["shards", "--fetch.retries", ""], []),
        (["shards", "--extract.text_sources", "al"], ["alt"]),
        (["shards", "--queries", "l"], ["links.parquet"]),
        (["shards", "--extend", "samp"], ["sample"]),
        (["shards", "--help", "dedu"], ["dedup"]),
        (["sql", "sample", "fun"], ["funnel"]),
        (["sql", "--format", "csv", "sample", "fun"], ["funnel"]),
        (["sql", "sample", "funnel", "--format", "p"], ["parquet"]),
        (["join", "set", "l"], ["links.parquet"]),
        (["subset", "m"], ["my data/"]),
        (["presets", ""], ["show"]),
        (["presets", "show", "lai"], ["laion"]),
        (["presets", "show", "queries", ""], ["biomedical", "experiment", "german", "pictures", "sample", "wikipedia"]),
        (["schema", "q"], ["queries"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["sample-web", "b"], ["build"]),
        (["report", "nowhere/x"], []),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_is_offered(words: list[str], offered: list[str]) -> None:
    assert candidates(words) == offered


def test_nothing_typed_offers_every_command() -> None:
    assert {"shards", "queries", "train", "init", "--help"} <= set(candidates([""]))
    assert candidates([]) == candidates([""])


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    program = tmp_path / "openwit"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{REPOSITORY}" exec "{sys.executable}" -m openwit "$@"\n')
    program.chmod(0o755)
    (tmp_path / "script").write_text(SHELLS["bash"])
    lines = [("pre",), ("presets", "show", "lai"), ("shards", "--balance.mode", "=", "q"), ("shards", "my"), ("zz",)]
    asked = "\n".join(
        f"COMP_WORDS=(openwit {' '.join(words)}); COMP_CWORD={len(words)}; _openwit; "
        'printf "%s|" "${COMPREPLY[@]}"; echo'
        for words in lines
    )
    done = subprocess.run(
        ["bash", "-c", f'compopt() {{ echo -n "$* "; }}; source script; {asked}'],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["presets|", "laion|", "quota|", "-o nospace my data/|", "|"]


def test_scripts_ask_the_program_and_end_whole() -> None:
    for script in SHELLS.values():
        assert "__complete" in script
        assert script.endswith("\n")
