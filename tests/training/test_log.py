"""What a training says of itself while it runs."""

from __future__ import annotations

import importlib
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError, from_mapping
from pipeline.terminal.console import PrintableConsole
from training.config import LogConfig
from training.errors import OutputError
from training.evaluation.metrics import Metric
from training.run.log import RunLog, training_line
from training.run.sinks import check_sinks, open_sinks

FACTS = {"loss": 3.1234, "gradient_norm": 1.0, "samples_per_s": 850.4, "data_wait_share": 0.031}


def test_eighty_columns_hold_all_but_what_matters_least() -> None:
    line = training_line(1_250_000, 12_800_000, FACTS, 80, elapsed_s=3723, left_s=13_000)
    assert line == "1,250,000/12,800,000  loss 3.123  850 samples/s  1:02:03  3:36:40 left"
    wide = training_line(1_250_000, 12_800_000, FACTS, 120, elapsed_s=3723, left_s=13_000)
    assert wide == (
        "training  1,250,000/12,800,000  9.8%  loss 3.123  850 samples/s  data wait 3.1%  1:02:03  3:36:40 left"
    )


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert len(training_line(10**10, 10**11, FACTS, width, elapsed_s=10**6, left_s=10**7)) <= width


def test_before_the_first_figures_nothing_is_made_up() -> None:
    assert training_line(0, 100, {}, 80, elapsed_s=1, left_s=None) == "training  0/100  0.0%  0:00:01"


def _log(tmp_path: Path, *, is_terminal: bool) -> tuple[RunLog, io.StringIO]:
    file = io.StringIO()
    console = PrintableConsole(file=file, force_terminal=is_terminal, width=80)
    config = LogConfig(tensorboard=False)
    return RunLog(tmp_path, config=config, resumed_at=0, total_samples=320, console=console), file


def test_without_a_terminal_lines_are_few_and_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, file = _log(tmp_path, is_terminal=False)
    with log:
        for seen in range(32, 321, 32):
            log.advance(seen)
            log.step(seen, FACTS)
    lines = file.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["32/320", "320/320"], "the first, and the last"
    assert "\x1b" not in file.getvalue()
    monkeypatch.setattr("pipeline.terminal.live_line._PLAIN_EVERY_S", 0.0)
    log, file = _log(tmp_path, is_terminal=False)
    with log:
        log.step(32, FACTS)
        log.step(64, FACTS)
    assert len(file.getvalue().splitlines()) == 2


def test_log_tells_the_time_that_is_left_once_it_can_be_told(tmp_path: Path) -> None:
    log, _ = _log(tmp_path, is_terminal=False)
    with log:
        log.step(32, FACTS)
        log.step(64, FACTS)
        log.step(320, FACTS)
    left = [json.loads(line)["left_s"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert left[0] is None
    assert left[1] >= 0
    assert left[2] == 0


def test_terminal_has_one_line_whose_last_figures_stay(tmp_path: Path) -> None:
    log, file = _log(tmp_path, is_terminal=True)
    with log:
        for seen in range(32, 321, 32):
            log.advance(seen)
            log.step(seen, FACTS)
    shown = [line for line in re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", file.getvalue()).splitlines() if line.strip()]
    assert shown[-1].startswith("320/320  loss 3.123  850 samples/s")


# --- sinks ------------------------------------------------------------------------------------------

_WANDB = """
runs = []

class Run:
    def __init__(self, **options):
        self.options, self.logged, self.finished = options, [], False
        runs.append(self)
    def log(self, facts, step):
        self.logged.append((step, facts))
    def finish(self):
        self.finished = True

def init(**options):
    if options["project"] == "broken":
        raise RuntimeError("no such host")
    return Run(**options)
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in for the package."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "wandb.py").write_text(_WANDB)
    monkeypatch.syspath_prepend(str(packages))
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    yield importlib.import_module("wandb")
    sys.modules.pop("wandb", None)


def test_figures_go_to_the_sinks_by_name_and_to_the_log_always(wandb: Any, tmp_path: Path) -> None:
    config = from_mapping(LogConfig, {"sinks": ["wandb"]})
    check_sinks(config)
    console = PrintableConsole(file=io.StringIO(), width=80)
    settings = {"seed": 0}
    with RunLog(
        tmp_path, config=config, resumed_at=0, total_samples=64, console=console, name="my-run", settings=settings
    ) as log:
        log.step(32, FACTS)
        log.metrics(64, [Metric(name="zeroshot_top1", value=0.5, chance=0.1)])
    (run,) = wandb.runs
    assert run.options["mode"] == "offline"
    assert (run.options["group"], run.options["config"], run.options["dir"]) == ("my-run", settings, str(tmp_path))
    assert run.logged == [
        (32, {f"train/{name}": value for name, value in FACTS.items()}),
        (64, {"evaluation/zeroshot_top1": 0.5}),
    ]
    assert run.finished
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "tensorboard").exists()


def test_what_wandb_does_is_the_users_to_say(wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with RunLog(tmp_path, config=LogConfig(sinks=("wandb",)), resumed_at=0, total_samples=64):
        pass
    assert (wandb.runs[0].options["mode"], wandb.runs[0].options["project"]) == ("online", "mine")
    monkeypatch.setenv("WANDB_PROJECT", "broken")
    with pytest.raises(OutputError, match=r"W&B does not begin \(no such host\); set WANDB_MODE=offline"):
        RunLog(tmp_path, config=LogConfig(sinks=("wandb",)), resumed_at=0, total_samples=64)


def test_missing_wandb_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()  # as it leaves one behind
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ConfigError, match=r"log\.sinks: the package wandb is missing; pip install wandb"):
        check_sinks(LogConfig(sinks=("wandb",)))
    check_sinks(LogConfig())


def test_configs_of_before_the_sinks_mean_what_they_meant() -> None:
    assert LogConfig().sinks == ("tensorboard",)
    assert open_sinks(Path("none"), LogConfig(tensorboard=False), resumed_at=0, name="", settings={}) == []
