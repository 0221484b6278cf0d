"""Drives the recipe: run it, or only look how far it is.

open_output (lock) -> for each step: engine.run_step -> ledger.json -> publish -> runs.jsonl
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from configs.load import ConfigError, dump, fingerprint, load
from pipeline.damage import Patience, withdraw
from pipeline.emptiness import is_to_be_published, refuse_emptiness
from pipeline.engine import Done, Engine, finished, open_engine
from pipeline.errors import DamagedFileError, OutputError
from pipeline.extend import begin, end, extended, plan_changes
from pipeline.ledger import Line, totals
from pipeline.progress import Progress
from pipeline.stages.fetch.img2dataset import find_img2dataset
from pipeline.steps import retries
from pipeline.steps.publish import publish
from pipeline.steps.step import Step
from pipeline.storage import append_line, check_output, open_output, read_json, write_bytes, write_json
from pipeline.wit import Recipe, WitConfig, recipe, sources_of, work_directory

__all__ = ["RunResult", "StepState", "inspect", "refuse_subset", "run", "walk"]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run did."""

    version: Path
    """The published version's directory."""
    ran_tasks: int
    """Tasks that were not done before; 0 when there was nothing to do."""
    put_back: Sequence[str]
    """Published files that were missing or not of their size, and are there again."""
    lines: Sequence[Line]
    """The ledger over all stages."""
    samples: int
    num_bytes: int
    seconds: float
    retry: retries.Retried | None = None
    """What came of the retry that this run carried out; None where none was under way."""


@dataclass(frozen=True, kw_only=True)
class StepState:
    """How far a step is."""

    step: str
    tasks: int
    done: int
    rows: int


def run(
    config: WitConfig, *, progress: Progress | None = None, extend: bool = False, offline: bool = False
) -> RunResult:
    """Bring the data set that `config` describes to done, from wherever it is.

    With `extend` the sources of the data set that is there come first, and what the added ones changed in the
    plan is listed (`extend.py`). With `offline` nothing is requested: OutputError where a picture is missing. Raises
    PipelineError (see errors.py), among them EmptyError where no sample is left; nothing that was finished is lost, and
    an empty version never replaces what is published.
    """
    progress = progress or Progress()
    started = time.time()
    log: dict[str, Any] = {}
    damaged: list[str] = []
    patience = Patience()
    written: set[str] = set()  # shards of this very run
    refuse_subset(Path(config.output))
    find_img2dataset(config.fetch)  # a missing engine stops here; to plan and to look, none is needed
    with open_output(Path(config.output)) as output:
        if extend:
            config = _begin_extension(config)
        status, config_yaml = "failed", dump(config)
        try:
            with open_engine(config.engine, progress) as engine:
                while True:
                    try:
                        records = _run_steps(config, output, engine, log, written, offline=offline)
                        lines, samples = _lines(records), _sum(records["shards"], "rows")
                        version: Path = output / "shards"
                        put_back: Sequence[str] = ()
                        if is_to_be_published(samples, lines):
                            version, put_back = publish(output, records["shards"], config_yaml, written=written)
                            end(output)
                        break
                    except DamagedFileError as error:
                        patience.check(error)
                        damaged.append(withdraw(output, error))
                        progress.say(damaged[-1])
            for name in put_back:
                progress.say(f"damaged: shards/{name}: missing, or not of its size; put back")
            _write_ledger(output, records)
            retry = _end_retry(output, records["fetched"])
            if retry is not None:
                log["fetched"] |= dataclasses.asdict(retry)
            status = "finished" if samples else "empty"
            if not samples:
                refuse_emptiness(output, lines)
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            ran = sum(int(step.get("ran", 0)) for step in log.values())
            if ran or damaged or status != "finished":
                with contextlib.suppress(OSError):  # a full disk must not hide the error that led here
                    append_line(output / "runs.jsonl", _run_record(config, started, status, log, damaged))
    return RunResult(
        version=version,
        ran_tasks=ran,
        put_back=put_back,
        lines=lines,
        samples=samples,
        num_bytes=_sum(records["shards"], "bytes"),
        seconds=time.time() - started,
        retry=retry,
    )


