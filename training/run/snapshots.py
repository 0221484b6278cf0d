"""Which shards a run trains on: the data sets' lists of shards, pinned, and looked at again after each epoch.

    data.path or data.mixture --index--> RUN/index/FINGERPRINT/   one directory a snapshot
                                  \\--> Segment(start, sizes, snapshot) --> Stream, checkpoint

Without `data.follow` there is one snapshot for the whole run. With it, the lists are read again where an epoch
ends, and a new segment begins right there. Checkpoints record the segments, so that a resumed run reads what the
stopped one would have read, whatever was written since.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import replace

from configs.load import fingerprint
from pipeline.storage.atomic import remove_tree
from pipeline.storage.bucket import BucketPath
from pipeline.storage.copies import download
from pipeline.terminal.printable import say
from training.checkpoints.layout import listed_checkpoints
from training.config import DataConfig
from training.data.beside import Beside
from training.data.companions import FILES, Companions, load_companions, write_companions
from training.data.index import SampleIndex, load_index, write_index
from training.data.lanes import Lanes, lanes_of
from training.data.sampling.followed import Followed, Passing
from training.data.sampling.make import check_balance, make_passing, make_sampling
from training.data.sampling.sampling import Sampling, Uniform
from training.data.shards import reading
from training.data.stream import Segment, Stream
from training.distributed import World
from training.errors import CheckpointError, DataError, TrainingError
from training.run.machine import RunPlace

__all__ = ["Snapshots"]


class Snapshots:
    """The segments of a run's stream; the same on every rank."""

    def __init__(
        self,
        config: DataConfig,
        *,
        here: RunPlace,
        world: World,
        seed: int,
        global_batch_size: int,
        recorded: tuple[Segment, ...] = (),
        fields: tuple[str, ...] = (),
    ) -> None:
        """Take the first snapshot, or go on from `recorded` ones (of a checkpoint) where lists are followed.

        `here` is RUN; `fields` are columns that batches shall have. Raises DataError, CheckpointError on every rank.
        """
        self._config = config
        self._here = here
        self._root = here.local / "index"
        self._world = world
        self._fields = fields
        self._checkpoints = here.place / "checkpoints"
        if config.follow and recorded:
            self._copy_here(*(segment.snapshot for segment in recorded))
            for segment in recorded:
                if not (self._root / segment.snapshot / "index.json").is_file():
                    raise CheckpointError(
                        f"{here.place / 'index' / segment.snapshot}: missing, so the run cannot go on exactly; "
                        "restore it, or set --output to start a new run"
                    )
        else:
            recorded = (self._look(start=0, first_epoch=0),)
        stream = Stream(segments=recorded, seed=seed, global_batch_size=global_batch_size, weights=config.weights)
        self.stream = replace(stream, lanes=self._lanes(recorded, seed))
        self._passing: dict[Segment, Passing] = {}
        self._thinned: Sampling | None = None
        self._thin()

    @property
    def index(self) -> SampleIndex:
        """The newest snapshot's."""
        return self._index_of(self.stream.segments[-1])

    @property
    def sampling(self) -> Sampling:
        """Which positions of the stream the batches take."""
        return self._thinned or Uniform(self.stream)

    @property
    def samples_an_epoch(self) -> float:
        """How many samples are taken while the stream goes through the newest snapshot once, as expected."""
        return len(self.index) * self.sampling.batch_size / self.sampling.positions_a_batch

    @property
    def index_dirs(self) -> tuple[str, ...]:
        """One for each segment of the stream."""
        return tuple(str(self._root / segment.snapshot) for segment in self.stream.segments)

    @property
    def companions(self) -> Companions | None:
        """What stands beside the newest snapshot; None where nothing does."""
        return load_companions(self._root / self.stream.segments[-1].snapshot)

    @property
    def beside(self) -> Beside | None:
        """For batches of all segments."""
        config = self._config
        if config.captions.path is None and not config.reinforced:
            return None
        return Beside(self.index_dirs, config.captions, is_reinforced=bool(config.reinforced))

    @property
    def fingerprint(self) -> str:
        """Of all that the newest snapshot may teach."""
        companions = self.companions
        return (
            self.index.fingerprint
            if companions is None
            else fingerprint(self.index.fingerprint, companions.fingerprint)
        )

    def until(self, position: int) -> int | None:
        """Start of the first batch, at or after the run's sample `position`, that reaches beyond the last segment's
        epoch.

        None where the one snapshot lasts for ever.
        """
        if not self._config.follow:
            return None
        batch = self.stream.global_batch_size
        return max(position, self._end() // batch * batch)

    def look_again(self, position: int) -> None:
        """At `position`, as `until` gave it: read the lists anew for what comes after the epoch."""
        last = self.stream.segments[-1]
        end = last.start + sum(last.sizes)
        found = self._look(start=end, first_epoch=last.first_epoch + self.stream.passes(last, end))
        if self._thinned is not None:
            found = replace(found, first_sample=self._end())
        segments = (*self.stream.segments, found)
        # What ended before `position` is never asked for again.
        thins = self._thinned is not None
        ends = (*(segment.first_sample if thins else segment.start for segment in segments[1:]), None)
        kept = tuple(s for s, e in zip(segments, ends, strict=True) if e is None or e > position)
        self.stream = replace(self.stream, segments=kept, lanes=self._lanes(kept, self.stream.seed))
        self._thin()
        if self._world.is_first:
            self._sweep()

    def _index_of(self, segment: Segment) -> SampleIndex:
        return load_index(self._root / segment.snapshot)

    def _lanes(self, segments: tuple[Segment, ...], seed: int) -> tuple[tuple[Lanes, ...], ...]:
        """Those of each segment's data sets, where whole shards are read."""
        if (window := self._config.lanes) is None:
            return ()
        return tuple(
            lanes_of(self._index_of(segment).shard_sizes, segment.sizes, window=window, seed=seed)
            for segment in segments
        )

    def _thin(self) -> None:
        """Make the sampling of the stream as it is now. Raises DataError on every rank."""
        config, stream = self._config, self.stream
        if config.sampling == "uniform":
            return
        if not config.follow:
            self._thinned = self._world.together(lambda: make_sampling(config, stream, self.index))
            return

        def make() -> list[Passing]:
            return [
                self._passing.get(segment) or make_passing(config, stream.segment_of(number), self._index_of(segment))
                for number, segment in enumerate(stream.segments)
            ]

        made = self._world.together(make)
        self._passing = dict(zip(stream.segments, made, strict=True))
        self._thinned = Followed(stream, made)

    def _end(self) -> int:
        """The run's first sample beyond the last segment's epoch."""
        if isinstance(self._thinned, Followed):
            return self._thinned.end
        last = self.stream.segments[-1]
        return last.start + sum(last.sizes)

    def _look(self, *, start: int, first_epoch: int) -> Segment:
        """Rank 0 reads the lists and saves the index; every rank learns of it, or of the error."""

        def index() -> Segment | str:
            try:
                check_balance(self._config)
                found = write_index(
                    *self._config.paths,
                    root=self._root,
                    skip_unfinished=self._config.follow,
                    replace=not self._config.follow,
                    with_queries=self._config.sampling != "uniform",
                    fields=self._fields,
                    tell=_Teller(),
                )
                write_companions(found, self._root / found.fingerprint, self._config)
                if self._config.follow or not self._here.is_shared:
                    self._put(found.fingerprint)
            except (TrainingError, OSError) as error:
                return " ".join(str(error).split())
            sizes = found.sizes if self._config.weights else (sum(found.sizes),)
            return Segment(sizes=sizes, start=start, first_epoch=first_epoch, snapshot=found.fingerprint)

        # 400 M samples take longer to read than a collective may wait for a rank.
        answer = self._world.on_first_however_long(index)
        if isinstance(answer, str):
            raise DataError(answer)
        if not self._here.is_shared:
            self._copy_here(answer.snapshot)
        return answer

    def _put(self, snapshot: str) -> None:
        """Put an index where other machines, and a resumed run that follows, find it. Raises StoreError."""
        kept = self._here.place / "index" / snapshot
        if isinstance(kept, BucketPath):
            for path in sorted([*(self._root / snapshot).glob("*.npy"), *(self._root / snapshot).glob(FILES)]):
                (kept / path.name).put(path)
            (kept / "index.json").put(self._root / snapshot / "index.json")

    def _copy_here(self, *snapshots: str) -> None:
        """Copy indexes from the bucket to the machines that lack them. Raises DataError on every rank."""

        def copy() -> None:
            for snapshot in snapshots:
                kept, here = self._here.place / "index" / snapshot, self._root / snapshot
                if isinstance(kept, BucketPath) and self._here.is_owner and not (here / "index.json").is_file():
                    here.mkdir(parents=True, exist_ok=True)
                    with reading(kept), suppress(FileNotFoundError):
                        for path, _ in kept.walk():
                            download(path, here / path.name)

        self._world.together(copy)

    def _sweep(self) -> None:
        """Remove the indexes that neither this run nor a checkpoint of it needs."""
        needed = {segment.snapshot for segment in self.stream.segments}
        for checkpoint in listed_checkpoints(self._checkpoints):
            try:
                state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
                needed |= {segment["snapshot"] for segment in state.get("segments", ())}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                return  # damaged: better too much than too little
        for path in self._root.iterdir():
            if path.is_dir() and path.name not in needed:
                shutil.rmtree(path, ignore_errors=True)
        if isinstance(self._here.place, BucketPath):
            for kept in (self._here.place / "index").iterdir():
                if kept.name not in needed:
                    remove_tree(kept)


class _Teller:
    """Says now and then how far the index is, where it takes long."""

    _EVERY_S = 10.0

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` shards are read."""
        if time.monotonic() - self._told >= self._EVERY_S:
            self._told = time.monotonic()
            say(f"looking at the shards: {done:,} of {total:,}", to=sys.stderr)
