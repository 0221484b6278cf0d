"""A trace of a few steps, where one asks what they spend their time on.

--profile.steps 5  ->  RUN/profile/step-000012.rank-0.json.gz, for https://ui.perfetto.dev or chrome://tracing
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.profiler import ProfilerActivity, profile, schedule

from pipeline.storage.bucket import BucketPath
from pipeline.storage.copies import scratch_files
from pipeline.storage.place import Place
from training.config import ProfileConfig
from training.distributed import World

__all__ = ["Tracer", "tracing"]


class Tracer:
    """Told of the end of each step."""

    def __init__(self, inner: profile | None = None) -> None:
        self._inner = inner

    def step(self) -> None:
        """The step is over."""
        if self._inner is not None:
            self._inner.step()


@contextmanager
def tracing(config: ProfileConfig, directory: Place, world: World) -> Iterator[Tracer]:
    """A tracer that writes the configured steps to `directory`/profile, once."""
    if not config.steps:
        yield Tracer()
        return
    target = directory / "profile"

    def write(traced: profile) -> None:
        name = f"step-{traced.step_num:06d}.rank-{world.rank}.json.gz"
        if isinstance(target, BucketPath):
            with scratch_files() as scratch:
                traced.export_chrome_trace(str(scratch / name))
                (target / name).put(scratch / name)
            return
        target.mkdir(parents=True, exist_ok=True)
        traced.export_chrome_trace(str(target / name))

    activities = [ProfilerActivity.CPU]
    if world.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    steps = schedule(wait=config.after - 1, warmup=1, active=config.steps, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=write, record_shapes=True) as inner:
        yield Tracer(inner)
