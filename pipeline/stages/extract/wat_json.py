"""A WAT record read by full JSON parsers: for what `wat_scan` leaves to judge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.stages.extract.page import Page

__all__ = ["BadPageError", "parse_page", "parse_tolerantly"]

_IMAGE = "IMG@/src"
_EMPTY = msgspec.Raw(b"null")


class _Link(msgspec.Struct, gc=False):
    path: str = ""
    url: str = ""
    alt: str = ""
    title: str = ""


class _Head(msgspec.Struct, rename={"base": "Base", "metas": "Metas", "links": "Link"}, gc=False):
    base: str | None = None
    metas: msgspec.Raw = _EMPTY
    links: msgspec.Raw = _EMPTY


class _Html(msgspec.Struct, rename={"head": "Head", "links": "Links"}, gc=False):
    head: _Head | None = None
    links: msgspec.Raw = _EMPTY


class _Response(msgspec.Struct, rename={"headers": "Headers", "html": "HTML-Metadata"}, gc=False):
    headers: msgspec.Raw = _EMPTY
    html: _Html | None = None


class _Payload(msgspec.Struct, rename={"response": "HTTP-Response-Metadata"}, gc=False):
    response: _Response | None = None


class _Warc(msgspec.Struct, rename={"target": "WARC-Target-URI"}, gc=False):
    target: str = ""


class _Envelope(msgspec.Struct, rename={"payload": "Payload-Metadata", "warc": "WARC-Header-Metadata"}, gc=False):
    payload: _Payload | None = None
    warc: _Warc | None = None


class _Record(msgspec.Struct, rename={"envelope": "Envelope"}, gc=False):
    envelope: _Envelope | None = None


_DECODER = msgspec.json.Decoder(_Record)
_LINKS_DECODER = msgspec.json.Decoder(list[_Link] | None)


class BadPageError(Exception):
    """The record's JSON cannot be read at all."""


def parse_page(block: bytes, text_sources: Sequence[str]) -> Page | None:
    """The page of a record; null if it has no picture links.

    By a second, tolerant reading where bytes are not UTF-8, half a surrogate pair was escaped, or a field
    has another type than it should. Raises BadPageError.
    """
    try:
        return _as_page(_DECODER.decode(block), text_sources)
    except RecursionError:
        raise BadPageError("nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        first_error = str(error)
    try:
        return _as_page(_record_of(json.loads(block.decode("utf-8", "replace"))), text_sources)
    except RecursionError:
        raise BadPageError("nested too deeply") from None
    except ValueError:
        raise BadPageError(f"bad JSON: {first_error}") from None


def parse_tolerantly(raw: bytes) -> Any:
    """The value of JSON that was found sound but for its characters: what is not UTF-8, or half a surrogate pair,
    becomes U+FFFD."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(_raw(json.loads(raw.decode("utf-8", "replace"))))


def _as_page(record: _Record, text_sources: Sequence[str]) -> Page | None:
    envelope = record.envelope
    response = envelope.payload.response if envelope is not None and envelope.payload is not None else None
    html = response.html if response is not None else None
    if envelope is None or response is None or html is None:
        return None
    images = [link for link in _LINKS_DECODER.decode(html.links) or [] if link.path == _IMAGE]
    if not images:
        return None
    head = html.head or _Head()
    use = [name for name in ("alt", "title") if name in text_sources]
    with_text = [i for i, link in enumerate(images) if any(getattr(link, name) for name in use)]
    textless = sorted(set(range(len(images))).difference(with_text))
    return Page(
        target=envelope.warc.target if envelope.warc is not None else "",
        base=head.base or "",
        directives=(bytes(response.headers), bytes(head.metas)),
        licenses=(bytes(head.links), bytes(html.links)),
        ordinals=with_text,
        urls=[images[i].url for i in with_text],
        alts=[images[i].alt for i in with_text] if "alt" in use else None,
        titles=[images[i].title for i in with_text] if "title" in use else None,
        textless_ordinals=textless,
        textless_urls=[images[i].url for i in textless],
    )


def _record_of(loose: Any) -> _Record:
    envelope = _mapping(_mapping(loose).get("Envelope"))
    response = _mapping(_mapping(envelope.get("Payload-Metadata")).get("HTTP-Response-Metadata"))
    html = _mapping(response.get("HTML-Metadata"))
    head = _mapping(html.get("Head"))
    links = html.get("Links")
    return _Record(
        envelope=_Envelope(
            warc=_Warc(target=_text(_mapping(envelope.get("WARC-Header-Metadata")).get("WARC-Target-URI"))),
            payload=_Payload(
                response=_Response(
                    headers=_raw(response.get("Headers")),
                    html=_Html(
                        head=_Head(
                            base=_text(head.get("Base")),
                            metas=_raw(head.get("Metas")),
                            links=_raw(head.get("Link")),
                        ),
                        links=_raw(
                            [
                                {name: _text(value) for name, value in link.items()}
                                for link in (links if isinstance(links, list) else [])
                                if isinstance(link, dict)
                            ]
                        ),
                    ),
                )
            ),
        )
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """A string without halves of surrogate pairs; the first string of a list; else ""."""
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, str)), "")
    if not isinstance(value, str):
        return ""
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _raw(value: Any) -> msgspec.Raw:
    text = json.dumps(value, ensure_ascii=False)
    return msgspec.Raw(_text(text).encode())
