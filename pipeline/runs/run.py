"""Drives the page: run its steps, or only look how far they are.

open_output (lock) -> for each step: engine.run_step -> ledger.json -> publish -> runs.jsonl
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import platform
import socket
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from configs.load import ConfigError, dump, fingerprint, load
from pipeline.config import WitConfig
from pipeline.engine import AnyTask, Done, Engine, Looked, look_at, open_engine, steps_in
from pipeline.errors import DamagedFileError, LockedError, OutputError
from pipeline.own.record import record
from pipeline.own.stages import NO_STAGES, OwnStages
from pipeline.records.ledger import Line, totals
from pipeline.records.removals import begun_in
from pipeline.runs.damage import Patience, withdraw
from pipeline.runs.emptiness import is_to_be_published, refuse_emptiness
from pipeline.runs.expunge import expunge_listed
from pipeline.runs.extend import begin, changes_of, end, extended
from pipeline.runs.give_back import give_back, keep_pictures, make_way_for
from pipeline.runs.hints import Hint, hints_of
from pipeline.runs.publish import publish
from pipeline.runs.run_log import logged
from pipeline.stages.fetch.img2dataset import find_img2dataset
from pipeline.steps.fetch import retries
from pipeline.steps.fetch.facts import STORES, store_of
from pipeline.steps.robots.live import ROBOTS_LIVE
from pipeline.steps.robots.reservations import TDMREP_LIVE
from pipeline.steps.step import Page, Step
from pipeline.storage.atomic import append_line, read_json, remove_tree, write_bytes, write_json
from pipeline.storage.bucket import BucketPath
from pipeline.storage.output import check_output, is_output, open_output
from pipeline.storage.place import Place, place_of
from pipeline.terminal.progress import Progress
from pipeline.wit import build, sources_of

__all__ = ["RunResult", "StepState", "inspect", "opened", "refuse_subset", "run", "walk"]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run did."""

    version: Place
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
    hints: Sequence[Hint] = ()
    """Stages that turned away more than is usual."""
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
    config: WitConfig,
    *,
    own: OwnStages = NO_STAGES,
    progress: Progress | None = None,
    extend: bool = False,
    offline: bool = False,
    metrics_file: Path | None = None,
) -> RunResult:
    """Bring the data set that `config` describes, with stages of one's `own`, to done, from wherever it is.

    With `extend` the sources of the data set that is there come first, and what the added ones changed in the
    plan is listed (`extend.py`). With `offline` nothing is requested: OutputError where a picture is missing. What runs
    is written into `metrics_file` now and then (`metrics.py`). Raises PipelineError (see errors.py), among them
    EmptyError where no sample is left; nothing that was finished is lost, and an empty version never replaces what is
    published.
    """
    progress = progress or Progress()
    started = time.time()
    log: dict[str, Any] = {}
    damaged: list[str] = []
    patience = Patience()
    written: set[str] = set()  # shards of this very run
    where = place_of(config.output)
    refuse_subset(where)
    _refuse_copied_link(where)
    _refuse_begun_removal(where)
    _refuse_store_in_set(where, config)
    find_img2dataset(config.fetch)  # a missing engine stops here; to plan and to look, none is needed
    with opened(where, config, progress) as output, logged(progress, output, _about(config), metrics_file):
        if extend:
            config = _begin_extension(config, own)
        status, config_yaml = "failed", dump(config)
        try:
            with open_engine(config.engine, progress) as engine:
                while True:
                    try:
                        page = build(config, own)
                        expunge_listed(page.run, config.privacy, progress.say)
                        keep_pictures(page.run, config.shards, progress.say)
                        sums = _run_steps(page, config, own, engine, log, written, offline=offline)
                        lines, shards = totals(sums.values()), page["shards"].data
                        samples = shards.total("rows")
                        version: Place = output / "shards"
                        put_back: Sequence[str] = ()
                        if is_to_be_published(samples, lines):
                            make_way = partial(make_way_for, run=page.run, config=config.shards, say=progress.say)
                            version, put_back = publish(
                                output, shards.parts, config_yaml, written=written, make_way=make_way
                            )
                            if released := give_back(page, version, progress.say):
                                log["shards"]["released"] = released
                            end(output)
                        break
                    except DamagedFileError as error:
                        patience.check(error)
                        damaged.append(withdraw(page.run, error))
                        progress.say(damaged[-1])
            for name in put_back:
                progress.say(f"damaged: shards/{name}: missing, or not of its size; put back")
            _write_ledger(output, sums)
            retry = _end_retry(page)
            if retry is not None:
                log["fetched"] |= dataclasses.asdict(retry)
            status = "finished" if samples else "empty"
            if not samples:
                refuse_emptiness(output, lines)
            hints = hints_of(lines, output)
            for hint in hints if any(step.get("ran") for step in log.values()) else ():
                progress.tell("hint", vars(hint))
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            ran = sum(int(step.get("ran", 0)) for step in log.values())
            if ran or damaged or status != "finished":
                with contextlib.suppress(OSError, LockedError):  # must not hide the error that led here
                    append_line(output / "runs.jsonl", _run_record(config, started, status, log, damaged))
    return RunResult(
        version=version,
        ran_tasks=ran,
        put_back=put_back,
        lines=lines,
        samples=samples,
        num_bytes=shards.total("bytes"),
        seconds=time.time() - started,
        hints=hints,
        retry=retry,
    )


