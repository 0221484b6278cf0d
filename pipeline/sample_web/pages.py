"""Links onto HTML pages, in the variety of mark-up that the web has.

    links of one kind -> pages of 8 to 16 links -> a list of elements -> HTML text, and the links that
    a WAT extractor reports, in document order

`mark_up` of a link -> what the page has          seen in the WAT   seen in the HTML
    img             <img src>                     yes               yes
    picture         <picture><source><img src>    yes               yes
    lazy            <img src=data: data-src>      as a data: URL    yes
    lazy_noscript   the same, and a <noscript>    as a data: URL    twice
    srcset          <img srcset>, no src          no                yes, the widest
    picture_only    <picture><source><img>        no                yes
"""

from __future__ import annotations

import html
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from html.entities import codepoint2name
from urllib.parse import urljoin, urlsplit

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.languages import LANGUAGES
from pipeline.sample_web.plan import PLACEHOLDER_URL, SITES, Link, Plan

__all__ = ["Page", "Shown", "make_pages"]

OPT_OUT_KINDS = ("noai-meta", "noimageai-meta", "noai-header")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image link as a reader of the page meets it: a row of the ground truth."""

    link_id: str
    link: Link
    url: str
    """Absolute; differs from the link's own where a placeholder stands in its stead."""
    text_fate: str | None
    wat_link: int | None
    """Ordinal among the page's IMG@/src links in the WAT; None where the WAT does not have it."""
    warc_link: int | None
    """Ordinal among the page's img elements; None where the HTML shows another URL in its place."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page: its bytes, and what an extractor reports of it."""

    url: str
    site: str
    path: str
    kind: str
    charset: str
    content_type: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    head: dict[str, object]
    """`HTML-Metadata.Head` of the WAT."""
    links: tuple[dict[str, str], ...]
    """`HTML-Metadata.Links` of the WAT; entities and line breaks as on the page."""
    shown: tuple[Shown, ...]


def make_pages(plan: Plan) -> list[Page]:
    """Every page, in a fixed order that mixes the kinds."""
    kinds: dict[str, list[int]] = {}
    for i, link in enumerate(plan.links):
        kinds.setdefault(link.page_kind, []).append(i)
    pages: list[Page] = []
    for kind, members in sorted(kinds.items()):
        by_site: dict[str, list[int]] = {}
        for i in Dice(plan.seed, "pages", kind).shuffled(members):
            by_site.setdefault(_home(plan, i), []).append(i)
        for site, chosen in sorted(by_site.items()):
            dice = Dice(plan.seed, "page sizes", kind, site)
            while chosen:
                size = 8 + dice.below(9)
                pages.append(_PageWriter(plan, kind, site, len(pages), chosen[:size]).page())
                chosen = chosen[size:]
    return Dice(plan.seed, "page order").shuffled(pages)


def _home(plan: Plan, i: int) -> str:
    """The site of the page that shows a link: the picture's own, where that site has pages."""
    label = plan.links[i].url.removeprefix("http://").partition(".")[0]
    return label if label in SITES else Dice(plan.seed, "home", i).choice(SITES)


