"""Everything that a web of pictures will hold, decided before a byte is written.

    pictures -> names, what most sets draw first, else in a seeded order -> links by a Zipf law
             -> views (what is drawn), routes, links

The plan is that of the drawn sample web, so that pages, archives and server are the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.from_pictures.captions import AltText, alt_text
from pipeline.sample_web.from_pictures.read import Picture
from pipeline.sample_web.plan import (
    DEFAULT_LINKS,
    FOLDERS,
    PICTURE_SITE,
    PLACEHOLDER_URL,
    SITES,
    Link,
    Plan,
    Route,
    respelt,
    troubled_routes,
    vary_mark_up,
)
from pipeline.sample_web.trouble import TROUBLES, Trouble

__all__ = ["PicturesPlan", "View", "plan_pictures", "spread_over_names"]

_OFFSET = 5
"""Of the Zipf-Mandelbrot law 1 / (rank + offset): no single name is a tenth of the web."""
_COUNTS = {"duplicates": 120, "opt_out_pages": 30, "data_urls": 20, "lazy": 40, "srcset": 40, "picture": 30}
"""Links of each sort among 6,000."""
_FORMS = (("jpeg", 0.6), ("png", 0.25), ("webp", 0.15))
_SUFFIXES = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_AGAIN = ("quality-55", "quality-75", "scaled-75", "scaled-140")
"""Forms of near duplicates (`../encode.py`)."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Bytes to be made: a picture as `draw.py` draws the view `drawing`, in a form of `../encode.py`."""

    key: str
    """The file."""
    drawing: str
    form: str
    picture: str


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What the ground truth says of a link's picture."""

    key: str
    label: str


@dataclass(frozen=True, kw_only=True)
class PicturesPlan:
    """A whole web of pictures."""

    plan: Plan
    views: tuple[View, ...]


def plan_pictures(
    pictures: Sequence[Picture],
    *,
    classes: tuple[str, ...],
    words: Sequence[str],
    links: int,
    seed: int,
    port: int,
) -> PicturesPlan:
    """Plan a web of about `links` links (of the WAT view); more, where there are more pictures. `words`: the query
    list's."""
    return _Planner(pictures, frozenset(word.lower() for word in words), links, seed, port).plan(classes)


def spread_over_names(names: Sequence[str], sizes: Sequence[int], count: int) -> list[int]:
    """How many of `count` links each name gets: one a picture, and the rest by the law, in the order of `names`."""
    weights = [size / (rank + _OFFSET) for rank, size in enumerate(sizes, 1)]
    spare = max(0, count - sum(sizes))
    exact = [spare * weight / sum(weights) for weight in weights]
    shares = [int(number) for number in exact]
    by_remainder = sorted(range(len(names)), key=lambda i: (shares[i] - exact[i], names[i]))
    for i in by_remainder[: spare - sum(shares)]:
        shares[i] += 1
    return [size + share for size, share in zip(sizes, shares, strict=True)]