@contextlib.contextmanager
def opened(output: Place, config: WitConfig, progress: Progress) -> Iterator[Place]:
    """The output, and the store of pictures that it shares with others, held by this process alone. Raises as
    `open_output` does."""
    places = (output, *store_of(config.fetch).values())
    with contextlib.ExitStack() as stack:
        for place in places[1:]:
            check_output(place, must_exist=False)  # before anything is written
        for place in places:
            stack.enter_context(open_output(place, single_driver=config.engine.single_driver, say=progress.say))
        yield output


def _run_steps(
    page: Page,
    config: WitConfig,
    own: OwnStages,
    engine: Engine,
    log: dict[str, Any],
    written: set[str],
    *,
    offline: bool,
) -> Mapping[str, Mapping[str, Any]]:
    """Every step of the page; returns the sums of each step's ledger, as its records have lines, and adds to `log` what
    each step ran, and how long, and to `written` the shards.

    The config and `own` are written down before the first task. Raises DamagedFileError when a task meets a file that
    is not what its record says; what ran before counts.
    """
    output = page.run.output
    sums: dict[str, Mapping[str, Any]] = {}
    page.check()
    for step in page.steps:
        directory, tasks = page.run.directory(step.name), list(step.cut(page.run))
        looked = look_at(directory, tasks)
        if offline and step.name in (ROBOTS_LIVE, TDMREP_LIVE):
            tasks = [task for task in tasks if task.partition in looked.done]
            looked = look_at(directory, tasks)
        todo = len(looked.waiting)
        if todo and not any(about["ran"] for about in log.values()):
            write_bytes(output / "config.yaml", dump(config).encode())
            record(output, own)
        if step.name == "fetch":
            _salvage_first(directory, looked)
        if todo and offline and step.name == "fetch":
            lost = {task.partition.rpartition("-")[0] for task in looked.waiting}
            missing = sum(part.info["missing"] for part in page["requests"].data.parts if part.name in lost)
            raise OutputError(
                f"{output}: {missing:,} pictures cannot be repaired, nothing is left of them; `python -m pipeline run` "
                "requests them again"
            )
        about = log.setdefault(step.name, {"tasks": 0, "ran": 0, "seconds": 0.0})
        about |= {"tasks": len(tasks), "ran": about["ran"] + todo}
        began = time.time()
        with _served(config, needed=todo > 0 and step.name in (ROBOTS_LIVE, TDMREP_LIVE, "fetch")):
            done = _run_step(page, step, tasks, engine, looked)
        about["seconds"] = round(about["seconds"] + time.time() - began, 3)
        sums[step.name] = {"lines": [vars(line) for line in totals(each.info for each in done)]}
        if step.name == "shards":
            written.update(task.partition for task in looked.waiting)
        if todo:
            _write_ledger(output, sums)
    if (changes := changes_of(config, page)) is not None:
        (listed,) = _run_step(page, changes, list(changes.cut(page.run)), engine, None)
        log[changes.name] = {"ran": 1} | {name: listed.info[name] for name in ("added", "evicted")}
    _remove_other_steps(page)
    record(output, own)  # of a run with nothing to do, too, should it be gone
    return sums


def _salvage_first(store: Place, looked: Looked) -> None:
    """Raise DamagedFileError for a tar that is not of its size any more, for what is whole of it to be kept: its task
    would ask for all of it again."""
    for task in looked.waiting:
        record = looked.records.get(task.partition)
        if record is None or record.key != task.key or isinstance(store, BucketPath):
            continue
        tars = {name: size for name, size in record.num_bytes.items() if name.endswith(".tar")}
        for name, file in record.located(store).items():
            if name in tars and file.local.exists() and file.local.stat().st_size != tars[name]:
                raise DamagedFileError(file.path, f"is not of {tars[name]:,} bytes any more")


def _run_step(
    page: Page, step: Step[Any], tasks: Sequence[AnyTask[Any]], engine: Engine, looked: Looked | None
) -> list[Done]:
    accept = None if step.accept is None else step.accept(page.run)
    directory = page.run.directory(step.name)
    done = engine.run_step(
        directory, tasks, step=step.name, title=step.title, keep=step.keep, accept=accept, looked=looked
    )
    step.data.finish(done)
    return done


_NOT_OF_A_PAGE = ("changes",)


def _remove_other_steps(page: Page) -> None:
    """What is left of steps that the config switched off since, or that an earlier version had. Facts stay.

    A step's directory is told by its records, which are there before it is whole: it may never have come to its end.
    """
    work = page.run.output / "work"
    for directory in steps_in(work):
        name = str(directory).removeprefix(f"{work}/")
        if name not in (*_NOT_OF_A_PAGE, *STORES) and name not in page:
            remove_tree(directory)


