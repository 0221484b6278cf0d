"""From an image link, as a page wrote it, to a row: entities, URLs, robots directives, identities.

raw attribute --unescape_attribute--> text --Resolver--> absolute URL --LinkBatch--> Outcome
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from html.entities import html5
from typing import Any
from urllib.parse import urljoin

import pyarrow as pa

from pipeline.identity import canonical_url, uid_of, url_id_of
from pipeline.outcome import Outcome
from pipeline.schema import CANDIDATES, REJECTIONS
from pipeline.stages.extract.config import ExtractConfig

__all__ = ["LinkBatch", "directives_of", "license_among", "resolver", "unescape_attribute"]

_MAX_DETAIL_CHARS = 200
_MAX_PENDING_BYTES = 1 << 28
"""Flush a batch whose records come to more: string columns address 2 GiB."""

# --- text -------------------------------------------------------------------------------------

_REFERENCE = re.compile(r"&(?:#([0-9]+);?|#[xX]([0-9A-Fa-f]+);?|([A-Za-z][A-Za-z0-9]*+)(;?))")
_WINDOWS_1252 = {
    code: bytes([code]).decode("cp1252") for code in range(0x80, 0xA0) if code not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
"""Numeric references in this range mean what Windows-1252 says (HTML Standard, section 13.2.5.80)."""


def unescape_attribute(raw: str) -> str:
    """The value of an HTML attribute, from the characters between its quotes.

    The rules of the HTML Standard for attributes (sections 13.2.3.5, 13.2.5.72 to 80): line breaks are
    "\\n", NUL becomes U+FFFD, and a named reference without its semicolon is left alone before "=" or a
    letter or digit, so that "?a=1&copy=2" stays a query string. (`html.unescape` follows the rules for
    running text and would damage such URLs.)
    """
    if "\r" in raw:
        raw = raw.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in raw:
        raw = raw.replace("\0", "\ufffd")
    if "&" not in raw:
        return raw
    return _REFERENCE.sub(_character, raw)


def _character(match: re.Match[str]) -> str:
    decimal, hexadecimal, name, semicolon = match.groups()
    if name is not None:
        # Without a semicolon only the legacy names count, and only whole: the pattern took every
        # letter and digit, so a shorter legacy name would be followed by one.
        if not semicolon and match.string.startswith("=", match.end()):
            return match.group()
        return html5.get(name + semicolon, match.group())
    digits = (decimal or hexadecimal).lstrip("0")
    if len(digits) > 7:
        return "\ufffd"
    code = int(digits or "0", 10 if decimal else 16)
    if code in _WINDOWS_1252:
        return _WINDOWS_1252[code]
    if code == 0 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    return chr(code)


# --- URLs -------------------------------------------------------------------------------------

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_SEGMENT = r"[A-Za-z0-9_~%+,=@!$&'()*-][A-Za-z0-9_~%+,=@!$&'()*.-]*+"
_QUERY = r"\?[A-Za-z0-9_~%+,=@!$&'()*.:/?-]++"
_plain_reference = re.compile(
    r"(https?://[^/\\\x00-\x20][^\\\x00-\x20]*+)"  # 1: absolute
    rf"|((?:/{_SEGMENT})++/?(?:{_QUERY})?)"  # 2: from the root
    rf"|((?:\.\./)*+)({_SEGMENT}(?:/{_SEGMENT})*+/?(?:{_QUERY})?)"  # 3, 4: folders up, from there
).fullmatch
_base_parts = re.compile(rf"(https?://[^/?#\\\[\]\x00-\x20]++)(?:(/(?:{_SEGMENT}/)*+)[^/?#]*+)?(?:[?#]|\Z)").match
_STRAY = re.compile("[\t\n\r]")
_C0_AND_SPACE = "".join(map(chr, range(0x21)))
_QUERY_OR_FRAGMENT = re.compile("[?#]")


def resolver(base: str) -> Callable[[str], str]:
    """A function that makes the URLs of one page absolute against `base`, itself absolute.

    As browsers do (WHATWG URL Standard): white space around the URL and line breaks and tabs inside it
    are dropped, and a backslash before the query is a slash. What is absolute already, or plainly
    relative to the host or to the folder, is joined by concatenation, the rest by `urljoin`.

    The function returns "" where nothing can be made of the URL, and URLs of other schemes (data:,
    blob:) as they are.
    """
    known = _base_parts(base)
    root = known[1] if known is not None else ""
    folders = {"": root + (known[2] or "/")} if known is not None else {}

    def resolve(url: str) -> str:
        plain = _plain_reference(url)
        if plain is not None:
            kind = plain.lastindex
            if kind == 1:
                return url
            if root:
                if kind == 2:
                    return root + url
                climb, rest = plain.group(3, 4)
                if climb not in folders:
                    above = folders[""]
                    for _ in range(len(climb) // 3):  # at the root, ".." leads nowhere
                        above = above[: above.rindex("/", 0, -1) + 1] if len(above) > len(root) + 1 else above
                    folders[climb] = above
                return folders[climb] + rest
        return _resolve_any(url, base)

    return resolve


def _resolve_any(url: str, base: str) -> str:
    url = _STRAY.sub("", url.strip(_C0_AND_SPACE))
    if not url:
        return ""
    scheme = _SCHEME.match(url)
    if scheme is not None and scheme[1].lower() not in ("http", "https"):
        return url
    if "\\" in url:
        end = _QUERY_OR_FRAGMENT.search(url)
        head = url if end is None else url[: end.start()]
        url = head.replace("\\", "/") + url[len(head) :]
    if scheme is not None:
        name, rest = scheme[1].lower(), url[scheme.end() :]
        if rest.startswith("//") or not base.startswith(f"{name}:"):
            return f"{name}://{rest.lstrip('/')}"
        url = rest  # "http:picture.jpg" on an http page is relative
    try:
        return urljoin(base, url)
    except ValueError:  # a host in brackets that is no IPv6 address
        return ""


# --- robots, licences -------------------------------------------------------------------------

_DIRECTIVE_BREAKS = re.compile(r"[\s,:;]+")


def directives_of(values: Iterable[str]) -> set[str]:
    """Every word of robots metas and X-Robots-Tag headers, in lower case: directives and robot names."""
    return {word for value in values for word in _DIRECTIVE_BREAKS.split(value.lower()) if word}


def license_among(links: Iterable[tuple[str, str]]) -> str | None:
    """The raw URL of the first link among (rel, raw URL) pairs whose rel holds the word `license`."""
    return next((url for rel, url in links if "license" in rel.lower().split()), None)


# --- rows -------------------------------------------------------------------------------------


class LinkBatch:
    """Collects the links of one source and gives them back as Outcomes of about `batch_rows` links."""

    def __init__(self, source: str, config: ExtractConfig) -> None:
        self._source = source
        self._config = config
        self._pending_bytes = 0
        self._num_records = 0
        self._clear()

    def _clear(self) -> None:
        self._url: list[str] = []
        self._alt_text: list[str] = []
        self._text_source: list[str] = []
        self._page_url: list[str | None] = []
        self._license: list[str | None] = []
        self._extra: list[str | None] = []  # shorter where archives, which have none, fill the batch
        self._record: list[int] = []
        self._link: list[int] = []
        self._bad_record: list[int | None] = []
        self._bad_link: list[int | None] = []
        self._bad_reason: list[str] = []
        self._bad_detail: list[str | None] = []

    def count_record(self, num_bytes: int = 0) -> None:
        """One record was read, `num_bytes` long."""
        self.count_records(1, num_bytes)

    def count_records(self, num_records: int, num_bytes: int = 0) -> None:
        """So many records were read, `num_bytes` long together."""
        self._num_records += num_records
        self._pending_bytes += num_bytes

    def add_page(
        self,
        record: int,
        links: Sequence[int],
        urls: Sequence[str],
        texts: Sequence[str],
        text_sources: Sequence[str],
        resolve: Callable[[str], str],
        *,
        page_url: str | None,
        license_url: str | None,
        textless: tuple[Sequence[int], Sequence[str]],
    ) -> None:
        """The links of one page that have a text: ordinals, URLs as the page wrote them, texts and their sources; of
        those without, ordinals and URLs alone."""
        max_chars = self._config.max_url_chars
        num_before, num_bad_before = len(self._url), len(self._bad_link)
        self.reject_textless(record, *textless)
        bad: list[tuple[int, str, str]] = []
        for link, named, text, text_source in zip(links, urls, texts, text_sources, strict=True):
            url = resolve(named)
            if len(url) <= max_chars and url.startswith(("http://", "https://")):
                self._url.append(url)
                self._alt_text.append(text)
                self._text_source.append(text_source)
                self._link.append(link)
            else:
                bad.append((link, *self._against_url(url, named)))
        num_added = len(self._url) - num_before
        self._page_url += [page_url] * num_added
        self._license += [license_url] * num_added
        self._record += [record] * num_added
        if bad:
            self._bad_record += [record] * len(bad)
            columns: tuple[list[Any], ...] = self._bad_link, self._bad_reason, self._bad_detail
            bad += zip(*(column[num_bad_before:] for column in columns), strict=True)
            for column, values in zip(columns, zip(*sorted(bad), strict=True), strict=True):
                column[num_bad_before:] = values

    def add_row(
        self,
        record: int,
        url: str,
        raw_url: str,
        text: str,
        *,
        page_url: str | None,
        license_url: str | None,
        extra: str | None,
        text_source: str = "alt",
    ) -> None:
        """The one link of a table's row, with text. `url` is what the resolver made of `raw_url`."""
        if not url.startswith(("http://", "https://")) or len(url) > self._config.max_url_chars:
            self.reject_link(record, 0, *self._against_url(url, raw_url))
            return
        self._url.append(url)
        self._alt_text.append(text)
        self._text_source.append(text_source)
        self._page_url.append(page_url)
        self._license.append(license_url)
        self._extra.append(extra)
        self._record.append(record)
        self._link.append(0)

    @staticmethod
    def _against_url(url: str, raw_url: str) -> tuple[str, str]:
        if url.startswith(("http://", "https://")):
            return "bad_url", f"{len(url)} characters: {raw_url[:100]}"
        return ("not_http" if _SCHEME.match(url) else "bad_url"), raw_url

    def reject_link(self, record: int, link: int, reason: str, detail: str | None) -> None:
        """One link turned away."""
        self._bad_record.append(record)
        self._bad_link.append(link)
        self._bad_reason.append(reason)
        self._bad_detail.append(detail)

    def reject_textless(self, record: int, links: Sequence[int], urls: Sequence[str]) -> None:
        """The links of one page that have no text: ordinals, and URLs as the page wrote them."""
        num_links = len(links)
        self._bad_record += [record] * num_links
        self._bad_link += links
        self._bad_reason += ["no_text"] * num_links
        self._bad_detail += urls

    def reject_record(self, record: int | None, reason: str, detail: str) -> None:
        """A whole record turned away; `record` is null where damage hides its place."""
        self._bad_record.append(record)
        self._bad_link.append(None)
        self._bad_reason.append(reason)
        self._bad_detail.append(detail)

    def full(self) -> bool:
        """Whether it is time to call `take`."""
        return (
            len(self._url) + len(self._bad_reason) >= self._config.batch_rows
            or self._pending_bytes >= _MAX_PENDING_BYTES
        )

    def holds_anything(self) -> bool:
        """Whether `take` would return something to count."""
        return bool(self._num_records or self._bad_reason or self._url)

    def take(self) -> Outcome:
        """The links since the last call. Rows keep the order of the source."""
        canonical = self._canonical_urls()
        n = len(canonical)
        kept = pa.RecordBatch.from_arrays(
            [
                _ids(list(map(uid_of, canonical, self._text_source, self._alt_text))),
                _ids(list(map(url_id_of, canonical))),
                pa.array(self._url, pa.string()),
                pa.array(self._alt_text, pa.string()),
                pa.array(self._text_source, pa.string()),
                pa.array(self._page_url, pa.string()),
                pa.array(self._license, pa.string()),
                pa.array(self._extra, pa.string()) if self._extra else pa.nulls(n, pa.string()),
                pa.repeat(pa.scalar(self._source, pa.string()), n),
                pa.array(self._record, pa.int64()),
                pa.array(self._link, pa.int32()),
            ],
            schema=CANDIDATES,
        )
        outcome = Outcome(
            kept=kept,
            rejected=self._rejections(),
            num_in=n + len(self._bad_link) - self._bad_link.count(None),
            num_records=self._num_records,
        )
        self._pending_bytes = self._num_records = 0
        self._clear()
        return outcome

    def _canonical_urls(self) -> list[str]:
        """The canonical form of each URL; the links of those that have none become rejections."""
        try:
            return list(map(canonical_url, self._url))
        except ValueError:
            self._drop([i for i, url in enumerate(self._url) if not _has_canonical(url)])
            return list(map(canonical_url, self._url))

    def _drop(self, rows: Sequence[int]) -> None:
        """Turn links whose URL has no canonical form into rejections, in the order of the source."""
        for i in rows:
            self.reject_link(self._record[i], self._link[i], "bad_url", self._url[i])
        order = sorted(range(len(self._bad_link)), key=lambda i: (self._bad_record[i] or 0, self._bad_link[i] or 0))
        self._bad_record = [self._bad_record[i] for i in order]
        self._bad_link = [self._bad_link[i] for i in order]
        self._bad_reason = [self._bad_reason[i] for i in order]
        self._bad_detail = [self._bad_detail[i] for i in order]
        columns: tuple[list[Any], ...] = (
            self._url,
            self._alt_text,
            self._text_source,
            self._page_url,
            self._license,
            self._record,
            self._link,
            *([self._extra] if self._extra else []),
        )
        for column in columns:
            for i in reversed(rows):
                del column[i]

    def _rejections(self) -> pa.RecordBatch:
        n = len(self._bad_link)
        columns = [
            pa.repeat(pa.scalar(self._source, pa.string()), n),
            pa.array(self._bad_record, pa.int64()),
            pa.array(self._bad_link, pa.int32()),
            pa.nulls(n, pa.binary(16)),
            pa.repeat(pa.scalar("extract", pa.string()), n),
            pa.array(self._bad_reason, pa.string()),
            pa.array([detail and detail[:_MAX_DETAIL_CHARS] for detail in self._bad_detail], pa.string()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=REJECTIONS)


def _has_canonical(url: str) -> bool:
    try:
        canonical_url(url)
    except ValueError:
        return False
    return True


def _ids(ids: list[bytes]) -> pa.FixedSizeBinaryArray:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(b"".join(ids))])
