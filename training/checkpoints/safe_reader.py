"""Reads sharded checkpoints that may come from anywhere: torch unpickles their `.metadata`, which runs what it names.

.metadata --only these classes--> what lies where --only tensors, only files beside it--> torch's reader
"""

from __future__ import annotations

import pathlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta, TensorStorageMetadata

__all__ = ["SafeReader"]

_CLASSES: Mapping[tuple[str, str], Any] = {
    **{
        (metadata.__name__, name): getattr(metadata, name)
        for name in (
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    },
    (filesystem.__name__, "_StorageInfo"): filesystem._StorageInfo,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("torch", "Size"): torch.Size,
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    **{(name, "PosixPath"): pathlib.PurePosixPath for name in ("pathlib", "pathlib._local")},
}
"""Everything that torch 2.9 to 2.14 name in the metadata of tensors."""


class SafeReader(FileSystemReader):
    """torch's reader, whose metadata may name nothing but tensors in files beside it."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What lies where. Raises pickle.UnpicklingError for anything else than that, and OSError."""
        with (Path(self.path) / ".metadata").open("rb") as file:
            try:
                found = _Unpickler(file).load()
                _check(found)
            except (AttributeError, EOFError, IndexError, KeyError, TypeError, ValueError, MemoryError) as error:
                raise pickle.UnpicklingError(f"its .metadata cannot be read ({error})") from error
        if found.storage_meta is None:
            found.storage_meta = StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found  # type: ignore[no-any-return]  # checked above


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """One of the classes that are needed. Raises pickle.UnpicklingError for any other."""
        try:
            return _CLASSES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"its .metadata names {module}.{name}, which no checkpoint of weights needs; it is not run"
            ) from None


def _check(found: Any) -> None:
    """Raise UnpicklingError unless `found` speaks of tensors in files beside it, and of nothing else."""
    entries = found.state_dict_metadata
    # Of anything but a tensor torch would unpickle the content, freely.
    if not isinstance(found, Metadata) or not all(isinstance(e, TensorStorageMetadata) for e in entries.values()):
        raise pickle.UnpicklingError("its .metadata names more than tensors")
    for index, info in found.storage_data.items():
        name = info.relative_path
        if not isinstance(index, MetadataIndex) or not isinstance(info, filesystem._StorageInfo):
            raise pickle.UnpicklingError("its .metadata is none of torch's")
        if not isinstance(name, str) or Path(name).name != name or info.transform_descriptors:
            raise pickle.UnpicklingError(f"its .metadata names the file {name!r}, which is not beside it")
