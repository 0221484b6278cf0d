"""From an image link, as a page wrote it, to a row: entities, URLs, robots directives, identities.

raw attribute --unescape_attribute--> text --Resolver--> absolute URL --LinkBatch--> Outcome
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from html.entities import html5
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
_ABSOLUTE = re.compile(r"https?://[^/\\\x00-\x20][^\\\x00-\x20]*\Z")
_SEGMENT = r"[A-Za-z0-9_~%+,=@!$&'()*-][A-Za-z0-9_~%+,=@!$&'()*.-]*"
_FROM_ROOT = re.compile(rf"(?:/{_SEGMENT})+/?\Z")
_FROM_HERE = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*/?\Z")
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
    scheme, separator, rest = base.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    path = _QUERY_OR_FRAGMENT.split(rest[len(authority) :], maxsplit=1)[0]
    known = bool(separator) and bool(authority) and scheme in ("http", "https")
    root = f"{scheme}://{authority}" if known else ""
    plain_path = not path or bool(_FROM_ROOT.match(path)) or path == "/"
    folder = root + (path[: path.rfind("/") + 1] or "/") if known and plain_path else ""

    def resolve(url: str) -> str:
        if _ABSOLUTE.match(url):
            return url
        if root and _FROM_ROOT.match(url):
            return root + url
        if folder and _FROM_HERE.match(url):
            return folder + url
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
        # One list per column; the readers' inner loops append to them.
        self._url: list[str] = []
        self._alt_text: list[str] = []
        self._text_source: list[str] = []
        self._page_url: list[str | None] = []
        self._license: list[str | None] = []
        self._record: list[int] = []
        self._link: list[int] = []
        self._rejected: list[tuple[int | None, int | None, str, str | None]] = []

    def count_record(self, num_bytes: int = 0) -> None:
        """One record was read, `num_bytes` long."""
        self._num_records += 1
        self._pending_bytes += num_bytes

    def add(
        self,
        url: str,
        raw_url: str,
        text: str,
        text_source: str,
        page_url: str | None,
        license_url: str | None,
        record: int,
        link: int,
    ) -> None:
        """One link with text. `url` is what the resolver made of `raw_url`."""
        if not url.startswith(("http://", "https://")):
            self.reject_link(record, link, "not_http" if _SCHEME.match(url) else "bad_url", raw_url)
        elif len(url) > self._config.max_url_chars:
            self.reject_link(record, link, "bad_url", f"{len(url)} characters: {raw_url[:100]}")
        else:
            self._url.append(url)
            self._alt_text.append(text)
            self._text_source.append(text_source)
            self._page_url.append(page_url)
            self._license.append(license_url)
            self._record.append(record)
            self._link.append(link)

    def reject_link(self, record: int, link: int, reason: str, detail: str | None) -> None:
        """One link turned away."""
        self._rejected.append((record, link, reason, detail))

    def reject_record(self, record: int | None, reason: str, detail: str) -> None:
        """A whole record turned away; `record` is null where damage hides its place."""
        self._rejected.append((record, None, reason, detail))

    def full(self) -> bool:
        """Whether it is time to call `take`."""
        return (
            len(self._url) + len(self._rejected) >= self._config.batch_rows or self._pending_bytes >= _MAX_PENDING_BYTES
        )

    def holds_anything(self) -> bool:
        """Whether `take` would return something to count."""
        return bool(self._num_records or self._rejected or self._url)

    def take(self) -> Outcome:
        """The links since the last call. Rows keep the order of the source."""
        num_links = len(self._url) + sum(row[1] is not None for row in self._rejected)
        url_ids: list[bytes] = []
        uids: list[bytes] = []
        unusable: list[int] = []
        for i, (url, source, text) in enumerate(zip(self._url, self._text_source, self._alt_text, strict=True)):
            try:
                canonical = canonical_url(url)
            except ValueError:
                unusable.append(i)
                continue
            url_ids.append(url_id_of(canonical))
            uids.append(uid_of(canonical, source, text))
        if unusable:
            self._rejected.extend((self._record[i], self._link[i], "bad_url", self._url[i]) for i in unusable)
            self._rejected.sort(key=lambda row: tuple(-1 if place is None else place for place in row[:2]))
        columns = (
            self._url,
            self._alt_text,
            self._text_source,
            self._page_url,
            self._license,
            self._record,
            self._link,
        )
        for i in reversed(unusable):
            for column in columns:
                del column[i]
        kept = pa.RecordBatch.from_arrays(
            [
                pa.array(uids, pa.binary(16)),
                pa.array(url_ids, pa.binary(16)),
                pa.array(self._url, pa.string()),
                pa.array(self._alt_text, pa.string()),
                pa.array(self._text_source, pa.string()),
                pa.array(self._page_url, pa.string()),
                pa.array(self._license, pa.string()),
                pa.repeat(pa.scalar(self._source, pa.string()), len(uids)),
                pa.array(self._record, pa.int64()),
                pa.array(self._link, pa.int32()),
            ],
            schema=CANDIDATES,
        )
        outcome = Outcome(
            kept=kept,
            rejected=self._take_rejections(),
            num_in=num_links,
            num_records=self._num_records,
        )
        self._pending_bytes = self._num_records = 0
        self._clear()
        return outcome

    def _take_rejections(self) -> pa.RecordBatch:
        rows = self._rejected
        records, links, reasons, details = zip(*rows, strict=True) if rows else ((), (), (), ())
        shown = [detail and detail[:_MAX_DETAIL_CHARS] for detail in details]
        n = len(rows)
        columns = [
            pa.repeat(pa.scalar(self._source, pa.string()), n),
            pa.array(records, pa.int64()),
            pa.array(links, pa.int32()),
            pa.nulls(n, pa.binary(16)),
            pa.repeat(pa.scalar("extract", pa.string()), n),
            pa.array(reasons, pa.string()),
            pa.array(shown, pa.string()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=REJECTIONS)
