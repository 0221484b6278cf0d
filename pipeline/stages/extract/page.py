"""What a WAT record says of a page with picture links, however it was read."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Page"]


class Page(NamedTuple):
    """A page with at least one picture link, or those of its links that are still to be judged. Strings have their HTML
    entities still, and are "" where missing."""

    target: str
    """The page's URL, as the record gives it."""
    base: str
    directives: tuple[bytes, bytes] | None
    """JSON of the response's headers and of the metas; null if they forbid nothing."""
    licenses: tuple[bytes, bytes] | None
    """JSON of the head's links and of the links; null if neither names a licence."""
    ordinals: list[int]
    """Of the picture links with a text; each as many as there are of these."""
    urls: list[str]
    alts: list[str] | None
    """Null where they were not asked for."""
    titles: list[str] | None
    textless_ordinals: list[int]
    """Of the picture links without any of the texts that were asked for."""
    textless_urls: list[str]
