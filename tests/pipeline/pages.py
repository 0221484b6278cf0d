"""Runs the steps of a page that a test has put together."""

from __future__ import annotations

from pipeline.engine import Engine
from pipeline.steps.step import Page


def run_page(page: Page, engine: Engine) -> None:
    """Bring every step to done that is not, in order."""
    for step in page.steps:
        accept = None if step.accept is None else step.accept(page.run)
        tasks = list(step.cut(page.run))
        directory = page.run.directory(step.name)
        step.data.finish(engine.run_step(directory, tasks, title=step.title, keep=step.keep, accept=accept))
