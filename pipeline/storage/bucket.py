"""Files in a bucket: what `pathlib.Path` is for a directory, with the few methods that this project needs.

    BucketPath("s3://bucket/sets/one") / "work" / "lists"      plain enough to travel to any worker

An object is put whole or not at all, so nothing here has a temporary name. What may be put only where nobody else did
says so (`put_new`), or names the version that it takes the place of (`put_over`); `can_compare` tells whether the store
does that. Keys and tokens come from where the store's own tools take them, and enter no message.

Every failure is an OSError: FileNotFoundError for an object that is not there, StoreError for the rest, such as a store
that refuses or does not answer.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import io
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from pipeline.errors import OutputError, PipelineError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = [
    "SCHEMES",
    "BucketFile",
    "BucketPath",
    "ConflictError",
    "StoreError",
    "Tag",
    "bucket_file_system",
    "is_bucket_url",
    "register_buckets",
]

SCHEMES = ("s3", "gs", "az")
_URL = re.compile(rf"({'|'.join(SCHEMES)})://")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CONNECT_TIMEOUT = "5s"
_REQUEST_TIMEOUT = "120s"
"""Of one request; large files go in several."""
_RETRIES = 6
_RETRY_TIMEOUT_S = 25
"""A store that is gone is told of within half a minute."""
_PART_BYTES = 16 << 20
_READ_BYTES = 8 << 20
_BUFFER_BYTES = 1 << 20

Tag = str
"""What tells one version of an object from another (ETag)."""


class StoreError(OSError, PipelineError):
    """The store did not do what it was asked. A cause that may pass has ECONNABORTED, a refusal EACCES."""

    def __init__(self, what: str, url: str, number: int = errno.ECONNABORTED) -> None:
        super().__init__(number, what, url)
        self._arguments = (what, url, number)

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"

    def __reduce__(self) -> tuple[type[StoreError], tuple[str, str, int]]:
        return type(self), self._arguments


class ConflictError(Exception):
    """Somebody else has put the object, or another version of it, meanwhile."""


def is_bucket_url(text: str) -> bool:
    """Whether this is a URL of a store that may be written to."""
    return _URL.match(text) is not None


class Stat(NamedTuple):
    """What `os.stat` says of a file, as far as a store knows it."""

    st_size: int
    tag: Tag = ""


@dataclass(frozen=True, order=True)
class BucketPath:
    """An object, or the objects whose names begin with it and a slash."""

    bucket: str
    """`s3://bucket`."""
    key: str
    """Without a slash at its ends; empty for the bucket itself."""

    @classmethod
    def of(cls, url: str) -> BucketPath:
        """Raises OutputError for what is no URL of a bucket, or holds a user or a password."""
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            kinds = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise OutputError(f"{_without_user(url)}: not the URL of a bucket; give a directory, or one of {kinds}")
        if "@" in parts.netloc:
            raise OutputError(
                f"{_without_user(url)}: no place for keys, since it is written down in many places; give them by the "
                "environment or a profile"
            )
        if parts.query or parts.fragment:
            raise OutputError(f"{url}: the URL of a bucket has no ? and no #")
        key = posixpath.normpath(parts.path.strip("/")) if parts.path.strip("/") else ""
        if key.startswith(".."):
            raise OutputError(f"{url}: leads out of its bucket")
        return cls(f"{parts.scheme}://{parts.netloc}", "" if key == "." else key)

    # --- the name ---------------------------------------------------------------------------------

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    def __truediv__(self, name: str) -> BucketPath:
        return BucketPath(self.bucket, posixpath.normpath(posixpath.join(self.key, name)))

    @property
    def name(self) -> str:
        return posixpath.basename(self.key)

    @property
    def stem(self) -> str:
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> BucketPath:
        return BucketPath(self.bucket, posixpath.dirname(self.key))

    @property
    def parents(self) -> Sequence[BucketPath]:
        found = [self.parent]
        while found[-1].key:
            found.append(found[-1].parent)
        return found

    def with_name(self, name: str) -> BucketPath:
        return self.parent / name

    def resolve(self) -> BucketPath:
        return self

    def relative_to(self, other: BucketPath) -> str:
        """The rest of the key. Raises ValueError where it is not inside of `other`."""
        inside = f"{other.key}/" if other.key else ""
        if self.bucket != other.bucket or not self.key.startswith(inside):
            raise ValueError(f"{self} is not inside of {other}")
        return self.key[len(inside) :]

    # --- what is there ----------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether there is such an object, or any below it."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        import obstore

        with _errors(self):
            for batch in obstore.list(_store(self.bucket), f"{self.key}/" if self.key else None, chunk_size=1):
                return bool(batch)
        return False

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> Stat:
        """Raises FileNotFoundError."""
        import obstore

        with _errors(self):
            about = obstore.head(_store(self.bucket), self.key)
        return Stat(about["size"], about["e_tag"] or "")

    def walk(self) -> Iterator[tuple[BucketPath, int]]:
        """Every object below, with its bytes, by name."""
        import obstore

        with _errors(self):
            for batch in obstore.list(_store(self.bucket), f"{self.key}/" if self.key else None):
                for about in batch:
                    yield BucketPath(self.bucket, about["path"]), about["size"]

    def rglob(self, pattern: str) -> Iterator[BucketPath]:
        """Every object below whose own name matches."""
        return (path for path, _ in self.walk() if fnmatch.fnmatchcase(path.name, pattern))

    def glob(self, pattern: str) -> list[BucketPath]:
        """The objects of this place, and no deeper, whose name matches."""
        return [path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern)]

    def iterdir(self) -> Iterator[BucketPath]:
        """Objects and prefixes of this place."""
        import obstore

        with _errors(self):
            found = obstore.list_with_delimiter(_store(self.bucket), f"{self.key}/" if self.key else None)
        for prefix in found["common_prefixes"]:
            yield BucketPath(self.bucket, prefix.strip("/"))
        for about in found["objects"]:
            yield BucketPath(self.bucket, about["path"])

    # --- reading ----------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        return self.read_tagged()[0]

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def read_tagged(self) -> tuple[bytes, Tag]:
        """The object and what tells its version. Raises FileNotFoundError."""
        import obstore

        with _errors(self):
            found = obstore.get(_store(self.bucket), self.key)
            return bytes(found.bytes()), found.meta["e_tag"] or ""

    def read_part(self, offset: int, size: int, tag: Tag) -> bytes:
        """Up to `size` bytes of the version `tag`, from `offset` on. Raises ConflictError where that is gone."""
        import obstore
        from obstore import exceptions

        try:
            with _errors(self):
                wanted: Any = {"range": (offset, offset + size), **({"if_match": tag} if tag else {})}
                return bytes(obstore.get(_store(self.bucket), self.key, options=wanted).bytes())
        except exceptions.PreconditionError:
            raise ConflictError(str(self)) from None

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size), asked for side by side; neighbours in one request."""
        import obstore

        with _errors(self):
            starts, lengths = [start for start, _ in ranges], [size for _, size in ranges]
            found = obstore.get_ranges(_store(self.bucket), self.key, starts=starts, lengths=lengths)
            return [bytes(data) for data in found]

    def open(self, mode: str = "rb") -> BucketFile:
        """The object as a file that can seek; a read that its buffer does not hold is a request."""
        if mode != "rb":
            raise ValueError(f"{self}: an object is read, or put whole")
        return BucketFile(self)

    def stream(self) -> Iterator[bytes]:
        """The object from its beginning to its end, piece by piece."""
        import obstore

        with _errors(self):
            for piece in obstore.get(_store(self.bucket), self.key).stream(min_chunk_size=_READ_BYTES):
                yield bytes(piece)

    # --- writing ----------------------------------------------------------------------------------

    def put(self, data: bytes | Path) -> None:
        """Put the object, over whatever is there; a file goes in parts, side by side."""
        import obstore

        with _errors(self):
            obstore.put(_store(self.bucket), self.key, data, chunk_size=_PART_BYTES, max_concurrency=4)

    def put_new(self, data: bytes) -> Tag:
        """Put the object where there is none. Raises ConflictError where there is."""
        return self._put_if(data, "create")

    def put_over(self, data: bytes, tag: Tag) -> Tag:
        """Put the object in the place of the version `tag`. Raises ConflictError where that is gone."""
        return self._put_if(data, {"e_tag": tag})

    def _put_if(self, data: bytes, mode: Any) -> Tag:
        import obstore
        from obstore import exceptions

        try:
            with _errors(self):
                return obstore.put(_store(self.bucket), self.key, data, mode=mode, use_multipart=False)["e_tag"] or ""
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            # An answer that was lost on its way is asked for again: then it may be our own that stands there.
            with contextlib.suppress(FileNotFoundError):
                found, tag = self.read_tagged()
                if found == data:
                    return tag
            raise ConflictError(str(self)) from None
        except FileNotFoundError:  # to be replaced, and gone
            raise ConflictError(str(self)) from None

    def can_compare(self) -> bool:
        """Whether the store does `put_new`: shown by a second one that is refused. Leaves the object there."""
        import obstore
        from obstore import exceptions

        try:
            with _errors(self):
                obstore.put(_store(self.bucket), self.key, os.urandom(16), mode="create", use_multipart=False)
                obstore.put(_store(self.bucket), self.key, os.urandom(16), mode="create", use_multipart=False)
        except exceptions.AlreadyExistsError:
            return True
        except (exceptions.NotSupportedError, NotImplementedError):
            return False
        return False

    def copy(self, to: BucketPath) -> None:
        """Have the store copy the object, within its bucket."""
        import obstore

        with _errors(self):
            obstore.copy(_store(self.bucket), self.key, to.key)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object; a store does not say whether there was one."""
        BucketPath.remove([self])

    @staticmethod
    def remove(paths: Sequence[BucketPath]) -> None:
        """Remove objects, of one bucket."""
        import obstore

        if paths:
            with _errors(paths[0]):
                obstore.delete(_store(paths[0].bucket), [path.key for path in paths])

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """A bucket has no directories."""


class BucketFile(io.RawIOBase):
    """An object opened for reading, for those who ask for a file."""

    def __init__(self, path: BucketPath) -> None:
        self.name = str(path)
        self.path = path

    @functools.cached_property
    def _reader(self) -> Any:
        """Asks for the object's size, which who reads ranges of it need not know."""
        import obstore

        with _errors(self.path):
            return obstore.open_reader(_store(self.path.bucket), self.path.key, buffer_size=_BUFFER_BYTES)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """As many bytes as are asked for, unless the object ends before."""
        with _errors(self.path):
            return bytes(self._reader.read(None if size is None or size < 0 else size))

    def readall(self) -> bytes:
        return self.read()

    def seek(self, offset: int, whence: int = 0) -> int:
        with _errors(self.path):
            return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())


