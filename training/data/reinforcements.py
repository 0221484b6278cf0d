"""Reinforcements of a data set: what strong models say of its samples, in files by uid beside or apart from it.

REINFORCED/reinforced.json     the facts (`ReinforcementFacts`), written last: without it nothing here is finished
REINFORCED/PART.safetensors    the rows of some samples
REINFORCED/done/PART.json      while parts are made, so that a killed run goes on

The tensors of a part, for n samples, K augmentations, m synthetic captions and E, the widths of all teachers added up:

    uid           uint8[n, 16]
    is_whole      uint8[n]          1 where there is a whole picture; the others have zeros for features
    image         bfloat16[n, K, E] unit features of each teacher, one after the other, of each augmentation
    text          bfloat16[n, E]    of the sample's own caption
    first         int64[n + 1]      where each sample's synthetic captions begin among the m
    synthetic     bfloat16[m, E]    of these
    caption_ends  int64[m]          where each ends in `captions`
    captions      uint8[...]        UTF-8, end to end

Augmentations follow from (seed, uid, number), so nothing of them is kept (`augmentations.py`). A feature is read by its
offset: of a sample one of the K, its text and one of its synthetic captions.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from configs.load import fingerprint, from_mapping
from pipeline.errors import DamagedFileError, PipelineError, one_line
from pipeline.records.identity import first_64_bits
from pipeline.storage.atomic import write_json
from pipeline.storage.checked import open_file, read_ranges
from pipeline.storage.place import Place
from training.data.augmentations_config import StrongAugmentConfig
from training.data.facts_file import read_facts
from training.errors import FeaturesError

__all__ = [
    "FACTS_FILE",
    "PartFile",
    "ReinforcementFacts",
    "ReinforcementPart",
    "Reinforcements",
    "Teacher",
    "facts_of",
    "open_reinforcements",
    "part_file",
    "write_facts",
]

FACTS_FILE = "reinforced.json"
_FORMAT = 1
_AGAIN = "run the same `python -m training reinforce` again"
_BF16_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """One model of the ensemble."""

    model: str
    """The word that named it: see `load_model`."""
    fingerprint: str
    """`fingerprint_of` it."""
    model_name: str
    """open_clip's name of its architecture."""
    width: int
    """Of its features."""
    image_size: int
    logit_scale: float
    """What it multiplies similarities by."""


@dataclass(frozen=True, kw_only=True)
class ReinforcementPart:
    """One file."""

    name: str
    """The file is NAME.safetensors."""
    rows: int
    key: str
    """32 hex digits over the teachers, the options and what of the source the part was made from."""
    sha256: str
    """Of the file."""
    num_bytes: int
    whole: int
    """Rows with a whole picture."""
    broken: int
    """Rows that name a picture which is none, or not whole."""
    captions: int
    """Synthetic ones."""


