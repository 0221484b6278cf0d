from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.load import ConfigError, load
from pipeline.errors import OutputError
from pipeline.sample_web import SampleWebConfig, build_sample_web, write
from pipeline.sample_web.__main__ import main
from pipeline.sample_web.build import is_built


def _contents(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def test_two_builds_are_equal_to_the_byte_whatever_the_parallelism(
    sample_web: Path, free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_INLINE_BODIES", 0)
    monkeypatch.setattr(write, "_BODIES_PER_TASK", 37)
    other = build_sample_web(SampleWebConfig(path=str(tmp_path / "other"), links=400, port=free_port))
    first, second = _contents(sample_web), _contents(other)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_another_seed_gives_another_web(sample_web: Path, free_port: int, tmp_path: Path) -> None:
    other = build_sample_web(SampleWebConfig(path=str(tmp_path / "o"), links=400, seed=1, port=free_port))
    assert (other / "truth.parquet").read_bytes() != (sample_web / "truth.parquet").read_bytes()


def test_equal_settings_do_nothing_and_others_rebuild(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []

    def write_little(directory: Path, **settings: int) -> None:
        written.append(settings)
        (directory / "file").write_text(json.dumps(settings))

    monkeypatch.setattr(write, "write_sample_web", write_little)
    words = ["build", "--path", str(tmp_path / "web"), "--links", "300"]
    assert main(words) == 0
    assert main(words) == 0
    assert len(written) == 1
    assert "already there" in capsys.readouterr().out.splitlines()[-1]
    (tmp_path / "web" / "left over").write_text("from the first build")
    assert main([*words, "--seed", "5"]) == 0
    assert [settings["seed"] for settings in written] == [0, 5]
    assert not (tmp_path / "web" / "left over").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["web"]


def test_a_failed_build_leaves_the_old_web_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_nothing(directory: Path, **settings: int) -> None: ...

    def run_out_of_space(directory: Path, **settings: int) -> None:
        (directory / "half").write_text("half")
        raise OSError(28, "No space left on device")

    path = str(tmp_path / "web")
    monkeypatch.setattr(write, "write_sample_web", write_nothing)
    build_sample_web(SampleWebConfig(path=path, links=300))
    monkeypatch.setattr(write, "write_sample_web", run_out_of_space)
    with pytest.raises(OutputError, match="No space left on device"):
        build_sample_web(SampleWebConfig(path=path, links=301))
    assert is_built(SampleWebConfig(path=path, links=300))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["web"]


def test_a_directory_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(OutputError, match="no sample web"):
        build_sample_web(SampleWebConfig(path=str(tmp_path)))
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(("option", "value"), [("links", "10"), ("port", "0"), ("port", "70000")])
def test_numbers_out_of_range_are_config_errors(option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=option):
        load(SampleWebConfig, None, [f"--{option}", value])


def test_mistakes_on_the_command_line_are_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bild"]) == 2
    assert main(["build", "--linx", "5"]) == 2
    problems = capsys.readouterr().err.splitlines()
    assert len(problems) == 2
    assert "links" in problems[1]
    assert main(["--help"]) == 0
    assert "--links" in capsys.readouterr().out