# --- the store ------------------------------------------------------------------------------------


@functools.cache
def _store(bucket: str) -> ObjectStore:
    """The client of a bucket, one a process. Raises OutputError where nothing here can serve it."""
    try:
        from obstore import exceptions
        from obstore.store import from_url
    except ImportError as error:
        raise OutputError(f"{bucket}: to use a bucket, pip install 'openwit[s3]'") from error
    try:
        return from_url(bucket, **_client_options(bucket.partition(":")[0]))
    except exceptions.BaseError as error:
        raise OutputError(f"{bucket}: cannot be served ({_first_line(error)})") from error


def _client_options(scheme: str) -> dict[str, Any]:
    """How every client of a kind is made: soon tired of a store that is gone, and with the user's keys."""
    options: dict[str, Any] = {
        "client_options": {"connect_timeout": _CONNECT_TIMEOUT, "timeout": _REQUEST_TIMEOUT},
        "retry_config": {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_TIMEOUT_S)},
    }
    if scheme == "s3":
        endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
        if endpoint.scheme == "http" and endpoint.hostname in _LOOPBACK:
            options["client_options"]["allow_http"] = True
        options |= _profile()
    return options


def _profile() -> dict[str, Any]:
    """The credentials of ~/.aws, which the client does not read itself; those of the environment come first."""
    home = Path.home() / ".aws"
    files = [os.environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials")]
    files.append(os.environ.get("AWS_CONFIG_FILE", home / "config"))
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_SKIP_SIGNATURE"):
        return {}
    if not any(os.path.exists(file) for file in files):
        return {}
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider

        session = boto3.Session()
        if session.get_credentials() is None:
            return {}
        return {"credential_provider": Boto3CredentialProvider(session)}
    except ImportError:
        return {}
    except Exception as error:  # botocore's own, such as a profile that is not there
        raise OutputError(f"~/.aws: {_first_line(error)}; correct AWS_PROFILE or the file") from error


@contextlib.contextmanager
def _errors(path: BucketPath) -> Iterator[None]:
    """Turn the client's errors into OSErrors, of one line and without a request's headers."""
    from obstore import exceptions

    try:
        yield
    except exceptions.NotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise StoreError("there is no such bucket", path.bucket) from None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        told = "the store refuses: look at the keys, and at what they may do"
        raise StoreError(told, str(path), errno.EACCES) from None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError, exceptions.NotSupportedError):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except StoreError:
        raise
    except (exceptions.BaseError, OSError) as error:
        raise StoreError(_first_line(error), str(path)) from None


def _first_line(error: BaseException) -> str:
    """What a client's error says, without the debug text that follows."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return " ".join(line.split())[:200].rstrip(".:; ")


def _without_user(url: str) -> str:
    return re.sub(r"//[^/]*@", "//", url)


def register_buckets() -> None:
    """Have fsspec open the URLs of buckets by the same kind of client; where obstore is not installed it opens them by
    what it finds."""
    with contextlib.suppress(ImportError):
        _register()


@functools.cache
def _register() -> None:
    import fsspec

    for scheme in SCHEMES:
        fsspec.register_implementation(scheme, type(bucket_file_system(scheme)), clobber=True)


@functools.cache
def bucket_file_system(scheme: str) -> Any:
    """An fsspec file system over the same kind of client, for those who ask by URL, such as DuckDB."""
    from obstore.fsspec import FsspecStore

    class _Buckets(FsspecStore):
        protocol = scheme

        def __init__(self, *args: Any, **options: Any) -> None:
            known: dict[str, Any] = {**_client_options(scheme), **options}
            super().__init__(scheme, *args, **known)  # type: ignore[call-overload]  # which scheme is not said here

    return _Buckets()
