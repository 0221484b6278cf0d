"""Everything that the sample web will hold, decided before a byte is written.

    seed, links -> scenes and bodies (what is rendered) -> routes (what the server answers)
                -> links (what the pages show, and what must become of each)

A link's fate is known here, when it is made: that is the ground truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import quote

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.junk import JUNK_COUNTS, junk_text
from pipeline.sample_web.languages import LANGUAGES
from pipeline.sample_web.law import LAWS
from pipeline.sample_web.phrases import UNMATCHED_CAPTIONS
from pipeline.sample_web.scene import Scene, Subject, make_scene
from pipeline.sample_web.trouble import TROUBLES, Trouble
from pipeline.sample_web.vocabulary import Statistics
from pipeline.sample_web.web_phrases import unmatched_text

__all__ = [
    "DEFAULT_LINKS",
    "FOLDERS",
    "PICTURE_SITE",
    "PLACEHOLDER_URL",
    "SITES",
    "Body",
    "Link",
    "MarkUp",
    "Plan",
    "Route",
    "TextKind",
    "make_plan",
    "respelt",
    "troubled_routes",
    "vary_mark_up",
]

SITES = ("shapes", "gallery", "toys", "museum", "blog", "shop", "archive")
"""The first labels of the host names; each is `<site>.localhost`."""
PICTURE_SITE = "cdn"
"""A site of pictures only, which all the others link to."""

DEFAULT_LINKS = 6000
"""The size for which the counts in `law.py`, `trouble.py`, `junk.py` and `vocabulary.py` are stated."""

MarkUp = Literal["img", "lazy", "lazy_noscript", "srcset", "picture", "picture_only"]
"""How the page shows the picture: see `pages.py`."""

TextKind = Literal["caption", "wrong", "general", "unmatched", "foreign", "junk"]


@dataclass(frozen=True, kw_only=True)
class Body:
    """Bytes to be made: `encode(seed, key, form, scene)` into the file `key`."""

    key: str
    form: str
    scene: Scene


@dataclass(frozen=True, kw_only=True)
class Route:
    """What the server does for one URL; `path` is as it reads after percent-decoding."""

    site: str
    path: str
    query: str = ""
    body: str = ""
    manner: str = "send"
    status: int = 200
    content_type: str = "image/jpeg"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Link:
    """One image link of a page, and what must become of it."""

    url: str
    """Absolute."""
    alt_text: str | None
    """After entity decoding; None where there is no alt attribute."""
    page_kind: str = "en"
    """`en`, a language code, or one of the opt-out kinds of `pages.py`: links of a kind share pages."""
    scene: Subject | None = None
    text_fate: str | None = None
    """stage/reason that turns the link away before dedup; None where it gets as far."""
    fetch_fate: str | None = None
    """stage/reason that turns the link away while its picture is fetched and checked."""
    mark_up: MarkUp = "img"
    text_kind: TextKind = "junk"
    """`caption`: a true caption of the picture; `wrong`: one of another picture; `general`: good English that
    says little about it; `unmatched`: English without a query; `foreign`; `junk`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole sample web."""

    seed: int
    port: int
    classes: tuple[str, ...]
    """The evaluated ones, in label order."""
    bodies: tuple[Body, ...]
    routes: tuple[Route, ...]
    links: tuple[Link, ...]


def make_plan(*, links: int, seed: int, port: int, statistics: Statistics = "even") -> Plan:
    """Plan a web with `links` image links (of the WAT view) on pages of localhost sites."""
    return _Planner(links, seed, port, statistics).plan()


class _Planner:
    def __init__(self, links: int, seed: int, port: int, statistics: Statistics) -> None:
        self._law = LAWS[statistics]
        self._wanted = links
        self._seed = seed
        self._port = port
        self._bodies: dict[str, Body] = {}
        self._routes: list[Route] = []
        self._links: list[Link] = []
        self._numbers = 0

    def plan(self) -> Plan:
        self._add_trouble()
        self._add_objects()
        self._add_opt_out_pages()
        self._add_odd_urls()
        self._add_copies()
        self._add_near_duplicates()
        self._add_general_captions()
        self._add_unmatched_pictures()
        self._add_wrong_captions()
        # The remaining sorts borrow pictures of the good links, so room is kept for them.
        borrowed = self._count_borrowed()
        self._add_good(max(20, self._wanted - len(self._links) - borrowed))
        good = [link for link in self._links if link.text_kind == "caption" and link.fetch_fate is None]
        self._add_borrowed(good)
        names = ("lazy", "srcset", "picture")
        vary_mark_up(self._links, self._seed, {name: self._scaled(self._law.counts[name]) for name in names})
        return Plan(
            seed=self._seed,
            port=self._port,
            classes=self._law.classes,
            bodies=tuple(self._bodies[key] for key in sorted(self._bodies)),
            routes=tuple(self._routes),
            links=tuple(self._links),
        )

    # --- links with pictures of their own -----------------------------------------------------

    def _add_good(self, count: int) -> None:
        for label, number in self._law.spread(count).items():
            for _ in range(number):
                self._add_picture(*label)

    def _add_objects(self) -> None:
        dice = Dice(self._seed, "objects")
        for thing, at_default in self._law.objects.items():
            for _ in range(round(at_default * self._wanted / DEFAULT_LINKS)):
                self._add_picture(self._law.draw_colour(dice), thing)

    def _add_trouble(self) -> None:
        for trouble in TROUBLES:
            dice = Dice(self._seed, "trouble", trouble.name)
            for i in range(max(trouble.at_least, self._scaled(trouble.count))):
                self._add_troubled(trouble, dice, i)

    def _add_troubled(self, trouble: Trouble, dice: Dice, i: int) -> None:
        scene = self._new_scene(*self._law.draw(dice))
        site = PICTURE_SITE if dice.chance(0.3) else dice.choice(SITES)
        name = f"{scene.label.replace(' ', '-')}-{self._numbers:05d}"
        path = f"/{dice.choice(FOLDERS)}/{name}.{trouble.suffix}"
        body = self._new_body(trouble.form, scene, trouble.suffix)
        root = self._url(site, "")
        self._routes += troubled_routes(trouble, site=site, path=path, body=body, root=root if i % 2 else "")
        self._add_link(
            url=self._url(site, path),
            alt_text=self._alt(scene),
            scene=scene,
            fetch_fate=trouble.fate,
            text_kind="caption",
        )

    def _add_opt_out_pages(self) -> None:
        dice = Dice(self._seed, "opt-out pages")
        for i in range(max(3, self._scaled(self._law.counts["opt_out_pages"]))):
            kind = ("noai-meta", "noimageai-meta", "noai-header")[i % 3]
            link = self._add_picture(*self._law.draw(dice))
            self._links[-1] = replace(link, page_kind=kind, text_fate="extract/page_robots")

    def _add_odd_urls(self) -> None:
        dice = Dice(self._seed, "odd URLs")
        for i in range(max(6, self._scaled(self._law.counts["odd_urls"]))):
            scene = self._new_scene(*self._law.draw(dice))
            n = self._numbers
            path, query = (
                (f"/photos/{scene.colour} {scene.thing} {n}.jpg", ""),
                (f"/bilder/größe-{n}/{scene.thing}.jpg", ""),
                (f"/img/{n},{scene.colour},{scene.thing}.jpg", ""),
                (f"/render/picture-{n}", f"id={n}&size=m"),
                (f"/img/{scene.thing}-{n}.JPG", "v=2"),
                (f"/img/(new)/{scene.thing}~{n}.jpg", ""),
            )[i % 6]
            site = dice.choice(SITES)
            shown = quote(path, safe="/~,()") if dice.chance(0.4) else path
            body = self._new_body("jpeg", scene, "jpg")
            self._routes.append(Route(site=site, path=path, query=query, body=body))
            self._add_link(
                url=self._url(site, shown, query), alt_text=self._alt(scene), scene=scene, text_kind="caption"
            )

    def _add_copies(self) -> None:
        """One picture, byte for byte, under several URLs, each with a caption of its own."""
        dice = Dice(self._seed, "copies")
        for _ in range(max(1, self._scaled(self._law.counts["copies"]))):
            first = self._add_picture(*self._law.draw(dice))
            for _ in range(2 + dice.below(3)):
                assert isinstance(first.scene, Scene)  # every picture of ours has a scene
                self._add_view(first.scene, self._plain_body(first))

    def _add_near_duplicates(self) -> None:
        """One picture re-encoded or resized under other URLs."""
        dice = Dice(self._seed, "near duplicates")
        for _ in range(max(2, self._scaled(self._law.counts["near_duplicates"]))):
            first = self._add_picture(*self._law.draw(dice))
            assert isinstance(first.scene, Scene)  # every picture of ours has a scene
            for form in dice.shuffled(("quality-55", "quality-75", "scaled-75", "scaled-140"))[:2]:
                self._add_view(first.scene, self._new_body(form, first.scene, "jpg"))

    def _add_general_captions(self) -> None:
        dice = Dice(self._seed, "general captions")
        for i in range(max(2, self._scaled(self._law.counts["general"]))):
            link = self._add_picture(*self._law.draw(dice))
            self._links[-1] = replace(link, alt_text=self._law.general(dice, i), text_kind="general")

    def _add_unmatched_pictures(self) -> None:
        dice = Dice(self._seed, "unmatched pictures")
        for _ in range(self._scaled(self._law.counts["unmatched_pictures"])):
            link = self._add_picture(*self._law.draw(dice))
            self._links[-1] = replace(
                link, alt_text=unmatched_text(dice), text_fate="match/no_query", text_kind="unmatched"
            )

    def _add_wrong_captions(self) -> None:
        dice = Dice(self._seed, "wrong captions")
        for n in range(self._scaled(self._law.counts["wrong"])):
            other = make_scene(self._seed, f"wrong-{n:05d}", *self._law.draw(dice))
            link = self._add_picture(*self._law.draw(dice))
            self._links[-1] = replace(link, alt_text=self._alt(other), text_kind="wrong")

    # --- links that borrow pictures -------------------------------------------------------------

    def _count_borrowed(self) -> int:
        sorts = ("duplicates", "second_captions", "foreign", "unmatched", "data_urls", "other_schemes", "bad_urls")
        junk = sum(max(1, self._scaled(n)) for n in JUNK_COUNTS.values())
        return junk + sum(max(1, self._scaled(self._law.counts[name])) for name in sorts)

    def _add_borrowed(self, good: Sequence[Link]) -> None:
        def lender(dice: Dice) -> Link:
            return dice.choice(good)

        def number(name: str) -> range:
            return range(max(1, self._scaled(self._law.counts[name])))

        dice = Dice(self._seed, "duplicates")
        for i in number("duplicates"):
            link = lender(dice)
            self._add_link(
                url=respelt(link.url, i),
                alt_text=_respaced(dice, link.alt_text or "") if i % 3 == 0 else link.alt_text,
                scene=link.scene,
                text_kind="caption",
            )
        dice = Dice(self._seed, "second captions")
        for _ in number("second_captions"):
            link = lender(dice)
            assert isinstance(link.scene, Scene)  # good links have scenes
            self._add_link(
                url=link.url,
                alt_text=self._alt(link.scene),
                scene=link.scene,
                text_kind="caption",
            )
        dice = Dice(self._seed, "foreign")
        for i in number("foreign"):
            language = LANGUAGES[i % len(LANGUAGES)]
            sentence = dice.choice(language.sentences)
            self._borrow(lender(dice), sentence, "language/other_language", language.code, "foreign")
        dice = Dice(self._seed, "unmatched")
        for i in number("unmatched"):
            text = UNMATCHED_CAPTIONS[i % len(UNMATCHED_CAPTIONS)]
            self._borrow(lender(dice), text, "match/no_query", "en", "unmatched")
        for fate, count in JUNK_COUNTS.items():
            dice = Dice(self._seed, fate)
            for _ in range(max(1, self._scaled(count))):
                self._borrow(lender(dice), junk_text(dice, fate), fate, "en", "junk")
        dice = Dice(self._seed, "other schemes")
        for _ in number("data_urls"):
            self._add_link(url=PLACEHOLDER_URL, alt_text=lender(dice).alt_text, text_fate="extract/not_http")
        for i in number("other_schemes"):
            url = (
                f"ftp://files.example/{i}.jpg",
                f"mailto:editor{i}@blog.example",
                f"blob:http://shapes.localhost:{self._port}/{i}",
                f"file:///C:/pictures/{i}.jpg",
                f"javascript:show({i})",
                f"cid:part{i}@mail.example",
            )[i % 6]
            self._add_link(url=url, alt_text=lender(dice).alt_text, text_fate="extract/not_http")
        for i in number("bad_urls"):
            url = ("http://[::1/picture.jpg", "http://shop.localhost:99999/a.jpg")[i % 2]
            self._add_link(url=url, alt_text=lender(dice).alt_text, text_fate="extract/bad_url")

    def _borrow(self, lender: Link, text: str | None, fate: str, page_kind: str, text_kind: TextKind) -> None:
        """A picture of another link under a URL of its own, with a text that is turned away."""
        self._add_link(
            url=self._copy_route(lender),
            alt_text=text,
            scene=lender.scene,
            page_kind=page_kind,
            text_fate=fate,
            text_kind=text_kind,
        )

    # --- parts ----------------------------------------------------------------------------------

    def _add_picture(self, colour: str, thing: str) -> Link:
        """A good link to a new JPEG."""
        scene = self._new_scene(colour, thing)
        return self._add_view(scene, self._new_body("jpeg", scene, "jpg"))

    def _add_view(self, scene: Scene, body: str) -> Link:
        dice = Dice(self._seed, "view", len(self._links))
        site = PICTURE_SITE if dice.chance(0.3) else dice.choice(SITES)
        path = f"/{dice.choice(FOLDERS)}/{scene.label.replace(' ', '-')}-{len(self._links):05d}.jpg"
        self._routes.append(Route(site=site, path=path, body=body))
        text = _respaced(dice, self._alt(scene)) if dice.chance(0.08) else self._alt(scene)
        return self._add_link(url=self._url(site, path), alt_text=text, scene=scene, text_kind="caption")

    def _copy_route(self, lender: Link) -> str:
        dice = Dice(self._seed, "copy", len(self._links))
        site = PICTURE_SITE if dice.chance(0.3) else dice.choice(SITES)
        path = f"/uploads/{len(self._links):05d}.jpg"
        self._routes.append(Route(site=site, path=path, body=self._plain_body(lender)))
        return self._url(site, path)

    def _plain_body(self, link: Link) -> str:
        assert isinstance(link.scene, Scene)  # only links with a scene are lent
        return self._new_body("jpeg", link.scene, "jpg")

    def _add_link(
        self,
        *,
        url: str,
        alt_text: str | None,
        page_kind: str = "en",
        scene: Subject | None = None,
        text_fate: str | None = None,
        fetch_fate: str | None = None,
        text_kind: TextKind = "junk",
    ) -> Link:
        link = Link(
            url=url,
            alt_text=alt_text,
            page_kind=page_kind,
            scene=scene,
            text_fate=text_fate,
            fetch_fate=fetch_fate,
            text_kind=text_kind,
        )
        self._links.append(link)
        return link

    def _new_scene(self, colour: str, thing: str) -> Scene:
        self._numbers += 1
        return make_scene(self._seed, f"{self._numbers:05d}", colour, thing)

    def _new_body(self, form: str, scene: Scene, suffix: str) -> str:
        # The plain form keeps the scene's own name: other links find it there.
        key = f"{scene.key}.{suffix}" if form == "jpeg" else f"{scene.key}-{form}.{suffix}"
        self._bodies[key] = Body(key=key, form=form, scene=scene)
        return key

    def _alt(self, scene: Scene) -> str:
        return self._law.caption(Dice(self._seed, "caption", scene.key, len(self._links)), scene)

    def _url(self, site: str, path: str, query: str = "") -> str:
        return f"http://{site}.localhost:{self._port}{path}{'?' + query if query else ''}"

    def _scaled(self, count: int) -> int:
        return round(count * self._wanted / DEFAULT_LINKS)


def vary_mark_up(links: list[Link], seed: int, counts: Mapping[str, int]) -> None:
    """Show some good links in ways that only a reader of the HTML can follow; `counts` has lazy, srcset, picture."""
    dice = Dice(seed, "mark-up")
    plain = [
        i
        for i, link in enumerate(links)
        if link.text_kind == "caption" and link.fetch_fate is None and link.text_fate is None
    ]
    chosen = dice.shuffled(plain)
    for sort, styles in (
        ("lazy", ("lazy", "lazy_noscript")),
        ("srcset", ("srcset",)),
        ("picture", ("picture", "picture_only")),
    ):
        for n in range(max(len(styles), counts[sort])):
            if chosen:
                i = chosen.pop()
                style: MarkUp = styles[n % len(styles)]  # type: ignore[assignment]  # members of MarkUp
                links[i] = replace(links[i], mark_up=style)


def troubled_routes(trouble: Trouble, *, site: str, path: str, body: str, root: str) -> list[Route]:
    """The routes of a troubled picture at `path` of `site`.

    Some servers redirect to a path, some to a whole URL (both are allowed: RFC 9110, 10.2.2): `root` stands before it.
    """
    route = Route(
        site=site,
        path=path,
        body=body,
        manner=trouble.manner,
        status=trouble.status,
        content_type=trouble.content_type,
        headers=trouble.headers,
    )
    if not trouble.manner.startswith("redirect"):
        return [route]
    name = path.rpartition("/")[2]
    goal = f"/moved/{name}"
    hops = {"redirect_chain": 3, "redirect_loop": 2}.get(trouble.manner, 1)
    stops = [path, *(f"/moved/{n}/{name}" for n in range(1, hops))]
    ends_at = path if trouble.manner == "redirect_loop" else trouble.target or goal
    routes = []
    for here, there in zip(stops, [*stops[1:], ends_at], strict=True):
        place = f"{root}{there}" if there.startswith("/") else there
        routes.append(replace(route, path=here, body="", manner="redirect", headers=(("Location", place),)))
    if ends_at == goal:
        routes.append(replace(route, path=goal, manner="send", status=200))
    return routes


FOLDERS = ("img", "images", "media/2025", "assets/pictures", "wp-content/uploads/2024/05")
PLACEHOLDER_URL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


def respelt(url: str, i: int) -> str:
    """Another spelling that URL canonicalisation must see through, or the same."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    match i % 5:
        case 0:
            return f"{url}#top"
        case 1:
            return f"{scheme}://{host.replace('localhost', 'LOCALHOST')}{slash}{path}"
        case 2:
            folder, middle, name = path.rpartition("/")
            return f"{scheme}://{host}{slash}{folder}/./{name}" if middle else url
        case 3:
            return f"{scheme}://{host}{slash}{path.replace('-', '%2D')}"
        case _:
            return url


def _respaced(dice: Dice, text: str) -> str:
    """The same words with white space as pages have it, and a character that nobody sees."""
    words = text.split(" ")
    at = dice.below(max(1, len(words) - 1))
    gap = dice.choice(("\n    ", "  ", "\t", "\u00a0", "\n", " \u200b"))
    spaced = " ".join(words[: at + 1]) + gap + " ".join(words[at + 1 :])
    return dice.choice((spaced, f" {spaced}", f"{spaced}  ", f"\n      {spaced}\n    "))
