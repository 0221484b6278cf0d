"""A handful of pages in the real formats, for the tests of the query list."""

from __future__ import annotations

import bz2
import gzip
import itertools
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

__all__ = ["HEAD", "TAIL", "article", "redirect", "write_dump", "write_views", "write_wordnet"]

HEAD = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">\n  <siteinfo>\n'
    '    <namespaces>\n      <namespace key="0" case="first-letter" />\n'
    '      <namespace key="6" case="first-letter">File</namespace>\n'
    '      <namespace key="14" case="first-letter">Category</namespace>\n    </namespaces>\n  </siteinfo>\n'
)
TAIL = "</mediawiki>\n"


def article(title: str, text: str, namespace: int = 0) -> str:
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n    <ns>{namespace}</ns>\n    <id>1</id>\n    <revision>\n"
        f'      <model>wikitext</model>\n      <text xml:space="preserve">{escape(text)}</text>\n'
        "    </revision>\n  </page>\n"
    )


def redirect(title: str, target: str) -> str:
    body = article(title, f"#REDIRECT [[{target}]]")
    return body.replace("<id>1</id>", f"<id>1</id>\n    <redirect title={quoteattr(target)} />")


def write_dump(path: Path, pages: Sequence[str], *, cuts: Sequence[int] = ()) -> None:
    """Pages as one bz2 stream, or as several, cut at these bytes of the XML."""
    xml = (HEAD + "".join(pages) + TAIL).encode()
    edges = [0, *cuts, len(xml)]
    path.write_bytes(b"".join(bz2.compress(xml[a:b]) for a, b in itertools.pairwise(edges)))


def write_views(path: Path, lines: Sequence[str]) -> None:
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def write_wordnet(directory: Path) -> None:
    """An index and a data file of five nouns: disease > (flu, cold), animal > dog."""
    licence = "  1 This is a licence line.\n"
    (directory / "index.noun").write_text(
        licence
        + "animal n 1 2 @ ~ 1 5 00000400  \n"
        + "cold n 2 1 @ 2 1 00000300 00000600  \n"
        + "disease n 1 1 ~ 1 3 00000100  \n"
        + "domestic_dog n 1 1 @ 1 0 00000500  \n"
        + "flu n 1 1 @ 1 0 00000200  \n"
    )
    (directory / "data.noun").write_text(
        licence
        + "00000100 26 n 01 disease 0 002 ~ 00000200 n 0000 ~ 00000300 n 0000 | an illness  \n"
        + "00000200 26 n 01 flu 0 001 @ 00000100 n 0000 | an illness  \n"
        + "00000300 26 n 01 cold 0 001 @ 00000100 n 0000 | an illness  \n"
        + "00000400 05 n 01 animal 0 001 ~ 00000500 n 0000 | a being  \n"
        + "00000500 05 n 01 domestic_dog 0 001 @ 00000400 n 0000 | a being  \n"
        + "00000600 19 n 01 cold 1 000 | low temperature  \n"
    )
