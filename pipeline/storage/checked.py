"""Reading what the pipeline wrote: every byte that a task uses is held against what vouches for it.

    done-record --digest--> Location --read--> whole files:  xxh3-128 over the file
                                              parts of Parquet:  the footer's own hash, and the checksums of the pages
                                              blocks, members of tars:  a hash each, kept beside their offset

Of a file in a bucket, a part is read by range, and the whole as a copy on this machine: for the moment, or once for all
processes where it is mapped (`copies.py`).

What does not fit is a DamagedFileError that names the file; `run` then makes the file again (`runs/damage.py`). Hashing
runs at 10 GB/s, a tenth of a percent of what decoding the same bytes takes.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import xxhash

from pipeline.errors import DamagedFileError
from pipeline.storage.atomic import sha256_of
from pipeline.storage.bucket import BucketFile, is_bucket_url
from pipeline.storage.copies import forget_copy, kept_copy, scratch_copy
from pipeline.storage.location import Location
from pipeline.storage.place import Place, pieces_of, place_of
from pipeline.watching import tally_here

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = [
    "check",
    "check_in_passing",
    "digest_of",
    "least_value",
    "load_vector",
    "open_file",
    "picture_hash",
    "read_batches",
    "read_part",
    "read_range",
    "read_ranges",
    "read_row_groups",
    "read_schema",
    "read_table",
]

_MAGIC = b"PAR1"
_WHOLE_DIGITS = 32
_SHA256_DIGITS = 64
_OTHER_BYTES = "its bytes are not those that were written"
_GONE = (errno.ENOENT, errno.EIO)
"""A file that is not there any more, and a disk that cannot read it: to make it again is the remedy for both."""


def digest_of(path: str | Path) -> str:
    """32 hex digits, xxh3-128 of the file; of a Parquet file 16 more, xxh3-64 of its footer.

    Against accidents, not against people: who may write into the directory may write the records too.
    """
    with open(path, "rb") as file:
        whole = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
        return whole + _digest_of_footer(file)


def _digest_of_footer(file: BinaryIO) -> str:
    """16 hex digits over the metadata of a Parquet file and what follows; empty for other files."""
    size = file.seek(0, os.SEEK_END)
    if size < 12:
        return ""
    file.seek(-8, os.SEEK_END)
    end = file.read(8)
    file.seek(0)
    if end[4:] != _MAGIC or file.read(4) != _MAGIC:
        return ""
    length = int.from_bytes(end[:4], "little") + 8
    if length > size:
        return ""
    file.seek(-length, os.SEEK_END)
    return xxhash.xxh3_64_hexdigest(file.read(length))


def picture_hash(image: bytes) -> bytes:
    """16 bytes: xxh3-128 of a picture as it is stored."""
    return xxhash.xxh3_128_digest(image)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Turn what a damaged, missing or unreadable file makes its readers raise into DamagedFileError."""
    try:
        yield
    except OSError as error:
        of_copy = is_bucket_url(path) and error.filename is not None and str(error.filename) != path
        if error.errno is not None and (error.errno not in _GONE or of_copy):
            raise  # the machine's fault, which passes: the engine tries again
        raise DamagedFileError(path, f"cannot be read ({_one_line(error)})") from error
    except (_arrow_error(), ValueError) as error:
        raise DamagedFileError(path, f"cannot be read ({_one_line(error)})") from error


def _arrow_error() -> type[Exception]:
    from pyarrow import ArrowException

    arrow_error: type[Exception] = ArrowException
    return arrow_error


def check(file: Location) -> str:
    """Hold a whole file against its digest; returns its path, of a file in a bucket that of the copy which this machine
    keeps. Raises DamagedFileError."""
    place = file.place
    if isinstance(place, Path):
        _check_whole(file.path, file)
        return file.path
    for is_last in (False, True):  # a copy may be of an object that has been put anew, or have been damaged here
        with _naming(file.path):
            copy = str(kept_copy(place))
        try:
            _check_whole(copy, file)
            break
        except DamagedFileError:
            forget_copy(place)
            if is_last:
                raise
    return copy


def _check_whole(path: str, file: Location) -> None:
    """Hold what is at `path`, the file itself or a copy, against the file's digest."""
    digest = file.digest
    if not digest:
        return
    with _naming(file.path):
        if len(digest) == _SHA256_DIGITS:
            found = sha256_of(Path(path))
        else:
            with open(path, "rb") as opened:
                found, digest = hashlib.file_digest(opened, xxhash.xxh3_128).hexdigest(), digest[:_WHOLE_DIGITS]
    if found != digest:
        raise DamagedFileError(file.path, _OTHER_BYTES)


def check_in_passing(file: Location) -> None:
    """As `check`, of a file that nobody is about to use: none in a bucket is copied. Raises DamagedFileError."""
    if isinstance(file.place, Path):
        _check_whole(file.path, file)
        return
    kind = hashlib.sha256 if len(file.digest) == _SHA256_DIGITS else xxhash.xxh3_128
    found = kind()
    with _naming(file.path):
        for piece in pieces_of(file.place):
            found.update(piece)
    if file.digest and found.hexdigest() != file.digest[: found.digest_size * 2]:
        raise DamagedFileError(file.path, _OTHER_BYTES)


def _check_footer(file: Location, opened: BinaryIO) -> None:
    """Before a part is read: what says where it lies. The pages have checksums of their own."""
    with _naming(file.path):
        found = _digest_of_footer(opened)
        opened.seek(0)
    if found != file.digest[_WHOLE_DIGITS:]:
        raise DamagedFileError(file.path, "its footer is not the one that was written")


