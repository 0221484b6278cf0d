"""What needs no model waits for no heavy library."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

HEAVY = ("torch", "open_clip", "ray", "numpy", "pyarrow", "cv2")
_CODE = f"""
import runpy, sys
sys.argv[0] = "training"
try:
    runpy.run_module("training", run_name="__main__")
finally:
    print("loaded", *[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""


def start(*words: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """`python -m training WORDS`, and which of HEAVY it had loaded at its end."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *words], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    return done, done.stderr.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        *(([*words, "--help"], "optimiser.learning_rate") for words in ([], ["run"], ["plan"])),
        (["export", "--help"], "push"),
    ],
)
def test_help_loads_no_heavy_library(words: list[str], option: str) -> None:
    done, loaded = start(*words)
    assert done.returncode == 0
    assert f"--{option}" in done.stdout
    assert loaded == []


@pytest.mark.parametrize(("command", "option"), [("evaluate", "--sets"), ("evaluation-set", "--examples_per_tar")])
def test_help_of_what_uses_a_model_loads_no_heavy_library(command: str, option: str) -> None:
    done, loaded = start(command, "--help", "all")
    assert done.returncode == 0
    assert option in done.stdout
    assert loaded == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "no-such.yaml"], "no-such.yaml"),
        (["run", "configs/train/sample.yaml", "--optimiser.learning_rat", "1"], "optimiser.learning_rate"),
        (
            ["run", "configs/train/sample.yaml", "--global_batch_size", "1"],
            "global_batch_size must lie in [2, 100000000]",
        ),
        (["evaluate", "configs/train/sample.yaml", "--device", "gpu"], "device"),
        (["evaluate", "runs/sample", "--sets", "[]"], "sets is empty"),
        (["evaluate", "runs/sample", "--sets", "[a]", "--bach_size", "1"], "did you mean 'batch_size'"),
        (["evaluation-set", "somewhere"], "to"),
        (["learn", "configs/train/sample.yaml"], "unknown command 'learn'"),
    ],
)
def test_a_mistake_in_a_config_is_told_before_a_heavy_library_is_loaded(words: list[str], told: str) -> None:
    done, loaded = start(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert loaded == []


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_missing_checkpoint_is_told_before_torch_is_loaded(command: str) -> None:
    done, loaded = start(command, "configs/train/sample.yaml", "--output", "no-such-run")
    assert done.returncode == 2
    assert "no whole checkpoint there" in done.stderr
    assert not {"torch", "open_clip", "ray"} & set(loaded)
