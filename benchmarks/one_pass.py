"""Reading sources and judging their links in one pass, beside the two steps that keep the links between them.

    python -m benchmarks.one_pass SOURCE ... --queries FILE [--repeats 3]

Runs the page's own steps up to MATCHED, in this process, both ways in turn. Printed: CPU seconds (the least of the
repeats) and bytes written, both without the query list, bytes also as a share of the sources' bytes. Small sources say
little of bytes: an empty Parquet file has thousands.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from pipeline.config import WitConfig
from pipeline.engine.config import EngineConfig
from pipeline.engine.engine import InlineEngine
from pipeline.stages.fetch.config import FetchConfig
from pipeline.steps.texts_config import TextsConfig
from pipeline.terminal.progress import Progress
from pipeline.wit import build

__all__ = ["main", "measure"]

WAYS = {"two steps": True, "one pass": False}


class Spent(NamedTuple):
    """On one way."""

    seconds: float
    """Of CPU."""
    num_bytes: int
    links: int


def measure(sources: list[str], queries: str, *, keep_candidates: bool) -> Spent:
    """The steps from the sources to MATCHED, in a directory of their own."""
    scratch = Path(tempfile.mkdtemp(prefix="one-pass-"))
    config = WitConfig(
        sources=tuple(sources),
        queries=queries,
        output=str(scratch),
        fetch=FetchConfig(user_agent="benchmark (+http://localhost)"),
        texts=TextsConfig(keep_candidates=keep_candidates),
    )
    seconds, num_bytes, links = 0.0, 0, 0
    page = build(config)
    try:
        engine = InlineEngine(EngineConfig(kind="inline"), Progress())
        for name in ("queries", "extract", "texts"):
            if name not in page:
                continue
            step, directory = page[name], page.run.directory(name)
            began = time.process_time()
            done = engine.run_step(directory, list(step.cut(page.run)))
            step.data.finish(done)
            if name != "queries":
                seconds += time.process_time() - began
                num_bytes += sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
                links = links or sum(int(record.info["rows"]) for record in done)
    finally:
        shutil.rmtree(scratch)
    return Spent(seconds, num_bytes, links)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--queries", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    size = sum(os.path.getsize(source) for source in options.sources)
    spent: dict[str, list[Spent]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way, keeps in WAYS.items():
            spent[way].append(measure(options.sources, options.queries, keep_candidates=keeps))
    for way, runs in spent.items():
        best = min(runs)
        print(
            f"{way:<10} {best.links:>10,} links  {best.seconds:8.2f} s CPU  {best.num_bytes:>13,} bytes written, "
            f"{best.num_bytes / size:.3f} per byte of {size:,}"
        )


if __name__ == "__main__":
    main()
