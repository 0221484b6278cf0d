"""IPTC's Data Mining property in a picture's XMP: `plus:DataMining`, a term of the PLUS vocabulary.

    DMI-UNSPECIFIED, DMI-ALLOWED                              forbid nothing
    DMI-PROHIBITED                                            forbids
    DMI-PROHIBITED-AIMLTRAINING, -GENAIMLTRAINING             forbid training
    DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING                 forbids all but a search engine's index
    DMI-PROHIBITED-SEECONSTRAINT, -SEEEMBEDDEDRIGHTSEXPR,     forbid, as far as words that only people read
    DMI-PROHIBITED-SEELINKEDRIGHTSEXPR                        say otherwise: so they forbid

IPTC Photo Metadata 2023.1 on; a value is a URI under http://ns.useplus.org/ldf/vocab/, or the term alone.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET  # entities are refused below
from collections.abc import Iterator

from pipeline.pictures.xmp import xmp_packets

__all__ = ["data_mining_terms"]

_NAME = "{http://ns.useplus.org/ldf/xmp/1.0/}DataMining"
_RESOURCE = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}resource"
_LOOSE = re.compile(r"\bDataMining\b.{0,300}?\b(DMI-[A-Z-]+)", re.DOTALL)
_TERM = re.compile(r"[A-Za-z-]{1,64}\Z")


def data_mining_terms(body: bytes) -> list[str]:
    """The terms that the XMP of a picture gives, each once, in order; empty where it gives none. Never raises."""
    terms: dict[str, None] = {}
    for packet in xmp_packets(body):
        text = _text(packet)
        if "DataMining" not in text:
            continue
        for value in _values(text):
            term = value.strip().rstrip("/").rsplit("/", 1)[-1]
            if _TERM.match(term):
                terms[term.upper()] = None
    return list(terms)


def _values(text: str) -> Iterator[str]:
    """Values of the property, however RDF spells it; of a packet that is no XML whatever follows its name."""
    # A document type has no place in XMP, and could define entities.
    try:
        root = None if "<!DOCTYPE" in text else ET.fromstring(text.strip("\0 \t\r\n\ufeff"))
    except (ET.ParseError, ValueError, RecursionError):
        root = None
    if root is None:
        yield from _LOOSE.findall(text)
        return
    for element in root.iter():
        if (attribute := element.get(_NAME)) is not None:
            yield attribute
        if element.tag == _NAME:
            yield element.get(_RESOURCE) or ""
            yield from element.itertext()


def _text(packet: bytes) -> str:
    """The packet's text: UTF-8, or UTF-16 and UTF-32 as told by their NUL bytes."""
    head = packet[:64]
    if b"\0" not in head:
        return packet.decode("utf-8", "replace")
    if head.startswith(b"\xff\xfe\0\0") or b"<\0\0\0" in head:
        return packet.decode("utf-32-le", "replace")
    if head.startswith(b"\0\0\xfe\xff") or b"\0\0\0<" in head:
        return packet.decode("utf-32-be", "replace")
    return packet.decode("utf-16-be" if head.startswith(b"\xfe\xff") or head[:1] == b"\0" else "utf-16-le", "replace")
