"""A process that runs tasks on Ray, for tests that harm that Ray or that process: `python -m ... DIRECTORY SECONDS`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from configs.load import ConfigError
from pipeline.engine import EngineConfig, Info, Task, open_engine, output
from pipeline.errors import PipelineError
from pipeline.storage.location import Location


@dataclass(frozen=True, kw_only=True)
class Out:
    done: Location = output(".done")


@dataclass(frozen=True, kw_only=True)
class Sleep(Task[Out]):
    begun: str
    seconds: float

    def work(self, out: Out) -> Info:
        Path(self.begun).touch()
        time.sleep(self.seconds)
        out.done.local.write_text("done")
        return {}


def main(directory: str, seconds: str) -> int:
    root = Path(directory)
    tasks = [Sleep(partition=name, begun=str(root / f"{name}.begun"), seconds=float(seconds)) for name in ("a", "b")]
    try:
        with open_engine(EngineConfig(num_cpus=None)) as engine:
            engine.run_step(root / "step", tasks)
    except (PipelineError, ConfigError) as error:
        print(f"error: {error}")
        return 2
    print("ok")
    return 0


if __name__ == "__main__":
    from tests.pipeline import ray_driver  # workers must find `Sleep` by its module's name

    sys.exit(ray_driver.main(*sys.argv[1:]))
