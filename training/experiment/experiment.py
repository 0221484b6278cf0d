"""An experiment, top to bottom: data sets, trainings, what they differ in.

    arms --`pipeline run`--> a data set each --`training run` x seeds--> models --> read-outs --> results.html

All that is done is kept, by fingerprint: started again it goes on, and a changed option does again what it changes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from configs.load import to_mapping
from pipeline.storage.atomic import read_json, write_bytes
from training.config import TrainConfig
from training.errors import TrainingError
from training.experiment.arms import data_arm, samples_of, set_directory, set_options, train_config
from training.experiment.config import ExperimentConfig
from training.experiment.one_run import READ_OUT, OneRun
from training.experiment.page import power_of
from training.experiment.results import Results, compared, write_results

__all__ = ["run_experiment"]


def run_experiment(config: ExperimentConfig, *, say: Callable[[str], None]) -> Results:
    """Do what is left to do, and write OUT/NAME.html, .json and .parquet, where NAME is `config.results`.

    Raises TrainingError, ConfigError.
    """
    # Data sets, those first that tell others their size.
    made = [name for name in config.arms if data_arm(config, name) == name]
    for name in sorted(made, key=lambda name: config.arms[name].same_size_as is not None):
        say(f"{name}: its data set")
        _pipeline(set_options(config, name))
        say(f"{name}: {samples_of(set_directory(config, name)):,} pairs")

    # Trainings, seed by seed: after each seed the arms can be compared.
    runs = [
        _Run(arm=name, seed=seed, config=train_config(config, name, seed))
        for seed in range(config.seeds)
        for name in config.arms
    ]
    for name in config.arms:
        Path(config.output, "runs", name).mkdir(parents=True, exist_ok=True)
    for seeds in ((0, 1), range(2, config.seeds)):
        _train_all(config, [run for run in runs if run.seed in seeds and run.read_out() is None], say)
        if seeds == (0, 1) and config.seeds > 2:  # in time to change one's mind
            found = compared(
                replace(config, seeds=2), {(r.arm, r.seed): r.read_out() or {} for r in runs if r.seed < 2}
            )
            say(power_of(found, wanted=config.seeds))

    results = compared(config, read_outs := {(run.arm, run.seed): run.read_out() or {} for run in runs})
    write_results(results, read_outs, Path(config.output), name=config.results)
    return results


@dataclass(frozen=True, kw_only=True)
class _Run:
    arm: str
    seed: int
    config: TrainConfig

    def read_out(self) -> dict[str, Any] | None:
        """What was measured; None before."""
        found: dict[str, Any] | None = read_json(Path(self.config.output) / READ_OUT)
        return found


def _pipeline(options: dict[str, Any]) -> None:
    """`pipeline run`, in a process of its own, which goes on where one was stopped. Raises TrainingError."""
    output = Path(options["output"])
    file = output.with_name(f"{output.name}.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, yaml.safe_dump(options, sort_keys=False).encode())
    done = subprocess.run([sys.executable, "-m", "pipeline", "run", str(file)], check=False)
    if done.returncode:
        raise TrainingError(f"{file}: the data set was not made (exit status {done.returncode}, see above)")


def _train_all(config: ExperimentConfig, runs: Sequence[_Run], say: Callable[[str], None]) -> None:
    """Each in a process of its own, `config.jobs` at a time. Raises TrainingError at the first that fails."""
    processes: list[subprocess.Popen[bytes]] = []

    def train(run: _Run) -> _Run:
        told = OneRun(train=to_mapping(run.config), read_out=config.read_out)
        file = Path(f"{run.config.output}.yaml")
        write_bytes(file, yaml.safe_dump(to_mapping(told), sort_keys=False).encode())
        words = [sys.executable, "-m", "training.experiment.one_run", str(file)]
        with Path(f"{run.config.output}.log").open("ab") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
            processes.append(process)
            status = process.wait()
        if status:
            lines = Path(f"{run.config.output}.log").read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.removeprefix("error: ") for line in reversed(lines) if line.strip()), "it said nothing")
            raise TrainingError(f"{run.arm}, seed {run.seed}: {last} (status {status}; {run.config.output}.log)")
        return run

    with ThreadPoolExecutor(config.jobs) as pool:
        waiting: set[Future[_Run]] = {pool.submit(train, run) for run in runs}
        done_count = 0
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    run = future.result()
                    done_count += 1
                    told = (run.read_out() or {}).get("metrics", {})
                    top1 = f"{told['zeroshot_top1']:.1%}" if "zeroshot_top1" in told else "done"
                    say(f"{run.arm}, seed {run.seed}: {top1}   ({done_count} of {len(runs)})")
        except BaseException:
            for future in waiting:
                future.cancel()
            for process in processes:
                process.terminate()  # each saves a checkpoint, and goes on from there the next time
            raise