@dataclass(frozen=True, kw_only=True)
class ReinforcementFacts:
    """What reinforced.json says."""

    teachers: tuple[Teacher, ...]
    seed: int
    augmentations: int
    """K."""
    augment: StrongAugmentConfig
    max_captions: int
    """Synthetic ones of a sample; more were left out."""
    precision: str
    """Of the teachers' forward passes."""
    source: str
    """The data set, as it was named."""
    captions_from: str | None
    """The table of synthetic captions; None without any."""
    rows: int
    parts: tuple[ReinforcementPart, ...] = field(repr=False)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the teachers' features."""
        return tuple(teacher.width for teacher in self.teachers)

    @property
    def captions(self) -> int:
        """Synthetic ones in all."""
        return sum(part.captions for part in self.parts)

    @property
    def num_bytes(self) -> int:
        """Of all parts."""
        return sum(part.num_bytes for part in self.parts)

    @property
    def content(self) -> str:
        """32 hex digits over all that a student learns from."""
        return fingerprint(
            [teacher.fingerprint for teacher in self.teachers], self.seed, self.augmentations, self.augment,
            [(part.name, part.sha256) for part in self.parts],
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reinforcements:
    """Some that are finished."""

    place: Place
    about: ReinforcementFacts

    def path(self, part: int) -> Place:
        """The file of a part, by its number."""
        return part_file(self.place, self.about.parts[part].name)


def part_file(place: Place, name: str) -> Place:
    """Where a part lies in the reinforcements at `place`."""
    return place / f"{name}.safetensors"


def open_reinforcements(path: str | Place) -> Reinforcements:
    """The reinforcements in `path`, a directory or a bucket's URL.

    Raises FeaturesError, in one line, for what holds none, none that are finished, or whose facts are damaged.
    """
    place, about = read_facts(
        path,
        FACTS_FILE,
        facts_of,
        version=_FORMAT,
        what="reinforcements",
        make="python -m training reinforce",
        again=_AGAIN,
    )
    return Reinforcements(place=place, about=about)


def facts_of(content: Mapping[str, Any]) -> ReinforcementFacts:
    """The facts in reinforced.json. Raises what a content of another form makes it raise."""
    named = {name: content[name] for name in ReinforcementFacts.__dataclass_fields__}
    named["teachers"] = tuple(Teacher(**teacher) for teacher in named["teachers"])
    named["parts"] = tuple(ReinforcementPart(**part) for part in named["parts"])
    named["augment"] = from_mapping(StrongAugmentConfig, named["augment"], where="augment")
    about = ReinforcementFacts(**named)
    if sum(part.rows for part in about.parts) != about.rows or not about.teachers or about.augmentations < 1:
        raise ValueError("its counts contradict each other")
    return about


def write_facts(place: Place, about: ReinforcementFacts) -> None:
    """Finish the reinforcements at `place`, all parts of which are there. Raises OutputError."""
    write_json(place / FACTS_FILE, {"format": _FORMAT, **asdict(about)})


class _Tensor(NamedTuple):
    shape: tuple[int, ...]
    begin: int
    """Byte of the file."""
    num_bytes: int


class PartFile:
    """A part, read tensor by tensor or feature by feature; opened once."""

    def __init__(self, path: Place, part: ReinforcementPart, *, width: int, shown: str | None = None) -> None:
        """`width`: E. `shown`: what errors call it. Raises FeaturesError for what is not the file that was written,
        by its size and its header."""
        self._path, self._shown = path, shown or str(path)
        self._file: BinaryIO | None = None
        try:
            self._file = open_file(path)
            self._tensors = self._header()
        except (OSError, PipelineError, ValueError, KeyError, TypeError) as error:
            raise FeaturesError(f"{self._shown}: missing or damaged ({_told(error)}); {_AGAIN}") from error
        end = max(tensor.begin + tensor.num_bytes for tensor in self._tensors.values())
        text = self._tensors["text"].shape
        if end != part.num_bytes or text != (part.rows, width) or self._tensors["image"].shape[0] != part.rows:
            raise FeaturesError(
                f"{self._shown}: not the file that {FACTS_FILE} tells of (cut short, or of others); {_AGAIN}"
            )

    def __del__(self) -> None:
        """Give the file back."""
        self.close()

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def uids(self) -> npt.NDArray[np.uint64]:
        """uint64[n]: first 64 bits."""
        return first_64_bits(self.array("uid", np.uint8))

    def array(self, name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """One tensor, whole; bfloat16 as uint16."""
        tensor = self._tensors[name]
        (data,) = self._read([(tensor.begin, tensor.num_bytes)])
        return np.frombuffer(data, dtype).reshape(tensor.shape)

    def features(self, wanted: Sequence[tuple[str, tuple[int, ...]]]) -> npt.NDArray[np.uint16]:
        """uint16[len(wanted), E]: bit patterns of bfloat16, each the row at (tensor, index) of `image` [row, number],
        `text` [row] or `synthetic` [row]."""
        ranges = []
        for name, index in wanted:
            shape, begin, _ = self._tensors[name]
            if any(not 0 <= one < most for one, most in zip(index, shape, strict=False)):
                raise FeaturesError(f"{self._shown}: has no {name} {index}; {_AGAIN}")
            width = shape[-1] * _BF16_BYTES
            ranges.append((begin + width * int(np.ravel_multi_index(index, shape[:-1])), width))
        return np.stack([np.frombuffer(data, np.uint16) for data in self._read(ranges)])

    def _read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        try:
            file = cast(BinaryIO, self._file)
            if not isinstance(self._path, Path):
                return read_ranges(file, [(begin, size, None) for begin, size in ranges])
            found = [os.pread(file.fileno(), size, begin) for begin, size in ranges]  # past the file's buffer
            if any(len(data) != size for data, (_, size) in zip(found, ranges, strict=True)):
                raise ValueError("cut short")
            return found
        except (OSError, PipelineError, ValueError) as error:
            raise FeaturesError(f"{self._shown}: cannot be read ({_told(error)}); {_AGAIN}") from error

    def _header(self) -> dict[str, _Tensor]:
        """The tensors by name (safetensors: 8 bytes of length, JSON, data)."""
        file = cast(BinaryIO, self._file)
        (length,) = struct.unpack("<Q", read_ranges(file, [(0, 8, None)])[0])
        if length > 1 << 20:
            raise ValueError("no safetensors")
        content = json.loads(read_ranges(file, [(8, length, None)])[0])
        tensors = {}
        for name, about in content.items():
            if name != "__metadata__":
                begin, end = about["data_offsets"]
                tensors[name] = _Tensor(tuple(about["shape"]), 8 + length + begin, end - begin)
                if tensors[name].num_bytes % max(1, math.prod(about["shape"])):
                    raise ValueError("no safetensors")
        return tensors


def _told(error: Exception) -> str:
    """What is wrong, without the remedy for files of the pipeline."""
    return error.what if isinstance(error, DamagedFileError) else one_line(error)
