"""Write every file of a sample web.

plan -> pictures/ (two processes) , pages -> pages/, warc/, wat/ -> truth.parquet -> tables/
     -> server.json ; encyclopedia/ ; eval/
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from pipeline.sample_web.archives import write_archives
from pipeline.sample_web.encode import encode
from pipeline.sample_web.encyclopedia import write_encyclopedia
from pipeline.sample_web.evaluation import evaluation_bodies, write_evaluation
from pipeline.sample_web.law import LAWS
from pipeline.sample_web.pages import Page, make_pages
from pipeline.sample_web.plan import Body, Plan, make_plan
from pipeline.sample_web.tables import write_tables, write_truth
from pipeline.sample_web.trouble import HUGE_BYTES
from pipeline.sample_web.vocabulary import Statistics

__all__ = ["write_sample_web"]

_NUM_WORKERS = 2
_BODIES_PER_TASK = 100
_INLINE_BODIES = 400
"""Fewer are rendered in this process: starting workers would take longer."""


def write_sample_web(directory: Path, *, links: int, seed: int, port: int, statistics: Statistics = "even") -> None:
    """Write all files but the marker into an empty `directory`."""
    plan = make_plan(links=links, seed=seed, port=port, statistics=statistics)
    evaluated = evaluation_bodies(seed, links, plan.classes)
    bodies = [*plan.bodies, *evaluated]
    (directory / "pictures").mkdir()
    for name in sorted({body.key[:3] for body in bodies}):
        (directory / "pictures" / name).mkdir()
    tasks = [bodies[i : i + _BODIES_PER_TASK] for i in range(0, len(bodies), _BODIES_PER_TASK)]
    if len(bodies) <= _INLINE_BODIES:
        for task in tasks:
            _render_bodies(seed, task, directory)
        _write_the_rest(directory, plan, LAWS[statistics].names)
    else:
        # Spawned, not forked: the caller may hold threads and locks.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(_NUM_WORKERS, mp_context=context) as pool:
            rendering = [pool.submit(_render_bodies, seed, task, directory) for task in tasks]
            _write_the_rest(directory, plan, LAWS[statistics].names)
            for future in rendering:
                future.result()
    write_evaluation(seed, evaluated, plan.classes, directory)


def _write_the_rest(directory: Path, plan: Plan, names: Sequence[str]) -> None:
    """Everything that needs no pixels."""
    pages = make_pages(plan)
    for page in pages:
        file = directory / _page_file(page)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(page.body)
    places = write_archives(plan.seed, pages, directory)
    truth = write_truth(pages, places, plan.classes, directory / "truth.parquet")
    write_tables(truth, directory / "tables")
    _write_routes(plan, pages, directory)
    write_encyclopedia(plan.seed, directory / "encyclopedia", classes=plan.classes, names=names)


def _render_bodies(seed: int, bodies: Sequence[Body], directory: Path) -> None:
    for body in bodies:
        data = encode(seed, body.key, body.form, body.scene)
        (directory / "pictures" / body.key[:3] / body.key).write_bytes(data)


def _page_file(page: Page) -> str:
    return f"pages/{page.site}{page.path}"


def _write_routes(plan: Plan, pages: Sequence[Page], directory: Path) -> None:
    """`server.json`: `site/path[?query]` -> what the server does."""
    routes: dict[str, dict[str, object]] = {}
    for route in plan.routes:
        entry: dict[str, object] = {"type": route.content_type}
        if route.body:
            entry["file"] = f"pictures/{route.body[:3]}/{route.body}"
        if route.manner not in ("send", "redirect"):
            entry["manner"] = route.manner
        if route.manner.startswith("huge"):
            entry["length"] = HUGE_BYTES
        if route.status != 200:
            entry["status"] = route.status
        if route.headers:
            entry["headers"] = [list(header) for header in route.headers]
        routes[f"{route.site}{route.path}{'?' + route.query if route.query else ''}"] = entry
    by_site: dict[str, list[str]] = {}
    for page in pages:
        headers = [list(header) for header in page.headers]
        routes[f"{page.site}{page.path}"] = {
            "type": page.content_type,
            "file": _page_file(page),
            "headers": headers,
        }
        by_site.setdefault(page.site, []).append(page.path)
    for site, paths in by_site.items():
        lines = "".join(f'<li><a href="{path}">{path}</a></li>\n' for path in sorted(paths))
        file = f"pages/{site}/index.html"
        (directory / file).write_text(f"<!DOCTYPE html>\n<title>{site}</title>\n<ul>\n{lines}</ul>\n", encoding="utf-8")
        for path in ("/", "/index.html"):
            routes[f"{site}{path}"] = {"type": "text/html; charset=utf-8", "file": file}
    text = json.dumps({"version": 1, "routes": routes}, ensure_ascii=False, indent=0, sort_keys=True)
    (directory / "server.json").write_text(text + "\n", encoding="utf-8")
