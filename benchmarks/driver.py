"""What a task costs the driver: python -m benchmarks.driver [--tasks N] [--in-flight N] [--files N]

One step of N tasks that each write an empty file, on a local Ray: run, then looked at again when all are done. What is
counted is the CPU time of this process (Ray's threads in it, not its daemons and workers), since wall time is that of
the workers' file systems; and its resident memory as the step goes on. Each task also names the `--files` files that
all tasks share, as those of dedup and schedule do. `--in-flight` stands for a cluster of half as many CPUs.

Ray's own part of it is measured in the same process: as many calls of a function that does nothing, a thousand at a
time.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine import Done, EngineConfig, Info, Task, nodes, open_engine, output
from pipeline.storage.location import Files, Location

_CPUS = 2
_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Out:
    """An empty file."""

    empty: Location = output("empty")


@dataclass(frozen=True, kw_only=True)
class Nothing(Task[Out]):
    """As little as a task can do."""

    number: int
    files: Files

    def work(self, out: Out) -> Info:
        out.empty.local.touch()
        return {"rows": 1}


def main() -> None:
    """Print what running, looking and Ray alone cost per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=2 * _CPUS, help="default: that of a machine of two cores")
    parser.add_argument("--files", type=int, default=0, help="that all tasks read; default: none")
    parser.add_argument("--scratch", type=Path, help="where to write; default: the temporary directory")
    options = parser.parse_args()
    nodes.TASKS_PER_PLACE = max(1, options.in_flight // _CPUS)
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}", flush=True)
    print(f"{options.tasks:,} tasks, {options.in_flight:,} in flight, {options.files:,} shared files", flush=True)
    root = Path(tempfile.mkdtemp(prefix="openwit-driver-", dir=options.scratch))
    try:
        measure(root, options.tasks, options.files)
    finally:
        shutil.rmtree(root)


def measure(root: Path, count: int, files: int) -> None:
    """One step, twice; then Ray's calls alone."""
    shared = Files(Location(f"/set/work/step/f{i:06d}.parquet", f"{i:032x}") for i in range(files))

    def tasks(number: int) -> list[Nothing]:
        return [Nothing(partition=f"{i:07d}", number=i, files=shared) for i in range(number)]

    memory: list[int] = []

    def accept(directory: Path, record: Done) -> None:
        memory.append(resident_mb() if len(memory) % 1000 == 999 else 0)

    with open_engine(EngineConfig(num_cpus=_CPUS)) as engine:
        engine.run_step(root / "warm", tasks(4 * _CPUS))  # the workers have started and loaded what they need
        start = cpu_seconds()
        engine.run_step(root / "step", tasks(count), accept=accept)
        show("run", start, count)
        sizes = [size for size in memory if size] or [resident_mb()]
        print(f"memory    {sizes[0]} MB after the first thousand, {max(sizes)} MB at most", flush=True)
        start = cpu_seconds()
        engine.run_step(root / "step", tasks(count))
        show("look", start, count)
        start = cpu_seconds()
        call_nothing(count)
        show("Ray alone", start, count)


def call_nothing(count: int) -> None:
    """The same number of calls, of nothing; their results are asked for together."""
    import ray

    def nothing(content: bytes) -> None:
        return None

    remote = ray.remote(nothing).options(scheduling_strategy="SPREAD")
    for begin in range(0, count, _AT_ONCE):
        ray.get([remote.remote(b"") for _ in range(begin, min(begin + _AT_ONCE, count))])


def show(what: str, start: float, count: int) -> None:
    """Print milliseconds since `start`, per task."""
    print(f"{what:10}{1000 * (cpu_seconds() - start) / count:.3f} ms of CPU a task", flush=True)


def cpu_seconds() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_mb() -> int:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


if __name__ == "__main__":
    from benchmarks import driver  # workers find its classes by the module's name

    driver.main()