def _refuse_begun_removal(output: Place) -> None:
    """Raise OutputError where a removal was killed in the middle of files that it changes in place."""
    if isinstance(output, Path) and begun_in(output):
        raise OutputError(
            f"{output}: a removal was cut short; `python -m pipeline compact {output}` finishes it, then run again"
        )


def _refuse_copied_link(output: Place) -> None:
    """Raise OutputError where a copy that followed links has left a directory in the place of `shards`."""
    shards = output / "shards"
    if isinstance(shards, Path) and shards.is_dir() and not shards.is_symlink():
        raise OutputError(
            f"{shards}: is a directory, where a link to versions/ should be, as a copy leaves it that follows links; "
            "remove it and run again, nothing of it is lost in work/ (cp -a and rsync -a keep links)"
        )


_TIDIED = ("work", "shards", "versions")
"""Directories of a data set from which a run removes what is not its own."""


def _refuse_store_in_set(output: Place, config: WitConfig) -> None:
    """Raise ConfigError for a store of pictures in a place where a run, of this set or another, would remove it."""
    for store in store_of(config.fetch).values():
        resolved = [store.resolve(), *store.resolve().parents]
        inside = [above for path, above in itertools.pairwise(resolved) if path.name in _TIDIED]
        if resolved[0] == output.resolve() or any(above == output.resolve() or is_output(above) for above in inside):
            raise ConfigError(
                f"fetch.store: {store} is a part of a data set; name a place of its own, or leave it null"
            )


def refuse_subset(output: Place) -> None:
    """Raise OutputError where `output` is a subset of another data set: no run makes one."""
    if (output / "subset.json").exists():
        raise OutputError(f"{output}: is a subset of another data set; choose another --output")


def inspect(config: WitConfig, own: OwnStages = NO_STAGES) -> tuple[list[StepState], Step[Any] | None]:
    """How far each step is, and the first step that has something to run (None: all done).

    Reads only. Raises InputError or QueryListError as a run would.
    """
    states: list[StepState] = []
    for step, tasks, done in walk(build(config, own)):
        rows = sum(int(record.info.get("rows", 0)) for record in done)
        states.append(StepState(step=step.name, tasks=len(tasks), done=len(done), rows=rows))
        if len(done) < len(tasks):
            return states, step
    return states, None


def walk(page: Page) -> Iterator[tuple[Step[Any], Sequence[AnyTask[Any]], list[Done]]]:
    """Each step with its tasks and the records of the finished ones, up to the first step that has something to run.

    Reads only. Raises InputError or QueryListError as a run would.
    """
    check_output(page.run.output, must_exist=False)
    page.check()
    for step in page.steps:
        tasks = list(step.cut(page.run))
        done = list(look_at(page.run.directory(step.name), tasks).done.values())
        yield step, tasks, done
        if len(done) < len(tasks):
            return
        step.data.finish(done)


def _end_retry(page: Page) -> retries.Retried | None:
    """Close the retry under way, if there is one."""
    output, arrived = page.run.output, page["fetched"].data
    if not retries.retries_of(output).under_way:
        return None
    outcome = retries.Retried(retried=arrived.total("retried"), healed=arrived.total("healed"))
    retries.end(output, outcome)
    return outcome


def _begin_extension(config: WitConfig, own: OwnStages) -> WitConfig:
    """The config with all sources, and the present plan kept aside; the set must be finished, or being extended."""
    whole = extended(config)
    made_by = load(WitConfig, place_of(config.output) / "config.yaml")
    before = dataclasses.replace(made_by, output=config.output)  # the directory may have been moved
    if _sources(before) != _sources(whole):
        _, unfinished = inspect(before, own)
        if unfinished is not None:
            raise ConfigError(
                f"--extend: {config.output} is not finished (next: {unfinished.title}); run without --extend first"
            )
        begin(whole)
    return whole


def _sources(config: WitConfig) -> Set[str]:
    return sources_of(config).found(build(config).run).keys()


@contextlib.contextmanager
def _served(config: WitConfig, *, needed: bool) -> Iterator[None]:
    """The sample web's server, where the config asks for it and something will be fetched."""
    if not needed or config.sample_web is None:
        yield
        return
    from pipeline.sample_web.serving import serving

    with serving(Path(config.sample_web)):
        yield


def _write_ledger(output: Place, sums: Mapping[str, Mapping[str, Any]]) -> None:
    content = {"lines": [vars(line) for line in totals(sums.values())]}
    if read_json(output / "ledger.json") != content:
        write_json(output / "ledger.json", content)


def _about(config: WitConfig) -> Mapping[str, Any]:
    """Of the run, for its log."""
    return {
        "output": config.output,
        "config": fingerprint(config),
        "engine": config.engine.kind,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "openwit": _version("openwit"),
    }


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
