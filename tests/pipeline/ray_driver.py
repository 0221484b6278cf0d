"""A process that runs tasks on Ray, for tests that harm that Ray or that process.

`python -m ... DIRECTORY SECONDS [CPUS TIMEOUT]`
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from configs.load import ConfigError
from pipeline.engine import EngineConfig, Info, Needs, Task, apart, open_engine, output
from pipeline.errors import PipelineError
from pipeline.storage.location import Location


@dataclass(frozen=True, kw_only=True)
class Out:
    done: Location = output(".done")


@dataclass(frozen=True, kw_only=True)
class Sleep(Task[Out]):
    begun: str
    seconds: float
    cpus: float = apart(default=1.0)

    @property
    def needs(self) -> Needs:
        return Needs(cpus=self.cpus)

    def work(self, out: Out) -> Info:
        Path(self.begun).touch()
        time.sleep(self.seconds)
        out.done.local.write_text("done")
        return {}


def main(directory: str, seconds: str, cpus: str = "1", nodes_timeout_s: str = "600") -> int:
    root = Path(directory)
    tasks = [
        Sleep(partition=name, begun=str(root / f"{name}.begun"), seconds=float(seconds), cpus=float(cpus))
        for name in ("a", "b")
    ]
    try:
        with open_engine(EngineConfig(num_cpus=None, nodes_timeout_s=float(nodes_timeout_s))) as engine:
            engine.run_step(root / "step", tasks)
    except (PipelineError, ConfigError) as error:
        print(f"error: {error}")
        return 2
    print("ok")
    return 0


if __name__ == "__main__":
    from tests.pipeline import ray_driver  # workers must find `Sleep` by its module's name

    sys.exit(ray_driver.main(*sys.argv[1:]))
