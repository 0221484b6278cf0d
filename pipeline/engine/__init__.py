"""Runs tasks: typed work on files, committed atomically, skipped when already done.

    engine = open_engine(EngineConfig())
    done = engine.run_step(directory, tasks)     # list[Done], in task order

The engine knows nothing of what a task means. Ray is imported only when a task must run on it.
"""

from pipeline.engine.commit import run_task
from pipeline.engine.config import EngineConfig
from pipeline.engine.data import Data, Part
from pipeline.engine.desk import Clerk, Desk, DeskError, desk_here
from pipeline.engine.engine import Accept, Engine, Looked, look_at
from pipeline.engine.open import open_engine
from pipeline.engine.record import Done, Records, amend, forget, record_at, record_of, records_in, steps_in
from pipeline.engine.task import (
    WORKER_MB,
    AnyTask,
    Info,
    Needs,
    Output,
    Task,
    TaskOfParts,
    apart,
    output,
    outputs_of,
    place,
)

__all__ = [
    "WORKER_MB",
    "Accept",
    "AnyTask",
    "Clerk",
    "Data",
    "Desk",
    "DeskError",
    "Done",
    "Engine",
    "EngineConfig",
    "Info",
    "Looked",
    "Needs",
    "Output",
    "Part",
    "Records",
    "Task",
    "TaskOfParts",
    "amend",
    "apart",
    "desk_here",
    "forget",
    "look_at",
    "open_engine",
    "output",
    "outputs_of",
    "place",
    "record_at",
    "record_of",
    "records_in",
    "run_task",
    "steps_in",
]
