"""Opening a source, local or remote, with one clear line where it cannot be read."""

from __future__ import annotations

import errno
import os
from typing import BinaryIO, cast

from pipeline.errors import InputError
from pipeline.storage.named_objects import is_object, open_object
from pipeline.storage.store_client import StoreError
from pipeline.web.remote import is_web, open_download

__all__ = ["open_binary", "size_of"]


def open_binary(path: str) -> BinaryIO:
    """`path` (a local path, an http(s) URL or another fsspec URL) opened for reading bytes; seekable.

    Raises InputError where it does not exist, is a directory or may not be read, or where the URL's
    protocol is not known or lacks its package; StoreError where a bucket's store does not answer, which says nothing of
    the file.
    """
    try:
        if is_web(path):
            return open_download(path)
        if is_object(path):
            return open_object(path)
        if "://" in path or "::" in path:
            import fsspec

            return cast(BinaryIO, fsspec.open(path, "rb").open())
        return open(path, "rb")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path in the config") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: a directory; name its files, for example {os.path.join(path, '*.gz')}") from error
    except StoreError as error:
        if error.errno != errno.EACCES:
            raise
        raise InputError(f"{path}: cannot be opened ({error})") from error
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it") from error
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{path}: cannot be opened ({error})") from error


def size_of(path: str) -> int:
    """Bytes of a file. Raises InputError as `open_binary` does."""
    with open_binary(path) as file:
        return file.seek(0, os.SEEK_END)
