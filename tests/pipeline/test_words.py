"""What a command line names: a config, a data set, a preset; and what it says where it is none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.load import ConfigError
from pipeline.commands import main
from pipeline.commands.words import Words
from pipeline.storage.output import open_output

_AGENT = "--fetch.user_agent=tests/1.0 (nobody@example.invalid)"


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    (error,) = capsys.readouterr().err.splitlines()
    return error.removeprefix("error: ")


def test_preset_stands_for_its_file() -> None:
    words = Words(["laion", "--sources", "a.parquet", "--max_sources=3"])
    config = words.config(*words.positional(1, "CONFIG.yaml"))
    assert config.sources == ("a.parquet",)
    assert config.max_sources == 3
    assert config.extract.url_columns == ("URL", "url")
    assert Words([]).config("from_laion") == Words([]).config("laion")


def test_file_that_ends_in_yaml_is_a_path_and_no_preset(tmp_path: Path) -> None:
    (tmp_path / "laion.yaml").write_text("sources: a\nqueries: b\noutput: mine\nfetch: {user_agent: a/1 (b@c.d)}\n")
    assert Words([]).config("laion.yaml").output == "mine"
    assert Words([]).config("laion").output == "data/laion"
    with pytest.raises(ConfigError, match="cannot read the config"):
        Words([]).config("sample.yaml")


def test_data_set_of_a_presets_name_is_the_data_set(tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()  # any directory of that name is not
    assert Words([]).output("sample") == Path("data/sample")
    with open_output(tmp_path / "sample"):
        pass
    assert Words([]).output("sample") == Path("sample")


@pytest.mark.parametrize("command", [["sql", "{}", "funnel"], ["verify", "{}"], ["report", "{}"], ["status", "{}"]])
def test_where_no_data_set_is_the_line_says_so(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def of(target: str) -> str:
        return _error(capsys, *(word.format(target) for word in command))

    what = "config" if command[0] == "status" else "data set"
    assert of("nodir").startswith(f"nodir: no {what} here; name a .yaml file, or a preset: align, biomedical, cc12m, ")
    assert of("smaple") == f"smaple: no {what} here; did you mean the preset 'sample'?"
    (tmp_path / "empty").mkdir()
    assert of("empty") == "empty: no data set here; name the `output` of a config"
    with open_output(tmp_path / "set"):
        (tmp_path / "set" / "shards").mkdir()
    assert of("set/shards") == "set/shards: inside a data set; did you mean set?"


@pytest.mark.parametrize("command", ["plan", "run"])
def test_output_inside_a_data_set_is_refused_before_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_output(tmp_path / "set"):
        pass
    for inside in ("set/shards", "set/a/b"):
        told = _error(capsys, command, "laion", _AGENT, "--output", inside)
        assert told == f"{inside}: inside a data set; did you mean set?"
        assert not (tmp_path / inside).exists()
    assert "no such source file" in _error(capsys, command, "laion", _AGENT, "--output", "set")
    monkeypatch.chdir("set")
    assert _error(capsys, command, "laion", _AGENT, "--output", "x") == "x: inside a data set; did you mean .?"
    told = _error(capsys, "subset", ".", "--where", "true", "--out", "part")
    assert told == "part: inside a data set; did you mean .?"


@pytest.mark.parametrize("agent", ["", "null"])
def test_empty_user_agent_is_refused_with_how_to_write_one(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = _error(capsys, "run", "laion", "--fetch.user_agent", agent)
    assert told.endswith(
        "fetch.user_agent: expected text, got nothing; "
        "write one like my-crawler/1.0 (+https://example.org/about-my-crawler)"
    )


def test_wrong_command_and_wrong_page_of_help_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert _error(capsys, "rum") == "no command 'rum'; did you mean 'run'?"
    assert _error(capsys, "run", "--help", "fetsh").endswith("did you mean 'fetch'?")


def test_help_of_a_command_has_the_page_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for words, there, not_there in (
        (["run", "--help"], "--balance.max_pairs_per_query", "--fetch.retries"),
        (["run", "laion", "--help", "fetch"], "--fetch.retries", "--balance.mode"),
        (["plan", "--help", "all"], "--engine.kind", "All options, by section"),
        (["sql", "--help"], "Views:", "--fetch.retries"),
        (["subset", "--help"], "--limit_per_query", "--fetch.retries"),
    ):
        assert main(words) == 0
        told = capsys.readouterr().out
        assert there in told
        assert not_there not in told
        assert max(map(len, told.splitlines())) <= 80
    assert main(["run", "--help"], called="openwit shards") == 0
    assert capsys.readouterr().out.startswith("openwit shards CONFIG.yaml")