@contextmanager
def _checked(file: Location, *, part: bool) -> Iterator[Any]:
    """What a Parquet reader takes for the file, held against its digest: the footer alone where a `part` is to be read,
    unless an earlier version wrote the file, whose pages have no checksums."""
    by_footer = part and len(file.digest) == _WHOLE_DIGITS + 16
    with ExitStack() as stack:
        place = file.place
        if not by_footer:
            path = file.path
            if not isinstance(place, Path):
                with _naming(file.path):
                    path = str(stack.enter_context(scratch_copy(place)))
            _check_whole(path, file)
            yield path
            return
        with _naming(file.path):
            opened = stack.enter_context(cast(BinaryIO, place.open("rb")))
        _check_footer(file, opened)
        yield file.path if isinstance(place, Path) else _as_arrow(opened)


def _as_arrow(opened: BinaryIO) -> Any:
    import pyarrow as pa

    return pa.PythonFile(opened, mode="r")


# --- Parquet --------------------------------------------------------------------------------------


def read_batches(file: Location, rows: int = 65_536, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The file batch by batch: the whole of it, or some columns. Raises DamagedFileError."""
    tally = tally_here()
    with _opened(file, part=columns is not None) as opened:
        batches = opened.iter_batches(rows, columns=None if columns is None else list(columns))
        while True:
            with _naming(file.path):
                batch = next(batches, None)
            if batch is None:
                return
            tally.rows_read += batch.num_rows
            yield batch


def read_table(file: Location, columns: Sequence[str] | None = None) -> pa.Table:
    """The whole file, or some of its columns. Raises DamagedFileError."""
    with _opened(file, part=columns is not None) as opened, _naming(file.path):
        return opened.read(columns=None if columns is None else list(columns))


def read_part(
    file: Location, filters: Sequence[tuple[str, str, Any]], columns: Sequence[str] | None = None
) -> pa.Table:
    """The rows that pass `filters` (of pyarrow's form), without reading row groups that hold none."""
    import pyarrow.parquet as pq

    with _checked(file, part=True) as source, _naming(file.path):
        return pq.read_table(
            source,
            columns=None if columns is None else list(columns),
            filters=list(filters),
            partitioning=None,
            page_checksum_verification=True,
        )


def read_row_groups(file: Location, first: int, step: int) -> Iterator[pa.Table]:
    """Every `step`-th row group from the one at `first` on. Raises DamagedFileError."""
    with _opened(file, part=True) as opened:
        for group in range(first, opened.num_row_groups, step):
            with _naming(file.path):
                table = opened.read_row_group(group)
            yield table


def read_schema(file: Location) -> pa.Schema:
    """The file's Arrow schema."""
    import pyarrow.parquet as pq

    with _checked(file, part=True) as source, _naming(file.path):
        return pq.read_schema(source)


def least_value(file: Location, column: str) -> Any:
    """The least value of a column, by the footer; None in a file without rows. Raises DamagedFileError."""
    with _opened(file, part=True) as opened, _naming(file.path):
        place = opened.schema_arrow.get_field_index(column)
        groups = [opened.metadata.row_group(group).column(place) for group in range(opened.num_row_groups)]
        return min((group.statistics.min for group in groups if group.num_values), default=None)


@contextmanager
def _opened(file: Location, *, part: bool) -> Iterator[pq.ParquetFile]:
    import pyarrow.parquet as pq

    with _checked(file, part=part) as source:
        with _naming(file.path):
            opened = pq.ParquetFile(source, page_checksum_verification=part)
        with opened:
            yield opened


# --- other files ----------------------------------------------------------------------------------


def load_vector(file: Location) -> npt.NDArray[Any]:
    """Memory-map a .npy, so that the workers of a machine share it. Raises DamagedFileError."""
    import numpy as np

    path = check(file)
    with _naming(file.path):
        vector: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return vector


def open_file(path: str | Place) -> BinaryIO:
    """A file for `read_range`. Raises DamagedFileError where it is gone."""
    with _naming(str(path)):
        return cast(BinaryIO, place_of(path).open("rb"))


def read_range(file: BinaryIO, offset: int, size: int, digest: bytes | int | None) -> bytes:
    """`size` bytes of an opened file, held against their xxh3-128 (16 bytes) or xxh3-64; None checks the size alone.

    Raises DamagedFileError.
    """
    (data,) = read_ranges(file, [(offset, size, digest)])
    return data


def read_ranges(file: BinaryIO, ranges: Sequence[tuple[int, int, bytes | int | None]]) -> list[bytes]:
    """As `read_range`, of several (offset, size, digest); those of a file in a bucket are asked for side by side."""
    with _naming(file.name):
        if isinstance(file, BucketFile):
            found = file.path.read_ranges([(offset, size) for offset, size, _ in ranges])
        else:
            found = [_read_at(file, offset, size) for offset, size, _ in ranges]
    for data, (offset, size, digest) in zip(found, ranges, strict=True):
        if len(data) != size:
            raise DamagedFileError(file.name, f"ends before byte {offset + size}")
        if digest is not None:
            told = xxhash.xxh3_64_intdigest(data) if isinstance(digest, int) else picture_hash(data)
            if told != digest:
                raise DamagedFileError(file.name, f"the {size} bytes at {offset} are not those that were written")
    return found


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