class _Planner:
    def __init__(self, pictures: Sequence[Picture], queries: frozenset[str], links: int, seed: int, port: int) -> None:
        self._pictures = pictures
        self._queries = queries
        self._wanted = links
        self._seed = seed
        self._port = port
        self._views: dict[str, View] = {}
        self._routes: list[Route] = []
        self._links: list[Link] = []

    def plan(self, classes: tuple[str, ...]) -> PicturesPlan:
        for trouble in TROUBLES:
            if trouble.form != "svg":  # such a file is drawn from a scene
                for i in range(max(trouble.at_least, self._scaled(trouble.count))):
                    self._add_troubled(trouble, i)
        duplicates, data_urls = self._scaled(_COUNTS["duplicates"]), self._scaled(_COUNTS["data_urls"])
        self._add_good(self._wanted - len(self._links) - duplicates - data_urls)
        dice = Dice(self._seed, "duplicates")
        good = [link for link in self._links if link.text_kind == "caption" and link.fetch_fate is None]
        for i in range(duplicates):
            link = dice.choice(good)
            self._links.append(
                Link(url=respelt(link.url, i), alt_text=link.alt_text, scene=link.scene, text_kind="caption")
            )
        for _ in range(data_urls):
            text = dice.choice(good).alt_text
            self._links.append(Link(url=PLACEHOLDER_URL, alt_text=text, text_fate="extract/not_http"))
        counts = {name: self._scaled(_COUNTS[name]) for name in ("lazy", "srcset", "picture")}
        vary_mark_up(self._links, self._seed, counts)
        plan = Plan(
            seed=self._seed,
            port=self._port,
            classes=classes,
            bodies=(),
            routes=tuple(self._routes),
            links=tuple(self._links),
        )
        return PicturesPlan(plan=plan, views=tuple(self._views[key] for key in sorted(self._views)))

    def _add_good(self, count: int) -> None:
        by_name: dict[str, list[Picture]] = {}
        for picture in self._pictures:
            by_name.setdefault(picture.name, []).append(picture)
        # What several sets draw is common: it comes first.
        names = Dice(self._seed, "names").shuffled(sorted(by_name))
        names.sort(key=lambda name: -len({picture.style for picture in by_name[name]}))
        shares = spread_over_names(names, [len(by_name[name]) for name in names], count)
        opt_out = max(3, self._scaled(_COUNTS["opt_out_pages"]))
        for name, share in zip(names, shares, strict=True):
            drawings = Dice(self._seed, "drawings", name).shuffled(by_name[name])
            shown: dict[str, View] = {}
            for i in range(share):
                picture = drawings[i % len(drawings)]
                kind = ("noai-meta", "noimageai-meta", "noai-header")[opt_out % 3] if opt_out else "en"
                self._add_view(picture, shown, kind)
                opt_out = max(0, opt_out - 1)

    def _add_view(self, picture: Picture, shown: dict[str, View], page_kind: str) -> None:
        """A link to a new view of a picture, to the bytes of an earlier one, or to these encoded again."""
        number = len(self._links)
        dice = Dice(self._seed, "view", number)
        earlier = shown.get(picture.path)
        again = dice.between(0.0, 1.0) if earlier else 1.0
        if earlier and again < 0.12:
            view = earlier
        elif earlier and again < 0.22:
            form = dice.choice(_AGAIN)
            view = self._new_view(f"{number:06d}.jpg", earlier.drawing, form, picture)
        else:
            form = dice.weighted(_FORMS)
            view = self._new_view(f"{number:06d}.{_SUFFIXES[form]}", f"{number:06d}", form, picture)
            shown[picture.path] = view
        site = PICTURE_SITE if dice.chance(0.3) else dice.choice(SITES)
        suffix = view.key.rpartition(".")[2]
        path = f"/{dice.choice(FOLDERS)}/{_slug(picture)}-{number:06d}.{suffix}"
        content_type = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}[suffix]
        self._routes.append(Route(site=site, path=path, body=view.key, content_type=content_type))
        text = self._text(dice, picture)
        opts_out = page_kind != "en"
        self._links.append(
            Link(
                url=self._url(site, path),
                alt_text=text.text,
                page_kind=page_kind if opts_out else text.language,
                scene=_subject(picture),
                text_fate="extract/page_robots" if opts_out else text.fate,
                text_kind=text.kind,
            )
        )

    def _add_troubled(self, trouble: Trouble, i: int) -> None:
        dice = Dice(self._seed, "trouble", trouble.name, i)
        number = len(self._links)
        picture = dice.choice(self._pictures)
        site = PICTURE_SITE if dice.chance(0.3) else dice.choice(SITES)
        path = f"/{dice.choice(FOLDERS)}/{_slug(picture)}-{number:06d}.{trouble.suffix}"
        view = self._new_view(f"{number:06d}.{trouble.suffix}", f"{number:06d}", trouble.form, picture)
        root = self._url(site, "") if i % 2 else ""
        self._routes += troubled_routes(trouble, site=site, path=path, body=view.key, root=root)
        text = self._text(dice, picture)
        self._links.append(
            Link(
                url=self._url(site, path),
                alt_text=text.text,
                page_kind=text.language,
                scene=_subject(picture),
                text_fate=text.fate,
                fetch_fate=trouble.fate,
                text_kind=text.kind,
            )
        )

    def _text(self, dice: Dice, picture: Picture) -> AltText:
        return alt_text(dice, picture, dice.choice(self._pictures), self._queries)

    def _new_view(self, key: str, drawing: str, form: str, picture: Picture) -> View:
        view = View(key=key, drawing=drawing, form=form, picture=picture.path)
        self._views[key] = view
        return view

    def _url(self, site: str, path: str) -> str:
        return f"http://{site}.localhost:{self._port}{path}"

    def _scaled(self, count: int) -> int:
        return round(count * self._wanted / DEFAULT_LINKS)


def _subject(picture: Picture) -> _Subject:
    return _Subject(key=picture.key, label=picture.title)


def _slug(picture: Picture) -> str:
    return re.sub(r"[^a-z0-9]+", "-", picture.name.lower()).strip("-")[:40] or "picture"
