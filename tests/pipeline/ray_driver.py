"""A process that runs tasks on Ray, for tests that harm that Ray or that process: `python -m ... DIRECTORY SECONDS`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.load import ConfigError
from pipeline.engine import EngineConfig, Task, open_engine
from pipeline.errors import PipelineError


def work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    Path(arguments["begun"]).touch()
    time.sleep(arguments["seconds"])
    for path in outputs.values():
        path.write_text("done")
    return {}


def main(directory: str, seconds: str) -> int:
    root = Path(directory)
    tasks = [
        Task(
            partition=name,
            work=work,
            arguments={"begun": str(root / f"{name}.begun"), "seconds": float(seconds)},
            outputs=(name,),
            key="k",
        )
        for name in ("a", "b")
    ]
    try:
        with open_engine(EngineConfig(num_cpus=None)) as engine:
            engine.run_step(root / "step", tasks)
    except (PipelineError, ConfigError) as error:
        print(f"error: {error}")
        return 2
    print("ok")
    return 0


if __name__ == "__main__":
    from tests.pipeline import ray_driver  # workers must find `work` by its module's name

    sys.exit(ray_driver.main(*sys.argv[1:]))
