"""What is known of work while it is under way; who shows it or writes it down is elsewhere.

    task --counts--> Tally <--looks, once a second-- Running --> Sign --> StepWatch --> Now

tally.py       the numbers that a running task adds to, and a look at them
step_watch.py  a step that runs: rates, success, time left, tasks that are slow or stuck

Nothing here decides anything of a result, and a task that is watched by nobody adds to numbers that nobody reads.
"""

from pipeline.watching.step_watch import Now, StepWatch, TaskNow
from pipeline.watching.tally import Counts, Running, Sign, Tally, counting, running, tally_here

__all__ = [
    "Counts",
    "Now",
    "Running",
    "Sign",
    "StepWatch",
    "Tally",
    "TaskNow",
    "counting",
    "running",
    "tally_here",
]
