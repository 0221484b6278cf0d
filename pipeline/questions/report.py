"""The data card: one self-contained HTML page with what there is to judge a data set by (`card/`)."""

from __future__ import annotations

from pipeline.catalog.catalog import open_catalog
from pipeline.questions.card.gather import gather
from pipeline.questions.card.render import render
from pipeline.storage.atomic import write_bytes
from pipeline.storage.place import Place

__all__ = ["write_report"]


def write_report(output: Place, path: Place) -> None:
    """Write the data card of the data set in `output` to `path`. Raises OutputError as the catalog does."""
    with open_catalog(output) as database:
        page = render(gather(output, database))
    write_bytes(path, page.encode())