class _PageWriter:
    """Writes one page; the text is built raw, as it stands in the HTML."""

    def __init__(self, plan: Plan, kind: str, site: str, number: int, members: Sequence[int]) -> None:
        self._plan = plan
        self._kind = kind
        self._members = members
        self._dice = Dice(plan.seed, "page", number)
        self._site = site
        self._root = f"http://{site}.localhost:{plan.port}"
        folder = self._dice.choice(("", "notes/", "2025/11/", "catalogue/prints/"))
        self._path = f"/{folder}page-{number:04d}.html"
        self._charset = self._choose_charset(number)
        self._escape_style = self._dice.choice(("plain", "named", "numeric"))
        self._quote = "'" if self._dice.chance(0.1) else '"'
        self._upper = self._dice.chance(0.08)
        self._base_path = self._dice.choice(("/assets/", "/img/")) if self._dice.chance(0.15) else None
        self._base = self._root + (self._base_path or self._path)
        self._html: list[str] = []
        self._links: list[dict[str, str]] = []
        self._shown: list[Shown] = []
        self._num_wat = 0
        self._num_img = 0

    def page(self) -> Page:
        title = self._text(f"Pictures & notes, page {self._path.rpartition('-')[2].partition('.')[0]}")
        head, head_html = self._head(title)
        self._anchor("/", "Start")
        for i in self._members:
            self._paragraph()
            self._picture(i, self._plan.links[i])
        self._anchor("/index.html", "All pages & more")
        content_type, meta_charset = self._content_type()
        body = (
            f"<!DOCTYPE html>\n<html>\n<head>\n{meta_charset}{head_html}</head>\n<body>\n"
            + "".join(self._html)
            + "</body>\n</html>\n"
        )
        encoding = "utf-16" if self._charset == "utf-16" else self._charset
        data = body.encode("utf-16-le") if encoding == "utf-16" else body.encode(encoding)
        if encoding == "utf-16":
            data = b"\xff\xfe" + data
        headers = (("X-Robots-Tag", "noai, noimageai"),) if self._kind == "noai-header" else ()
        return Page(
            url=self._root + self._path,
            site=self._site,
            path=self._path,
            kind=self._kind,
            charset=self._charset,
            content_type=content_type,
            headers=headers,
            body=data,
            head=head,
            links=tuple(self._links),
            shown=tuple(self._shown),
        )

    def _choose_charset(self, number: int) -> str:
        for language in LANGUAGES:
            if language.code == self._kind:
                return self._dice.choice(language.charsets)
        if number % 97 == 5:
            return "utf-16"
        return self._dice.weighted([("utf-8", 0.7), ("iso-8859-1", 0.15), ("windows-1252", 0.15)])

    def _content_type(self) -> tuple[str, str]:
        """The Content-Type header, and a meta element where the header does not name the charset."""
        where = "header" if self._charset == "utf-16" else self._dice.choice(("header", "meta", "both"))
        content_type = "text/html" if where == "meta" else f"text/html; charset={self._charset}"
        if where == "header":
            return content_type, ""
        if self._dice.chance(0.5):
            return content_type, f'<meta charset="{self._charset}">\n'
        return (
            content_type,
            f'<meta http-equiv="Content-Type" content="text/html; charset={self._charset}">\n',
        )

    def _head(self, title: str) -> tuple[dict[str, object], str]:
        """`HTML-Metadata.Head`, and the same as HTML."""
        head: dict[str, object] = {}
        lines = []
        metas = [{"name": "viewport", "content": "width=device-width, initial-scale=1"}]
        robots = {"noai-meta": "noai", "noimageai-meta": "index, noimageai"}.get(self._kind)
        if robots:
            metas.append({"name": "robots", "content": robots})
        elif self._dice.chance(0.3):
            metas.append({"name": "robots", "content": "index, follow"})
        if self._base_path:
            head["Base"] = self._base_path if self._dice.chance(0.5) else self._root + self._base_path
            lines.append(f'<base href="{head["Base"]}">')
        head["Metas"] = metas
        lines += [f'<meta name="{meta["name"]}" content="{meta["content"]}">' for meta in metas]
        head["Title"] = title
        lines.append(f"<title>{title}</title>")
        link = {"path": "LINK@/href", "url": "/style.css", "rel": "stylesheet"}
        head["Link"] = [link]
        lines.append('<link href="/style.css" rel="stylesheet">')
        if self._dice.chance(0.15):
            licence = "https://creativecommons.org/licenses/by/4.0/"
            head["Link"] = [link, {"path": "LINK@/href", "url": licence, "rel": "license"}]
            lines.append(f'<link href="{licence}" rel="license">')
        return head, "".join(f"{line}\n" for line in lines)

    def _anchor(self, url: str, text: str) -> None:
        raw = self._text(text)
        self._html.append(f'<p><a href="{url}">{raw}</a></p>\n')
        self._links.append({"path": "A@/href", "url": url, "text": raw})

    def _paragraph(self) -> None:
        if self._dice.chance(0.3):
            self._html.append(f"<p>{self._text('Notes & pictures of the week.')}</p>\n")
        if self._dice.chance(0.1):
            self._html.append('<script>document.write("<img src=x alt=no>".length > 3);</script>\n')
        if self._dice.chance(0.1):
            self._html.append("<!-- <img src='/img/old.jpg' alt='an old picture that is gone'> -->\n")

    def _picture(self, i: int, link: Link) -> None:
        alt = None if link.alt_text is None else self._attribute(link.alt_text)
        caption = self._dice.chance(0.2)
        linked = self._dice.chance(0.15) and link.mark_up == "img"
        if caption:
            self._html.append("<figure>")
        if linked:
            self._html.append('<a href="/large.html">')
        show = {
            "img": self._img,
            "lazy": self._lazy,
            "lazy_noscript": self._lazy_noscript,
            "srcset": self._srcset,
            "picture": self._picture_element,
            "picture_only": self._picture_only,
        }[link.mark_up]
        show(i, link, alt)
        if linked:
            self._html.append("</a>")
            self._links.append({"path": "A@/href", "url": "/large.html"})
        if caption:
            self._html.append(f"<figcaption>{self._text('Plate of the day')}</figcaption></figure>")
        self._html.append("\n")

    # --- one method for each mark-up ------------------------------------------------------------

    def _img(self, i: int, link: Link, alt: str | None) -> None:
        raw = self._raw_url(link.url)
        title = self._text("Click to enlarge") if self._dice.chance(0.08) else None
        self._wat_image(raw, alt, title)
        extra = ' width="128" loading="lazy"' if self._dice.chance(0.2) else ""
        self._element([("src", raw), ("alt", alt), ("title", title)], extra)
        self._show(i, link, in_wat=True)

    def _picture_element(self, i: int, link: Link, alt: str | None) -> None:
        raw = self._raw_url(link.url)
        self._wat_image(raw, alt, None)
        self._html.append(f'<picture><source srcset="{raw}?format=webp" type="image/webp">')
        self._element([("src", raw), ("alt", alt)])
        self._html.append("</picture>")
        self._show(i, link, in_wat=True)

    def _picture_only(self, i: int, link: Link, alt: str | None) -> None:
        self._html.append(f'<picture><source srcset="{self._raw_url(link.url)}">')
        self._element([("alt", alt)])
        self._html.append("</picture>")
        self._show(i, link, in_wat=False)

    def _srcset(self, i: int, link: Link, alt: str | None) -> None:
        raw = self._raw_url(link.url)
        self._element([("srcset", f"{raw}?w=64 64w, {raw} 640w"), ("alt", alt)])
        self._show(i, link, in_wat=False)

    def _lazy(self, i: int, link: Link, alt: str | None) -> None:
        self._wat_image(PLACEHOLDER_URL, alt, None)
        self._element([("src", PLACEHOLDER_URL), ("data-src", self._raw_url(link.url)), ("alt", alt)])
        self._shown.append(
            Shown(
                link_id=f"{i:06d}-placeholder",
                link=link,
                url=PLACEHOLDER_URL,
                text_fate="extract/not_http",
                wat_link=self._num_wat - 1,
                warc_link=None,
            )
        )
        self._show(i, link, in_wat=False)

    def _lazy_noscript(self, i: int, link: Link, alt: str | None) -> None:
        self._lazy(i, link, alt)
        self._html.append("<noscript>")
        self._element([("src", self._raw_url(link.url)), ("alt", alt)])
        self._html.append("</noscript>")
        self._show(i, link, in_wat=False, suffix="-noscript")

    def _show(self, i: int, link: Link, *, in_wat: bool, suffix: str = "") -> None:
        self._shown.append(
            Shown(
                link_id=f"{i:06d}{suffix}",
                link=link,
                url=link.url,
                text_fate=link.text_fate,
                wat_link=self._num_wat - 1 if in_wat else None,
                warc_link=self._num_img - 1,
            )
        )

    # --- raw text -------------------------------------------------------------------------------

    def _wat_image(self, raw_url: str, raw_alt: str | None, raw_title: str | None) -> None:
        entry = {"path": "IMG@/src", "url": raw_url}
        if raw_alt is not None:
            entry["alt"] = raw_alt
        if raw_title is not None:
            entry["title"] = raw_title
        self._links.append(entry)
        self._num_wat += 1

    def _element(self, attributes: list[tuple[str, str | None]], extra: str = "") -> None:
        """An img element; a None attribute is left out."""
        given = [(name, value) for name, value in attributes if value is not None]
        if self._dice.chance(0.2):
            given.reverse()
        tag = "IMG" if self._upper else "img"
        close = " />" if self._dice.chance(0.3) else ">"
        parts = [f" {name.upper() if self._upper else name}={self._quote}{value}{self._quote}" for name, value in given]
        self._html.append(f"<{tag}{''.join(parts)}{extra}{close}")
        self._num_img += 1

    def _raw_url(self, url: str) -> str:
        """The URL as the page spells it: absolute, or relative to the page or its base."""
        if not url.startswith(f"{self._root}/"):
            own_scheme = url.startswith("http://") and ".localhost:" in url and self._dice.chance(0.1)
            return self._attribute(url[5:] if own_scheme else url)
        path = url[len(self._root) :]
        folder = posixpath.dirname(urlsplit(self._base).path)
        relative = posixpath.relpath(path, folder) if "?" not in path and "//" not in path else path
        form = self._dice.choice((url, path, path, relative, f"//{url.partition('//')[2]}"))
        if urljoin(self._base, form) != url:
            form = url
        return self._attribute(form)

    def _attribute(self, text: str) -> str:
        """Text with the entities that an attribute needs, in the page's style."""
        quote = {'"': {"plain": "&quot;", "named": "&quot;", "numeric": "&#34;"}}
        quote["'"] = {"plain": "&#39;", "named": "&#x27;", "numeric": "&#39;"}
        raw = self._text(text)
        for character, spelt in quote.items():
            if character == self._quote or self._escape_style != "plain":
                raw = raw.replace(character, spelt[self._escape_style])
        assert html.unescape(raw) == text  # the ground truth rests on it
        return raw

    def _text(self, text: str) -> str:
        return "".join(map(self._character, text))

    def _character(self, character: str) -> str:
        if character == "&":
            return "&amp;"
        if character == "<":
            return "&lt;"
        if character == ">":
            return "&gt;"
        if character.isascii():
            return character
        if self._escape_style == "named" and ord(character) in codepoint2name:
            return f"&{codepoint2name[ord(character)]};"
        if self._escape_style == "numeric" and ord(character) < 0x2100:
            return f"&#x{ord(character):X};"
        try:
            character.encode("utf-8" if self._charset == "utf-16" else self._charset)
        except UnicodeEncodeError:
            return f"&#{ord(character)};"
        return character
