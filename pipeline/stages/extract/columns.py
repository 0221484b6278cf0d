"""Image links as columns that compiled code fills: strings end to end, ready to become Arrow arrays.

    has_room or make_room --> compiled code appends rows to `arrays` --> candidates, textless --> clear

A column's strings are never Python's: their bytes are Arrow's as they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records.identity import ids_of
from pipeline.records.schema import CANDIDATES, REJECTIONS
from pipeline.web.urls import without_user_info

__all__ = ["LINKS", "MIN_LINK_BYTES", "PAGES", "TEXTLESS", "Arrays", "LinkColumns", "Strings"]

PAGES, LINKS, TEXTLESS = range(3)
MIN_LINK_BYTES = len('{"path":"IMG@/src"}')
_ROWS = 1 << 17
_BYTES = 1 << 24
_MAX_BYTES = (1 << 31) - 1
"""Arrow strings end there."""
_BYTES_PER_BYTE = 4
"""Room to keep in each column of strings for a byte of records: a URL grows as it is made absolute and canonical."""


class Strings(NamedTuple):
    """A column of strings; number i is data[ends[i]:ends[i + 1]]."""

    data: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]


class Arrays(NamedTuple):
    """Pages, their links with a text and their links without one. There is room behind the rows in use."""

    used: npt.NDArray[np.int64]
    """int64[3]: the numbers of PAGES, LINKS and TEXTLESS."""
    page_record: npt.NDArray[np.int64]
    """The byte offset of its record."""
    page_url: Strings
    link_page: npt.NDArray[np.int32]
    link_ordinal: npt.NDArray[np.int32]
    link_source: npt.NDArray[np.int8]
    """Of its text: the place in `LinkColumns.sources`."""
    url: Strings
    text: Strings
    identity: Strings
    """What its uid is the hash of: canonical URL, NUL, source of the text, NUL, text."""
    canonical_end: npt.NDArray[np.int64]
    """The place in the data of `identity`."""
    textless_page: npt.NDArray[np.int32]
    textless_ordinal: npt.NDArray[np.int32]
    textless_url: Strings
    """As the page wrote it."""


class LinkColumns:
    """Links of one file, whose texts are of the given sources."""

    def __init__(self, sources: Sequence[str]) -> None:
        self.sources = tuple(sources)
        self.arrays = _arrays(0, 0)

    def __len__(self) -> int:
        """The number of links, with a text or without."""
        return int(self.arrays.used[LINKS] + self.arrays.used[TEXTLESS])

    def has_room(self, num_bytes: int) -> bool:
        """Whether there is room for the links of so many bytes of records.

        It may not be enough for absolute URLs, which are longer than what they are made of.
        """
        columns = self.arrays
        filled = [
            column.ends[n]
            for n, column in zip(
                columns.used[[PAGES, LINKS, LINKS, LINKS, TEXTLESS]],
                (columns.page_url, columns.url, columns.text, columns.identity, columns.textless_url),
                strict=True,
            )
        ]
        return bool(
            max(columns.used) + num_bytes // MIN_LINK_BYTES < len(columns.page_record)
            and max(filled) + _BYTES_PER_BYTE * num_bytes <= len(columns.url.data)
        )

    def make_room(self, num_bytes: int) -> None:
        """Forget all rows, and have room for the links of so many bytes of records."""
        rows = max(num_bytes // MIN_LINK_BYTES + 1, _ROWS)
        self.arrays = _arrays(rows, min(max(_BYTES_PER_BYTE * num_bytes, _BYTES), _MAX_BYTES))

    def clear(self) -> None:
        """Forget all rows."""
        self.arrays.used[:] = 0

    def candidates(self, source: str) -> pa.RecordBatch:
        """The links with a text, as CANDIDATES."""
        columns = self.arrays
        pages, n, _ = columns.used.tolist()
        identity = columns.identity.data[: columns.identity.ends[n]].tobytes()
        ends = columns.identity.ends[: n + 1].tolist()
        page = pa.array(columns.link_page[:n])
        return pa.RecordBatch.from_arrays(
            [
                _ids(ids_of(identity, ends[:-1], ends[1:])),
                _ids(ids_of(identity, ends[:-1], columns.canonical_end[:n].tolist())),
                _strings(columns.url, n),
                _strings(columns.text, n),
                pa.array(self.sources, pa.string()).take(pa.array(columns.link_source[:n])),
                _strings(columns.page_url, pages).take(page),
                pa.nulls(n, pa.string()),
                pa.nulls(n, pa.string()),
                pa.repeat(pa.scalar(source, pa.string()), n),
                pa.array(columns.page_record[columns.link_page[:n]]),
                pa.array(columns.link_ordinal[:n]),
            ],
            schema=CANDIDATES,
        )

    def textless(self, source: str, max_detail_chars: int) -> pa.RecordBatch:
        """The links without a text, as REJECTIONS."""
        columns = self.arrays
        n = int(columns.used[TEXTLESS])
        urls = _strings(columns.textless_url, n)
        if pc.any(pc.match_substring(urls, "@")).as_py():
            urls = pa.array(map(without_user_info, urls.to_pylist()), pa.string())
        return pa.RecordBatch.from_arrays(
            [
                pa.repeat(pa.scalar(source, pa.string()), n),
                pa.array(columns.page_record[columns.textless_page[:n]]),
                pa.array(columns.textless_ordinal[:n]),
                pa.nulls(n, pa.binary(16)),
                pa.repeat(pa.scalar("extract", pa.string()), n),
                pa.repeat(pa.scalar("no_text", pa.string()), n),
                pc.utf8_slice_codeunits(urls, 0, max_detail_chars),
            ],
            schema=REJECTIONS,
        )


def _arrays(num_rows: int, num_bytes: int) -> Arrays:
    def strings() -> Strings:
        ends = np.empty(num_rows + 1, np.int64)
        ends[0] = 0
        return Strings(np.empty(num_bytes, np.uint8), ends)

    def numbers(kind: type[np.int8 | np.int32 | np.int64]) -> npt.NDArray[Any]:
        return np.empty(num_rows, kind)

    return Arrays(
        used=np.zeros(3, np.int64),
        page_record=numbers(np.int64),
        page_url=strings(),
        link_page=numbers(np.int32),
        link_ordinal=numbers(np.int32),
        link_source=numbers(np.int8),
        url=strings(),
        text=strings(),
        identity=strings(),
        canonical_end=numbers(np.int64),
        textless_page=numbers(np.int32),
        textless_ordinal=numbers(np.int32),
        textless_url=strings(),
    )


def _strings(column: Strings, num_rows: int) -> pa.StringArray:
    ends = column.ends[: num_rows + 1].astype(np.int32)
    data = column.data[: ends[-1]]
    return pa.StringArray.from_buffers(num_rows, pa.py_buffer(ends.tobytes()), pa.py_buffer(data.tobytes()))


def _ids(ids: bytes) -> pa.FixedSizeBinaryArray:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(ids) // 16, [None, pa.py_buffer(ids)])
