"""docs/domain.md: its commands take their options, its table names the roots of the config; and, slow, all of
it in small, over figures that the page makes and a WordNet of five nouns."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import load
from pipeline.config import WitConfig
from query_list.config import BuildConfig
from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.query_list.small_wiki import write_wordnet
from tests.training.tiny_shards import make_evaluation, make_shards
from training.config import TrainConfig
from training.evaluation.config import EvaluateOptions

PAGE = REPOSITORY / "docs/domain.md"


def commands() -> list[list[str]]:
    """The words of each command of the page, behind its program: `openwit`, or `python -m`."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^    torchrun .* -m (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(re.sub(r"^(openwit|python -m) ", "", line)) for line in lines]


def test_every_command_takes_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    seen = set()
    for module, verb, *words in commands():
        seen.add((module, verb))
        if module == "training" and verb == "run":
            load(TrainConfig, *_path_and_options(words))
        elif module in ("plan", "shards"):
            load(WitConfig, REPOSITORY / f"configs/shards/{verb}.yaml", words)
        elif module == "training":
            assert verb == "evaluate"
            models = words[: words.index("--sets")]
            sets = yaml.safe_load(words[words.index("--sets") + 1])
            EvaluateOptions(models=tuple(models), sets=tuple(sets))
    assert {("queries", "biomedical"), ("queries", "stats"), ("shards", "biomedical")} <= seen
    assert ("benchmarks.domain_figures", "data/figures") in seen


def _path_and_options(words: list[str]) -> tuple[str, list[str]]:
    return words[0], words[1:]


def test_the_table_has_the_roots_of_the_config() -> None:
    config = load(BuildConfig, REPOSITORY / "configs/queries/biomedical.yaml")
    assert config.wordnet is not None
    rows = re.findall(r"^\| `(\w[\w-]*\.n\.\d)`.*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(config.wordnet.roots)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_page_in_small(tmp_path: Path) -> None:
    """Its commands one after the other, with few figures, few samples, and a general model of two steps."""
    port = free_port()
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "my-terms.txt").write_text("micrograph\ngland\nvillus\n")
    words_of = tmp_path / "data/biomedical"
    (words_of / "dict").mkdir(parents=True)
    write_wordnet(words_of / "dict")
    (words_of / "terms.txt").write_text("western blot\n")
    make_shards(tmp_path / "data/sample", counts=(40, 40))
    make_evaluation(tmp_path / "data/sample_web/eval", per_class=1)
    few = [
        "--global_batch_size",
        "16",
        "--samples",
        "32",
        "--epochs",
        "null",
        "--threads",
        "1",
        "--data.num_workers",
        "0",
    ]
    environment = {
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    more = {
        "queries biomedical": ["--wordnet.roots", "[disease.n.1]"],
        "benchmarks.domain_figures": ["--figures", "80", "--port", str(port)],
        "shards": ["--texts.partitions", "1"],
        "training run": few,
    }

    def follow(*words: str) -> None:
        module = words[0] if words[0] in ("training", "benchmarks.domain_figures") else "openwit"
        extra = next((more[key] for key in more if " ".join(words).startswith(key)), [])
        rest = words[1:] if module == words[0] else words
        done = subprocess.run(
            [sys.executable, "-m", module, *rest, *extra],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"

    evaluated_nowhere = ["--evaluation.path", "null"]
    follow("training", "run", "configs/train/sample.yaml", *evaluated_nowhere)
    served = None
    try:
        for written in commands():
            words = [word.replace("8770", str(port)) for word in written]
            if words[0] == "http.server":
                page = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
                served = subprocess.Popen(
                    [*page, "--directory", "data/figures"], cwd=tmp_path, stderr=subprocess.DEVNULL
                )
            elif "biomedclip-vit-b-16" not in " ".join(words) and words[0] != "plan":
                follow(*words)
    finally:
        if served is not None:
            served.terminate()
            served.wait()
    found = pq.read_table(tmp_path / "data/domain-shift/results.parquet").to_pylist()
    models = {row["model"] for row in found if row["metric"] == "zeroshot_top1"}
    assert len(models) == 5
    assert pq.read_table(tmp_path / "data/queries/biomedical.parquet")["query"].to_pylist()[0] == "western blot"
