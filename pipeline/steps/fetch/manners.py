"""What the run asked of hosts and resolvers, in words: for `status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.stages.fetch.config import FetchConfig
from pipeline.steps.fetch.facts import STORE
from pipeline.steps.step import Page
from pipeline.terminal.step_line import clock_of

__all__ = ["manners_of"]


def manners_of(page: Page, config: FetchConfig) -> Iterator[str]:
    """Lines of what the finished tasks told; none where they told nothing, as those of earlier versions."""
    if "heavy_hosts" in page:
        for said in page["heavy_hosts"].data.said():
            if said.get("rows"):
                yield f"heavy hosts: {said['rows']:,}, with {said['urls']:,} URLs to request (`sql`: heavy_hosts)"
                seconds = said["first_urls"] / config.heavy_host_rate
                yield f"  {said['first']} with {said['first_urls']:,} takes {clock_of(seconds)} at the least"
    counts: Counter[str] = Counter()
    for said in page[STORE].data.said():
        counts.update(said.get("look_ups") or {})
    if counts["asked"] or counts["shared"]:
        yield (
            f"names: {counts['asked']:,} looked up, {counts['failed']:,} of them in vain; "
            f"{counts['shared']:,} known from another task of their machine"
        )
