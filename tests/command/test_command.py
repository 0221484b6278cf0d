"""`openwit` by itself: its table, its help, what it starts and what it does not load."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline.commands
import query_list.commands
from openwit.command import main
from openwit.command.table import COMMANDS, GROUPS, Command
from tests.conftest import REPOSITORY
from tests.test_start_up import FOR_HELP

_OF_THE_PIPELINE = [command for command in COMMANDS if command.room == "pipeline"]
_LOADED = """
import json, sys
from openwit.command import main
status = main(sys.argv[1:])
print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
sys.exit(status)
"""


def _loaded(*words: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_every_command_of_the_pipeline_is_there() -> None:
    assert {command.words[0] for command in _OF_THE_PIPELINE} == set(pipeline.commands._COMMANDS)
    assert {command.name for command in COMMANDS} >= {"queries", "train", "evaluate", "export", "init", "schema"}
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)
    assert {command.group for command in COMMANDS} == set(GROUPS)


@pytest.mark.parametrize("command", _OF_THE_PIPELINE, ids=lambda command: command.name)
def test_table_has_the_options_that_a_commands_help_names(command: Command) -> None:
    module, function = pipeline.commands._COMMANDS[command.words[0]].split(".")
    doc = inspect.getdoc(getattr(importlib.import_module(f"pipeline.commands.{module}"), function)) or ""
    usage = doc.partition("\n\n")[0]
    named = set(re.findall(r"--([a-z][a-z0-9_-]*)", usage)) - {"section"}
    assert {name.replace("_", "-") for name in command.options} == {name.replace("_", "-") for name in named}
    for name, choices in re.findall(r"--([a-z-]+) ([a-z]+(?:\|[a-z]+)+)", usage):
        assert command.options[name] == tuple(choices.split("|"))


def test_help_is_grouped_and_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for heading in GROUPS.values():
        assert f"\n{heading}\n" in told
    for command in COMMANDS:
        assert f"\n  {command.name} " in told
    assert max(map(len, told.splitlines())) <= 80
    assert main([]) == 2
    assert capsys.readouterr().out == told


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_help_of_every_command_fits_80_columns(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    told = capsys.readouterr().out
    assert told
    if command != "sample-web":
        assert told.startswith(f"openwit {command}")
    if command != "completion":  # has lines to copy
        assert max(map(len, told.splitlines())) <= 80


def test_wrong_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for word, told in (
        ("shard", "did you mean 'shards'?"),
        ("run", "here it is `openwit shards`"),
        ("xyz", "there are queries, shards, plan"),
    ):
        assert main([word]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: no command {word!r}; {told}")


@pytest.mark.parametrize("words", [["--help"], ["presets"], ["completion", "bash"], ["__complete", "sh"]])
def test_words_about_commands_load_no_config(words: list[str]) -> None:
    loaded = _loaded(*words)
    assert loaded & FOR_HELP == set()
    assert not {"query_list", "training"} & loaded
    if words != ["presets"] and words != ["completion", "bash"]:
        assert not {"pipeline", "yaml"} & loaded


@pytest.mark.parametrize(
    "words",
    [
        *(["shards", "--help"], ["shards", "--help", "fetch"], ["queries", "--help"], ["train", "--help"]),
        *(["schema", "train"], ["__complete", "shards", "--fetch."], ["init", "--help"]),
    ],
    ids=" ".join,
)
def test_words_about_configs_load_nothing_to_compute_with(words: list[str]) -> None:
    assert _loaded(*words) & FOR_HELP == set()


def test_commands_reach_their_rooms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("dog\ncat\n")
    assert main(["queries", "stats", "list.txt"]) == 0
    assert "2 queries" in capsys.readouterr().out
    for words, told in (
        (["queries", "smaple"], "smaple: no config here; did you mean the preset 'sample'?"),
        (["queries", "build", "smaple"], "smaple: no config here; did you mean the preset 'sample'?"),
        (["shards", "smaple"], "smaple: no config here; did you mean the preset 'sample'?"),
        (["train", "smaple"], "smaple: no config here; did you mean the preset 'sample'?"),
        (["export", "clip-vit-b-32"], "runs/clip-vit-b-32: no whole checkpoint there; train first, or set --output"),
        (["sql", "nodir", "funnel"], "nodir: no data set here; name a .yaml file, or a preset: align, biomedical, "),
        (["plan", "sample"], "data/sample_web: no sample web here yet; `openwit shards sample` makes it"),
    ):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {told}")
    assert not [path for path in tmp_path.iterdir() if path.name != "list.txt"]


def test_verbs_of_the_query_list_are_known_to_completion() -> None:
    from openwit.command.completion import _QUERY_NAMES, _VERBS
    from pipeline.catalog.catalog import NAMED_QUERIES

    assert query_list.commands.VERBS == _VERBS
    assert tuple(sorted(NAMED_QUERIES)) == tuple(sorted(_QUERY_NAMES))


def test_presets_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^  laion +LAION-400M, LAION-2B", told, re.MULTILINE)
    assert re.search(r"^  wikipedia +The published recipe", told, re.MULTILINE)
    for words, file in (
        (["laion"], "shards/from_laion.yaml"),
        (["sample"], "shards/sample.yaml"),
        (["train", "sample"], "train/sample.yaml"),
        (["wikipedia"], "queries/wikipedia.yaml"),
    ):
        assert main(["presets", "show", *words]) == 0
        assert capsys.readouterr().out == (REPOSITORY / "configs" / file).read_text()
    for words, told in (
        (["show", "laoin"], "no preset 'laoin'; did you mean 'laion'?"),
        (["show", "train", "laion"], "no preset 'laion'; there are align-l2"),
        (["show"], "expected nothing, or: presets show NAME"),
        (["laion"], "expected nothing, or: presets show NAME"),
    ):
        assert main(["presets", *words]) == 2
        assert capsys.readouterr().err.startswith(f"error: {told}")


def test_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, option in (("shards", "sources"), ("queries", "dump"), ("train", "model")):
        assert main(["schema", kind]) == 0
        assert option in json.loads(capsys.readouterr().out)["properties"]
    for words in ([], ["shard"], ["shards", "train"]):
        assert main(["schema", *words]) == 2
        assert "name one kind of config: shards, queries, train" in capsys.readouterr().err


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"openwit \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openwit", "presets", "show", "x"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no preset 'x'")
