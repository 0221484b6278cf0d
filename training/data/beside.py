"""What a batch takes from beside the shards: another caption, or an augmentation with what teachers say of it.

    (seed, epoch, sample) --its key--> one of its captions: own with `own_probability`, else one of the others
                                   +--> one of the K augmentations, one synthetic caption, and the features of both

All draws are keyed, so that they are alike at any number of ranks and in a run that goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.records.identity import keyed_hashes, keyed_state
from pipeline.storage.place import Place
from training.config import CaptionsConfig
from training.data.augmentations import augmentation_keys, augmented
from training.data.companions import Companions, load_companions
from training.data.reinforcements import PartFile, Reinforcements
from training.data.taught import SYNTHETIC, TEACHER_SCALE, teacher_field

__all__ = ["Beside"]

_NUMBER, _IS_OWN, _WHICH = 64, 65, 66
"""Columns of a sample's draws; crops have the first 23 (`decode.py`)."""
_MAX_OPEN_PARTS = 100
"""Per worker."""


class Beside:
    """Opens what stands beside each segment's index on first use."""

    def __init__(self, index_dirs: Sequence[str], captions: CaptionsConfig, *, is_reinforced: bool) -> None:
        """`index_dirs`: one for each segment, with what `write_companions` put there."""
        self.is_reinforced = is_reinforced
        self._index_dirs = tuple(index_dirs)
        self._captions = captions
        self._segments: dict[int, Companions] = {}
        self._files: dict[tuple[int, int], PartFile] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes, which open their own."""
        return {**self.__dict__, "_segments": {}, "_files": {}}

    def caption(self, segment: int, sample: int, key: np.uint64, own: str) -> str:
        """The text that a sample is seen with: of reinforced data its `own`, beside which a synthetic one comes."""
        if self.is_reinforced:
            return own
        others = self._companions(segment).captions_of(sample)
        if not others or _uniform(_IS_OWN, key) < self._captions.own_probability:
            return own
        return others[_one_of(_WHICH, key, len(others))]

    def has_picture(self, segment: int, sample: int) -> bool:
        """Whether the sample may be shown: of reinforced data, whether teachers saw it."""
        rows = self._companions(segment).row
        return rows is None or bool(rows[sample] >= 0)

    def crop(
        self,
        segment: int,
        uid: np.uint64,
        key: np.uint64,
        picture: npt.NDArray[np.uint8],
        out: npt.NDArray[np.uint8],
    ) -> None:
        """Put the augmentation that `key` draws of a reinforced sample into `out` uint8[S, S, 3]."""
        about = self._set(segment, 0).about
        number = np.array([_one_of(_NUMBER, key, about.augmentations)])
        (augmentation,) = augmentation_keys(np.array([uid]), number, seed=about.seed)
        augmented(picture, augmentation, size=out.shape[0], config=about.augment, out=out)

    def fields(
        self,
        segments: npt.NDArray[np.int64],
        samples: npt.NDArray[np.int64],
        keys: npt.NDArray[np.uint64],
        own: Sequence[str],
        tokens: Callable[[list[str]], Tensor],
    ) -> dict[str, Tensor]:
        """Those of `taught.py` for reinforced data, else none. `own` are the captions in the batch; where a sample has
        no synthetic one, its own stands for it."""
        if not self.is_reinforced:
            return {}
        image, text, synthetic, captions = [], [], [], []
        has_synthetic = self._has_synthetic(int(segments[0]))
        for segment, sample, key, caption in zip(segments, samples, keys, own, strict=True):
            companions = self._companions(int(segment))
            rows, features = cast(Any, companions.row), cast(Any, companions.feature)
            row, number = int(rows[sample]), int(cast(Any, companions.part)[sample])
            augmentation = _one_of(_NUMBER, key, self._set(int(segment), 0).about.augmentations)
            others = companions.captions_of(int(sample)) if has_synthetic else []
            which = _one_of(_WHICH, key, len(others)) if others else None
            wanted: list[tuple[str, tuple[int, ...]]] = [("image", (row, augmentation)), ("text", (row,))]
            if which is not None:
                wanted.append(("synthetic", (int(features[sample]) + which,)))
            found = self._part(int(segment), number).features(wanted)
            image.append(found[0])
            text.append(found[1])
            synthetic.append(found[-1])
            captions.append(caption if which is None else others[which])
        about = self._set(int(segments[0]), 0).about
        ends = np.cumsum(about.widths)[:-1]
        found_fields: dict[str, Tensor] = {}
        for what, features in (("image", image), ("text", text), (SYNTHETIC, synthetic)):
            if what != SYNTHETIC or has_synthetic:
                for teacher, part in enumerate(np.split(np.stack(features), ends, axis=1)):
                    bits = torch.from_numpy(np.ascontiguousarray(part).view(np.int16))
                    found_fields[teacher_field(what, teacher)] = bits.view(torch.bfloat16)
        if has_synthetic:
            found_fields[SYNTHETIC] = tokens(captions)
        scales = torch.tensor([teacher.logit_scale for teacher in about.teachers])
        return {**found_fields, TEACHER_SCALE: scales.repeat(len(samples), 1)}

    def _has_synthetic(self, segment: int) -> bool:
        return any(one.about.captions for one in self._companions(segment).sets)

    def _companions(self, segment: int) -> Companions:
        if segment not in self._segments:
            self._segments[segment] = cast(Companions, load_companions(self._index_dirs[segment]))
        return self._segments[segment]

    def _set(self, segment: int, number: int) -> Reinforcements:
        return self._companions(segment).sets[number]

    def _part(self, segment: int, number: int) -> PartFile:
        """A part, numbered over all sets; kept open, since the order jumps between them."""
        if (segment, number) not in self._files:
            if len(self._files) >= _MAX_OPEN_PARTS:
                self._files.pop(next(iter(self._files))).close()
            rest = number
            for one in self._companions(segment).sets:
                if rest < len(one.about.parts):
                    break
                rest -= len(one.about.parts)
            self._files[segment, number] = PartFile(
                self._place(one.path(rest)), one.about.parts[rest], width=sum(one.about.widths)
            )
        return self._files[segment, number]

    def _place(self, path: Place) -> Place:
        return Path(path) if isinstance(path, Path) else path


@cache
def _state(column: int) -> npt.NDArray[np.uint64]:
    return np.array([keyed_state(column)])


def _hash(column: int, key: np.uint64) -> int:
    """`keyed_hash(column, key)`."""
    return int(keyed_hashes(_state(column), np.array([key]))[0, 0])


def _one_of(column: int, key: np.uint64, count: int) -> int:
    return _hash(column, key) % count


def _uniform(column: int, key: np.uint64) -> float:
    """In [0, 1)."""
    return float(_hash(column, key) >> 11) * 2.0**-53
