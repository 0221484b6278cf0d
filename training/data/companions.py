"""What is known of samples beside their shards, joined to the index by uid before a run begins.

    data.captions.path   Parquet of captions -----------+--> RUN/index/FINGERPRINT/beside-*.bin, beside.json
    data.reinforced      reinforcements, with captions -+        --> Companions, in data workers as well

A sample takes 8 bytes and its captions, of reinforced data 16 more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from configs.load import fingerprint
from training.config import DataConfig
from training.data.caption_tables import CaptionTable
from training.data.index import SampleIndex
from training.data.reinforcements import PartFile, Reinforcements, open_reinforcements
from training.data.shards import read_json
from training.data.uid_lookup import FoundRows, UidLookup
from training.errors import DataError

__all__ = ["FILES", "Companions", "load_companions", "write_companions"]

FILES = "beside*"
_FACTS = "beside.json"
_DTYPES: dict[str, npt.DTypeLike] = {
    "first": np.int64,
    "caption_end": np.int64,
    "captions": np.uint8,
    "part": np.int32,
    "row": np.int32,
    "feature": np.int64,
}
_OF_CAPTIONS = ("first", "caption_end", "captions")


@dataclass(frozen=True, kw_only=True)
class Companions:
    """What stands beside the N samples of an index."""

    fingerprint: str
    """Of all that a model may learn of it."""
    num_without: int
    """Samples without a caption but their own."""
    first: npt.NDArray[np.int64]
    """int64[N + 1]: where each sample's captions begin among all."""
    caption_end: npt.NDArray[np.int64]
    """int64[C]: where each ends in `captions`."""
    captions: npt.NDArray[np.uint8]
    """UTF-8, end to end."""
    reinforced: tuple[str, ...] = ()
    """Places of the reinforcements, of each directory of the index in turn."""
    part: npt.NDArray[np.int32] | None = None
    """int32[N]: the part that has the sample, numbered on from those of the directory before."""
    row: npt.NDArray[np.int32] | None = None
    """int32[N]: its row there; -1 where its picture is broken."""
    feature: npt.NDArray[np.int64] | None = None
    """int64[N]: where its synthetic captions begin among those of the part."""

    def captions_of(self, sample: int) -> list[str]:
        """Those of one sample, beside its own."""
        return [self._caption(number) for number in range(int(self.first[sample]), int(self.first[sample + 1]))]

    def _caption(self, number: int) -> str:
        start = int(self.caption_end[number - 1]) if number else 0
        return self.captions[start : int(self.caption_end[number])].tobytes().decode("utf-8", "replace")

    @cached_property
    def sets(self) -> tuple[Reinforcements, ...]:
        """The reinforcements. Raises FeaturesError."""
        return tuple(map(open_reinforcements, self.reinforced))


def load_companions(directory: str | Path) -> Companions | None:
    """Those of the index in `directory`, memory-mapped; None where it has none."""
    root = Path(directory)
    if not (root / _FACTS).is_file():
        return None
    about = read_json(root / _FACTS)
    names = [name for name in _DTYPES if about["reinforced"] or name in _OF_CAPTIONS]
    arrays: dict[str, Any] = {name: _mapped(root / f"beside-{name}.bin", _DTYPES[name]) for name in names}
    about["reinforced"] = tuple(about["reinforced"])
    return Companions(**about, **arrays)


