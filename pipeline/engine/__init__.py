"""Runs tasks: one output partition each, committed atomically, skipped when already done.

    engine = open_engine(EngineConfig())
    done = engine.run_step(directory, tasks)     # list[Done], in task order

The engine knows nothing of what a task means. Ray is imported only when a task must run on it.
"""

from pipeline.engine.engine import Engine, EngineConfig, open_engine
from pipeline.engine.task import Done, Task, Work, digest_in, finished, forget, read_record, run_task

__all__ = [
    "Done",
    "Engine",
    "EngineConfig",
    "Task",
    "Work",
    "digest_in",
    "finished",
    "forget",
    "open_engine",
    "read_record",
    "run_task",
]