def _run_steps(
    config: WitConfig, output: Path, engine: Engine, log: dict[str, Any], written: set[str], *, offline: bool
) -> dict[str, list[Done]]:
    """Every step of the recipe; returns the records by step, and adds to `log` what each step ran, and how long, and to
    `written` the shards.

    The config is written before the first task. Raises DamagedFileError when a task meets a file that is not what its
    record says; what ran before counts.
    """
    records: dict[str, list[Done]] = {}
    page = recipe(config)
    step: Step | None = next(page)
    while step is not None:
        directory = work_directory(output, step.name)
        waiting = [task.partition for task in step.tasks if finished(directory, task) is None]
        todo = len(waiting)
        if todo and not any(about["ran"] for about in log.values()):
            write_bytes(output / "config.yaml", dump(config).encode())
        if todo and offline and step.name == "fetch":
            missing = sum(int(record.info["missing"]) for record in records["requests"])
            raise OutputError(
                f"{output}: {missing:,} pictures cannot be repaired, nothing is left of them; "
                "`python -m pipeline run` requests them again"
            )
        about = log.setdefault(step.name, {"tasks": 0, "ran": 0, "seconds": 0.0})
        about |= {"tasks": len(step.tasks), "ran": about["ran"] + todo}
        began = time.time()
        with _served(config, needed=todo > 0 and step.name == "fetch"):
            done = engine.run_step(directory, step.tasks, title=step.title, keep=step.keep, accept=step.accept)
        about["seconds"] = round(about["seconds"] + time.time() - began, 3)
        records[step.name] = done
        if step.name == "shards":
            written.update(waiting)
        if todo:
            _write_ledger(output, records)
        step = _send(page, done)
    if (changes := plan_changes(config, records["balance"])) is not None:
        (listed,) = engine.run_step(work_directory(output, changes.name), changes.tasks, title=changes.title)
        log[changes.name] = {"ran": 1} | {name: listed.info[name] for name in ("added", "evicted")}
    return records


def refuse_subset(output: Path) -> None:
    """Raise OutputError where `output` is a subset of another data set: no run makes one."""
    if (output / "subset.json").exists():
        raise OutputError(f"{output}: is a subset of another data set; choose another --output")


def inspect(config: WitConfig) -> tuple[list[StepState], Step | None]:
    """How far each step is, and the first step that has something to run (None: all done).

    Reads only. Raises InputError or QueryListError as a run would.
    """
    states: list[StepState] = []
    for step, done in walk(config):
        rows = sum(int(record.info.get("rows", 0)) for record in done)
        states.append(StepState(step=step.name, tasks=len(step.tasks), done=len(done), rows=rows))
        if len(done) < len(step.tasks):
            return states, step
    return states, None


def walk(config: WitConfig) -> Iterator[tuple[Step, list[Done]]]:
    """Each step with the records of its finished tasks, up to the first step that has something to run.

    Reads only. Raises InputError or QueryListError as a run would.
    """
    output = Path(config.output)
    check_output(output, must_exist=False)
    page = recipe(config)
    step: Step | None = next(page)
    while step is not None:
        found = [finished(work_directory(output, step.name), task) for task in step.tasks]
        done = [record for record in found if record is not None]
        yield step, done
        step = _send(page, done) if len(done) == len(step.tasks) else None


def _send(page: Recipe, done: Sequence[Done]) -> Step | None:
    """The step after the one whose records are `done`; None after the last."""
    try:
        return page.send(done)
    except StopIteration:
        return None


def _end_retry(output: Path, arrived: Sequence[Done]) -> retries.Retried | None:
    """Close the retry under way, if there is one; `arrived` are the records of step `fetched`."""
    if not retries.retries_of(output).under_way:
        return None
    retried, healed = (sum(int(record.info[name]) for record in arrived) for name in ("retried", "healed"))
    outcome = retries.Retried(retried=retried, healed=healed)
    retries.end(output, outcome)
    return outcome


def _begin_extension(config: WitConfig) -> WitConfig:
    """The config with all sources, and the present plan kept aside; the set must be finished, or being extended."""
    whole = extended(config)
    made_by = load(WitConfig, Path(config.output) / "config.yaml")
    before = dataclasses.replace(made_by, output=config.output)  # the directory may have been moved
    if sources_of(before).keys() != sources_of(whole).keys():
        _, unfinished = inspect(before)
        if unfinished is not None:
            raise ConfigError(
                f"--extend: {config.output} is not finished (next: {unfinished.title}); run without --extend first"
            )
        begin(whole)
    return whole


@contextlib.contextmanager
def _served(config: WitConfig, *, needed: bool) -> Iterator[None]:
    """The sample web's server, where the config asks for it and something will be fetched."""
    if not needed or config.sample_web is None:
        yield
        return
    from pipeline.sample_web.serving import serving

    with serving(Path(config.sample_web)):
        yield


def _sum(records: Sequence[Done], name: str) -> int:
    return sum(int(record.info[name]) for record in records)


def _lines(records: Mapping[str, Sequence[Done]]) -> Sequence[Line]:
    return totals(record.info for step in records.values() for record in step)


def _write_ledger(output: Path, records: Mapping[str, Sequence[Done]]) -> None:
    content = {"lines": [vars(line) for line in _lines(records)]}
    if read_json(output / "ledger.json") != content:
        write_json(output / "ledger.json", content)


def _run_record(config: WitConfig, started: float, status: str, log: Mapping[str, Any], damaged: Sequence[str]) -> str:
    packages = ("openwit", "ray", "pyarrow", "duckdb", "numpy", "pillow", "pycurl")
    record = {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "status": status,
        "config": fingerprint(config),
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "steps": log,
        "damaged": damaged,
    }
    return json.dumps(record, sort_keys=True)


def _version(package: str) -> str:
    try:
        return version_of(package)
    except ModuleNotFoundError:
        return "source"