def _mapped(path: Path, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


def write_companions(index: SampleIndex, directory: str | Path, config: DataConfig) -> Companions | None:
    """Join what `config` names to `index`, beside it in `directory`; None where it names nothing.

    Raises DataError where samples have no reinforcement, and for tables that are none; FeaturesError.
    """
    if config.captions.path is None and not config.reinforced:
        return None
    root = Path(directory)
    with _Writer(root) as writer:
        if config.reinforced:
            about = _add_reinforced(writer, index, config.reinforced)
        else:
            table, about = CaptionTable(config.captions.path or ""), {"reinforced": []}
            for stem, rows in _shards(index):
                writer.add_captions(table.of(stem, index.uid[rows.start : rows.stop]))
            if writer.num_without == len(index):
                raise DataError(
                    f"{config.captions.path}: has captions of none of the {len(index):,} samples; name the table of "
                    "this data set with --data.captions.path"
                )
        digests = writer.finish()
    facts = {
        "fingerprint": fingerprint(digests, about.pop("content", "")),
        "num_without": writer.num_without,
        **about,
    }
    (root / f"{_FACTS}.tmp").write_text(json.dumps(facts), encoding="utf-8")
    (root / f"{_FACTS}.tmp").rename(root / _FACTS)
    return load_companions(root)


class _Writer:
    """Appends shards to the arrays, which are there when all are whole."""

    def __init__(self, root: Path) -> None:
        self.num_without = 0
        self._root = root
        self._stack = ExitStack()
        self._files: dict[str, BinaryIO] = {}
        self._digests: dict[str, Any] = {}
        self._captions = self._bytes = 0

    def __enter__(self) -> _Writer:
        self.add("first", np.zeros(1, np.int64))
        for name in _OF_CAPTIONS:
            self.add(name, np.zeros(0, _DTYPES[name]))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for name in self._files:
            self._temporary(name).unlink(missing_ok=True)

    def add(self, name: str, values: npt.NDArray[Any]) -> None:
        """More values of one array."""
        if name not in self._files:
            self._files[name] = self._stack.enter_context(self._temporary(name).open("wb"))
            self._digests[name] = xxhash.xxh3_128()
        data = values.astype(_DTYPES[name], copy=False).tobytes()
        self._files[name].write(data)
        self._digests[name].update(data)

    def add_captions(self, lists: Sequence[Sequence[str]]) -> None:
        """Those of the next samples."""
        counts = np.array([len(texts) for texts in lists], np.int64)
        texts = [text.encode("utf-8", "replace") for some in lists for text in some]
        lengths = np.array([len(text) for text in texts], np.int64)
        self.add("first", self._captions + np.cumsum(counts))
        self.add("caption_end", self._bytes + np.cumsum(lengths))
        self.add("captions", np.frombuffer(b"".join(texts), np.uint8))
        self._captions += len(texts)
        self._bytes += int(lengths.sum())
        self.num_without += int((counts == 0).sum())

    def finish(self) -> dict[str, str]:
        """The arrays are there; their digests by name."""
        self._stack.close()
        for name in self._files:
            self._temporary(name).rename(self._root / f"beside-{name}.bin")
        return {name: digest.hexdigest() for name, digest in self._digests.items()}

    def _temporary(self, name: str) -> Path:
        return self._root / f"beside-{name}.tmp"


def _shards(index: SampleIndex, within: range | None = None) -> Iterator[tuple[str, range]]:
    """(stem, samples) of each shard that has some, of those whose samples lie within some."""
    for number, path in enumerate(index.paths):
        rows = index.of_shard(number)
        if len(rows) and (within is None or rows.start in within):
            yield path.rpartition("/")[2].removesuffix(".tar"), rows


def _add_reinforced(writer: _Writer, index: SampleIndex, places: Sequence[str]) -> dict[str, Any]:
    """Raises DataError where samples are not in the reinforcements of their set."""
    sets = [open_reinforcements(place) for place in places]
    _check_alike(sets)
    before = begin = 0
    for one, size in zip(sets, index.sizes, strict=True):
        lookup = UidLookup([about.name for about in one.about.parts], partial(_uids, one))
        missing = 0
        for stem, samples in _shards(index, range(begin, begin + size)):
            found = lookup.find(stem, index.uid[samples.start : samples.stop])
            missing += int((found.file < 0).sum())
            if not missing:
                _add_shard(writer, one, found, before)
        if missing:
            raise DataError(
                f"{one.place}: {missing:,} of the {size:,} samples of the data set have no reinforcement there; run "
                "the same `python -m training reinforce` again, which goes on with what is new, or name those of this "
                "set with --data.reinforced"
            )
        before += len(one.about.parts)
        begin += size
    return {"reinforced": [str(one.place) for one in sets], "content": [one.about.content for one in sets]}


def _add_shard(writer: _Writer, one: Reinforcements, found: FoundRows, before: int) -> None:
    rows, features = np.full(len(found.row), -1, np.int32), np.zeros(len(found.row), np.int64)
    captions: list[list[str]] = [[] for _ in found.row]
    for number in np.unique(found.file):
        which = np.flatnonzero(found.file == number)
        there = found.row[which]
        with closing(_opened(one, int(number))) as file:
            first = file.array("first", np.int64)
            rows[which] = np.where(file.array("is_whole", np.uint8)[there] == 1, there, -1)
            features[which] = first[there]
            ends, text = file.array("caption_ends", np.int64), file.array("captions", np.uint8)
        begins = np.concatenate([[0], ends])
        for place, row in zip(which, there, strict=True):
            numbers = range(int(first[row]), int(first[row + 1]))
            captions[place] = [text[begins[n] : ends[n]].tobytes().decode("utf-8", "replace") for n in numbers]
    writer.add("part", before + found.file)
    writer.add("row", rows)
    writer.add("feature", features)
    writer.add_captions(captions)


def _opened(one: Reinforcements, number: int) -> PartFile:
    return PartFile(one.path(number), one.about.parts[number], width=sum(one.about.widths))


def _uids(one: Reinforcements, number: int) -> npt.NDArray[np.uint64]:
    with closing(_opened(one, number)) as file:
        return file.uids()


def _check_alike(sets: Sequence[Reinforcements]) -> None:
    """Raise DataError unless all were made with the same teachers and augmentations."""
    for one in sets[1:]:
        for what in ("teachers", "seed", "augmentations", "augment"):
            own, other = (_compared(each, what) for each in (sets[0], one))
            if own != other:
                raise DataError(
                    f"{one.place}: reinforced with other {what} than {sets[0].place}; reinforce both alike, or train "
                    "on one"
                )


def _compared(one: Reinforcements, what: str) -> object:
    value = getattr(one.about, what)
    return [teacher.fingerprint for teacher in value] if what == "teachers" else value
