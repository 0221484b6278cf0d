"""The client of buckets: how it is made, which of its requests are made again, and what its errors are to us.

Keys come from where the store's own tools take them, and enter no message.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pipeline.errors import OutputError, PipelineError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from pipeline.storage.bucket import BucketPath

__all__ = ["TRIES", "StoreError", "errors", "first_line", "patiently", "store_of", "tried"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CLIENT = {"connect_timeout": "5s", "read_timeout": "10s", "timeout": "10min"}
"""Silence ends a request, not its length."""
_RETRIES = {"max_retries": 12, "retry_timeout": timedelta(seconds=15)}
"""With the time-out of the last: a store that is gone is told of within half a minute."""
TRIES = 3
_SOON_S = 5.0
"""Requests that the client gave up so soon are made again: it does so where the answer to a listing or a copy, or an
error, is cut."""
_PATIENCE_S, _PAUSE_S = 300.0, 2.0

T = TypeVar("T")


class StoreError(OSError, PipelineError):
    """The store did not do what it was asked: ECONNABORTED for a cause that may pass, EACCES for a refusal."""

    def __init__(self, what: str, url: str, number: int = errno.ECONNABORTED) -> None:
        super().__init__(number, what, url)
        self._arguments = (what, url, number)

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"

    def __reduce__(self) -> tuple[type[StoreError], tuple[str, str, int]]:
        return type(self), self._arguments


@functools.cache
def store_of(bucket: str) -> ObjectStore:
    """The client of a bucket, one a process. Raises OutputError where nothing here can serve it."""
    try:
        from obstore import exceptions
        from obstore.store import from_url
    except ImportError as error:
        raise OutputError(f"{bucket}: to use a bucket, pip install 'openwit[s3]'") from error
    try:
        return from_url(bucket, **_client_options(bucket.partition(":")[0]))
    except exceptions.BaseError as error:
        raise OutputError(f"{bucket}: cannot be served ({first_line(error)})") from error


def _client_options(scheme: str) -> dict[str, Any]:
    """How every client of a kind is made: soon tired of a store that is gone, and with the user's keys."""
    options: dict[str, Any] = {
        "client_options": dict(_CLIENT),
        "retry_config": _RETRIES,
    }
    if scheme == "s3":
        endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
        asked = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
        if endpoint.scheme == "http" and (asked or endpoint.hostname in _LOOPBACK):
            options["client_options"]["allow_http"] = True
        options |= _profile()
    return options


_OWN_CREDENTIALS = {
    *("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
}
"""Variables that the client reads itself, and that come before a profile."""


def _profile() -> dict[str, Any]:
    """The credentials of ~/.aws (AWS_PROFILE, sso, roles), and its endpoint: the client reads neither."""
    files = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
    there = any(Path(os.environ.get(name, default)).expanduser().is_file() for name, default in files)
    if not _OWN_CREDENTIALS.isdisjoint(os.environ) or not (there or "AWS_PROFILE" in os.environ):
        return {}
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise OutputError("~/.aws: to use a profile, pip install 'openwit[s3]'") from error
    try:
        session = boto3.Session(region_name=os.environ.get("AWS_REGION"))  # which boto3 does not read itself
        if session.get_credentials() is None:
            return {}
        found: dict[str, Any] = {"credential_provider": Boto3CredentialProvider(session)}
        endpoint = session.client("s3").meta.endpoint_url
    except BotoCoreError as error:
        raise OutputError(f"~/.aws: {first_line(error)}; correct AWS_PROFILE or the file") from error
    if not endpoint.endswith(".amazonaws.com"):
        found["config"] = {"endpoint": endpoint}
    return found


def patiently(call: Callable[[], T]) -> T:
    """Make a request again for minutes, where much work would be lost with it. Raises StoreError for a refusal at
    once."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return call()
        except StoreError as error:
            if error.errno == errno.EACCES or time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)


def tried(path: BucketPath, call: Callable[[], T]) -> T:
    """Make a request that may be made twice, with its errors told as ours."""
    for attempt in range(TRIES):
        began = time.monotonic()
        try:
            with errors(path):
                return call()
        except StoreError as error:
            soon = error.errno == errno.ECONNABORTED and time.monotonic() - began < _SOON_S
            if attempt == TRIES - 1 or not soon:
                raise
            time.sleep(0.1 * 4**attempt)
    raise AssertionError("not reached")


@contextlib.contextmanager
def errors(path: BucketPath) -> Iterator[None]:
    """Turn the client's errors into OSErrors, of one line and without a request's headers."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise StoreError("there is no such bucket", path.bucket, errno.EACCES) from None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        told = "the store refuses: look at the keys, and at what they may do"
        raise StoreError(told, str(path), errno.EACCES) from None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError, exceptions.NotSupportedError, StoreError):
        raise
    except (exceptions.BaseError, OSError) as error:
        if "NoSuchBucket" in str(error):  # as a listing has it
            raise StoreError("there is no such bucket", path.bucket, errno.EACCES) from None
        raise StoreError(first_line(error), str(path)) from None


def first_line(error: BaseException) -> str:
    """What a client's error says, without the debug text that follows."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    asked, _, rest = line.partition(" in ")  # how long it took, and after how many tries
    line = f"{asked}: {rest.rpartition(' - ')[2]}" if " - " in rest else line
    return " ".join(line.split())[:300].rstrip(".:; ")
