"""An experiment: its configs, what a few seeds say, its page; and, slowly, one from end to end."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import ConfigError, from_mapping, load
from pipeline.config import WitConfig
from pipeline.sample_web import SampleWebConfig, build_sample_web
from query_list.commands import main as query_list
from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.training.conftest import tiny_run
from training.__main__ import main
from training.errors import DataError
from training.experiment.arms import data_arm, set_directory, set_options, train_config
from training.experiment.config import ExperimentConfig
from training.experiment.one_run import READ_OUT
from training.experiment.one_run import main as one_run
from training.experiment.page import page_of, paragraphs, power_of
from training.experiment.results import Results, compared
from training.experiment.statistics import compute_saved, over_seeds, over_seeds_and_classes, seeds_needed

ARMS: dict[str, Any] = {
    "matched": {"shards": {"balance": {"mode": "none"}}},
    "quota": {"says": "at most t pairs a query"},
    "uniform": {"same_size_as": "quota"},
    "concept": {"data_of": "matched", "train": {"data": {"sampling": "concept"}}},
}


def config_of(tmp_path: Path, **options: Any) -> ExperimentConfig:
    shards = {"sources": ["a.parquet"], "queries": "q.txt", "fetch": {"user_agent": "me"}, "balance": {"seed": 1}}
    shards["balance"] = {"max_pairs_per_query": 20}
    (tmp_path / "shards.yaml").write_text(yaml.safe_dump(shards))
    train = {"output": "x", "samples": 64, "data": {"path": "x", "num_workers": 0}, "model": {"name": "ViT-B-32"}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train))
    given = {
        "output": str(tmp_path / "out"),
        "shards": str(tmp_path / "shards.yaml"),
        "train": str(tmp_path / "train.yaml"),
        "arms": ARMS,
        "baseline": "matched",
    }
    return from_mapping(ExperimentConfig, given | options)


def publish(directory: Path, *, samples: int, planned: int, fingerprint: str = "f") -> None:
    (directory / "shards").mkdir(parents=True, exist_ok=True)
    manifest = {"fingerprint": fingerprint, "shards": [{"samples": samples}]}
    (directory / "shards" / "manifest.json").write_text(json.dumps(manifest))
    ledger = {"lines": [{"stage": "fetch", "unit": "pair", "rows_in": planned}]}
    (directory / "ledger.json").write_text(json.dumps(ledger))


# --- configs -------------------------------------------------------------------------------------


def test_arms_differ_in_what_they_say_and_share_their_pictures(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    publish(tmp_path / "out/sets/quota", samples=90, planned=100)
    matched, quota, uniform = (set_options(config, name) for name in ("matched", "quota", "uniform"))
    assert matched["balance"] == {"max_pairs_per_query": 20, "mode": "none"}
    assert quota["balance"] == {"max_pairs_per_query": 20}
    assert uniform["balance"] == {
        "max_pairs_per_query": 20,
        "mode": "none",
        "baseline_pairs": 90,
        "expected_yield": 0.873,
    }
    assert {options["fetch"]["store"] for options in (matched, quota, uniform)} == {str(tmp_path / "out/pictures")}
    assert len({options["output"] for options in (matched, quota, uniform)}) == 3


def test_a_training_is_found_again_until_its_data_or_options_change(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    publish(tmp_path / "out/sets/matched", samples=90, planned=100)
    first = train_config(config, "concept", 3)
    assert first.seed == 3
    assert first.data.path == str(tmp_path / "out/sets/matched")
    assert first.data.sampling == "concept"
    assert train_config(config, "concept", 3) == first
    others = [train_config(config, "matched", 3), train_config(config, "concept", 4)]
    publish(tmp_path / "out/sets/matched", samples=90, planned=100, fingerprint="g")
    others.append(train_config(config, "concept", 3))
    assert len({run.output for run in (first, *others)}) == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"baseline": "none"}, "baseline: there is no arm 'none'; there are matched, quota"),
        ({"arms": {}}, "arms: name at least one"),
        ({"arms": {"matched": {"data_of": "quotas"}}}, "arms.matched: there is no arm 'quotas'"),
        ({"arms": {**ARMS, "x": {"data_of": "uniform"}}}, "arms.x: uniform takes its data from a third; name that one"),
        ({"arms": {"matched": {"train": {"seed": 1}}}}, "arms.matched.train: seed is set by the experiment"),
        ({"arms": {"matched": {}, "a/b": {}}}, "'a/b' becomes a directory"),
        ({"arms": {"matched": {"shard": {}}}}, "unknown key 'arms.matched.shard'; did you mean 'arms.matched.shards'"),
        ({"arms": {"matched": {"data_of": "matched", "shards": {"seed": 1}}}}, "leave out shards and same_size_as"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"results": "a/b"}, "results: 'a/b' becomes a file's name"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(tmp_path, **options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_shipped_experiment_can_be_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    for file in sorted((REPOSITORY / "configs/experiment").glob("*.yaml")):
        config = replace(load(ExperimentConfig, file), output=str(tmp_path / file.stem))
        options = {}
        for name in sorted(config.arms, key=lambda name: config.arms[name].same_size_as is not None):
            if data_arm(config, name) == name:
                options[name] = set_options(config, name)
                from_mapping(WitConfig, options[name], where=name)
                publish(set_directory(config, name), samples=90, planned=100, fingerprint=name)
        trainings = {name: train_config(config, name, 0) for name in config.arms}
        assert len({run.output for run in trainings.values()}) == len(config.arms)
        differing = {json.dumps({**options[name], "output": "", "fetch": {}}, sort_keys=True) for name in options}
        assert len(differing) == len(options), f"{file.name}: two arms make the same set; give one data_of the other"


def test_sets_that_are_gone_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="run the experiment again to make the set"):
        train_config(config_of(tmp_path), "quota", 0)
    assert main(["experiment"]) == 2
    assert "name the config of the experiment" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"shards: nothing\.yaml: cannot read the config"):
        set_options(config_of(tmp_path, shards="nothing.yaml"), "quota")


# --- what a few seeds say ------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 5])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int) -> None:
    draws, held, held_beyond, rounds = np.random.default_rng(0), 0, 0, 400
    for number in range(rounds):
        of_class = draws.normal(0.01, 0.05, 40)  # other classes of the kind: 0.01 on average
        found = of_class + draws.normal(0, 0.02, (seeds, 1)) + draws.normal(0, 0.05, (seeds, 40))
        zeros = np.zeros_like(found)
        inner, outer = over_seeds(found, zeros), over_seeds_and_classes(found, zeros, key=number)
        assert outer.low <= inner.low + 1e-12 <= inner.mean <= inner.high <= outer.high + 1e-12
        held += inner.low <= of_class.mean() <= inner.high
        held_beyond += outer.low <= 0.01 <= outer.high
    assert 0.92 <= held / rounds <= 0.98
    assert 0.92 <= held_beyond / rounds <= 1.0


def test_one_seed_has_no_interval() -> None:
    found = over_seeds(np.full((1, 3), 0.5), np.full((1, 3), 0.4))
    assert found.mean == pytest.approx(0.1)
    assert math.isnan(found.low)
    assert not found.is_clear


def test_students_interval_is_the_textbooks() -> None:
    # Of five differences with mean 3 and standard deviation 1.5811: 2.776 * 1.5811 / sqrt(5) = 1.963.
    found = over_seeds(np.array([[1.0], [2], [3], [4], [5]]), np.zeros((5, 1)))
    assert (found.low, found.high) == pytest.approx((3 - 1.963, 3 + 1.963), abs=1e-3)


def test_seeds_that_a_difference_takes() -> None:
    # Cohen's d of 1 takes 10 pairs for 80 % at 5 % two-sided (G*Power 3, t-test of matched pairs); of 0.5, 34.
    spread = [-1.0, 0.0, 1.0]
    assert seeds_needed(spread, 1.0) == 10
    assert seeds_needed(spread, 0.5) in (33, 34, 35)
    assert seeds_needed(spread, 0.1) is None
    assert seeds_needed([0.2, 0.2], 0.1) == 2


def test_compute_saved_is_where_the_better_curve_meets_the_others_best() -> None:
    better, worse = [(100, 0.2), (200, 0.4), (300, 0.5)], [(100, 0.1), (200, 0.25), (300, 0.3)]
    assert compute_saved(better, worse) == pytest.approx(0.5)  # 0.3 at 150 of 300
    assert compute_saved(worse, better) == pytest.approx(0.5)
    assert compute_saved(better, better) is None


# --- results -------------------------------------------------------------------------------------


def results_with(config: ExperimentConfig, effect: float, seeds: int) -> Results:
    draws = np.random.default_rng(1)
    read_outs = {}
    for arm in config.arms:
        for seed in range(seeds):
            luck = int(draws.integers(-2, 3))
            right = {f"class {n}": (50 + luck, 100) for n in range(10)}
            if arm == "quota":
                right = {name: (count + round(100 * effect), of) for name, (count, of) in right.items()}
            top1 = sum(count for count, _ in right.values()) / 1000
            read_outs[arm, seed] = {
                "metrics": {"zeroshot_top1": top1, "image_to_text_recall_at_1": 0.5},
                "classes": right,
                "curve": [[50, top1 / 2], [100, top1]],
            }
    return compared(config, read_outs)


def test_no_difference_is_said_where_none_is_shown(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"name": [f"class {n}" for n in range(10)], "links": range(10)}),
        tmp_path / "classes.parquet",
    )
    config = config_of(tmp_path, seeds=3, read_out={"classes": str(tmp_path / "classes.parquet")})
    results = results_with(config, 0.1, 3)
    assert results.measures == ["all classes", "head classes", "middle classes", "tail classes", "image to text, R@1"]
    quota, uniform, concept = paragraphs(results)
    assert quota.startswith("quota against matched: better in all classes by ")
    assert "No difference in image to text, R@1 (+0.0 to +0.0)." in quota
    assert "fewer samples seen" in quota
    for told in (uniform, concept):
        assert "no difference in all classes" in told
        assert "fewer samples seen" not in told
    assert "3 show a difference of 2 points" in power_of(results, wanted=3)
    page = page_of(results)
    assert page.count("<figure>") == 6
    assert "Guessing scores 10.00 %" in page


def test_one_seed_is_told_to_say_nothing(tmp_path: Path) -> None:
    results = results_with(config_of(tmp_path, seeds=1), 0.1, 1)
    assert all("one seed says nothing of the spread; take at least two" in told for told in paragraphs(results))
    assert "nan" not in page_of(results)


# --- one training ---------------------------------------------------------------------------------


def test_a_training_is_measured_once_in_the_end_class_by_class(
    tiny_data: Path, tiny_vit: Path, tiny_evaluation: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = tiny_run(run, tiny_data, tiny_vit) | {"evaluation": {"path": str(tiny_evaluation), "every_samples": 64}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"train": options, "read_out": {}}))
    assert one_run([str(tmp_path / "run.yaml")]) == 0
    found = json.loads((run / READ_OUT).read_text())
    assert [samples for samples, _ in found["curve"]] == [64, 128, 160]
    top1 = found["metrics"]["zeroshot_top1"]
    assert found["curve"][-1][1] == top1
    assert sum(right for right, _ in found["classes"].values()) == pytest.approx(top1 * 16)
    assert not (run / "metrics.json").exists()  # the loop itself measured no end


# --- from end to end -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_experiment_runs_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    web, port = tmp_path / "web", free_port()
    build_sample_web(SampleWebConfig(path=str(web), links=600, port=port))
    monkeypatch.chdir(REPOSITORY)
    of_queries = yaml.safe_load((REPOSITORY / "configs/queries/sample.yaml").read_text())
    (tmp_path / "queries.yaml").write_text(
        yaml.safe_dump(of_queries).replace("data/sample_web/queries.parquet", f"{tmp_path}/queries.parquet")
        .replace("data/sample_web", str(web))
    )  # fmt: skip
    assert query_list(["build", str(tmp_path / "queries.yaml")]) == 0
    shards = yaml.safe_load((REPOSITORY / "configs/shards/sample.yaml").read_text())
    shards |= {
        "sources": [f"{web}/wat/*.warc.wat.gz"],
        "sample_web": str(web),
        "queries": f"{tmp_path}/queries.parquet",
    }
    shards["fetch"]["allow_addresses"] = [f"127.0.0.0/8:{port}"]
    shards["balance"] = {"max_pairs_per_query": 5}
    (tmp_path / "shards.yaml").write_text(yaml.safe_dump(shards))
    train = yaml.safe_load((REPOSITORY / "configs/train/sample.yaml").read_text())
    del train["epochs"]
    train |= {
        "samples": 256,
        "global_batch_size": 32,
        "threads": 1,
        "evaluation": {"path": f"{web}/eval", "every_samples": 128},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train))
    arms = {**ARMS, "raw": {"shards": {"texts": {"keep_unmatched": True}, "balance": {"mode": "none"}}}}
    experiment = {
        "output": str(tmp_path / "out"),
        "shards": str(tmp_path / "shards.yaml"),
        "baseline": "matched",
        "train": str(tmp_path / "train.yaml"),
        "arms": arms,
        "seeds": 2,
        "jobs": 2,
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    assert main(["experiment", str(tmp_path / "experiment.yaml")]) == 0
    told = capfd.readouterr().out
    assert "raw, seed 1" in told
    rows = pq.read_table(tmp_path / "out/results.parquet").to_pylist()
    assert {(row["arm"], row["seed"]) for row in rows} == {(arm, seed) for arm in arms for seed in (0, 1)}
    sizes = {
        name: json.loads((tmp_path / f"out/sets/{name}/shards/manifest.json").read_text())["samples"]
        for name in ("raw", "matched", "quota", "uniform")
    }
    assert sizes["uniform"] == sizes["quota"] < sizes["matched"] <= sizes["raw"]
    before = (tmp_path / "out/results.parquet").read_bytes()
    assert main(["experiment", str(tmp_path / "experiment.yaml")]) == 0
    assert "seed" not in capfd.readouterr().out.partition(" against ")[0].replace("seeds", "")
    assert (tmp_path / "out/results.parquet").read_bytes() == before
