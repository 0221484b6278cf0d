"""A stage of one's own inside a run: what is known of it, and what holds it to its word.

the user's Stage --hold--> HeldStage: judges, and checks every outcome     (a run by the program that has the class)
                  `-about-> work/own_stages.json --> RecordedStage: has its name, reasons and key, judges nothing
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import ConfigError, fingerprint
from pipeline.errors import PipelineError, StageError, one_line
from pipeline.records.outcome import Outcome
from pipeline.records.schema import REJECTIONS
from pipeline.stages.stage import Stage

__all__ = ["About", "HeldStage", "RecordedStage", "hold"]

_ROW = "openwit_row"
"""The column that tells a batch's rows apart while the stage has them."""
_WHERE_FOUND = ["source", "record", "link", "uid"]


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a stage without its class. Plain data, as it stands in work/own_stages.json."""

    name: str
    version: int
    source: str
    """A fingerprint of the source text of its class, and of those that it derives from."""
    fields: Any
    """What it goes by."""
    reasons: dict[str, str]
    reads: tuple[str, ...]
    adds: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RecordedStage(Stage):
    """A stage whose class is not there: it stands on the page for those who look."""

    about: About

    @property
    def name(self) -> str:  # type: ignore[override]  # other stages have one name a class
        return self.about.name

    @property
    def reasons(self) -> Mapping[str, str]:  # type: ignore[override]  # as above
        return self.about.reasons

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # as above
        return self.about.reads

    @property
    def adds(self) -> tuple[str, ...]:  # type: ignore[override]  # as above
        return self.about.adds

    @property
    def version(self) -> int:  # type: ignore[override]  # as above
        return self.about.version

    def key_parts(self) -> Any:
        """The same with the class and without it."""
        return [self.about.name, self.about.version, self.about.source, list(self.about.reads), self.about.fields]

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        """Raises StageError: only the user's program can."""
        raise StageError(f"stage {self.name}: is not part of openwit; go on with the program that brings it along")


@dataclass(frozen=True, kw_only=True)
class HeldStage(RecordedStage):
    """A user's stage. Whatever it does against its word stops the run, before a row of it is written."""

    stage: Stage

    def check(self) -> None:
        """Raises ConfigError where the stage is no longer what its key says; StageError where its own check fails
        other than on purpose."""
        if _fields(self.stage, self.about.fields) != self.about.fields:
            raise ConfigError(f"stage {self.name}: was changed after it was put into the pipeline; put in a new one")
        with self._named():
            self.stage.check()

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        """The stage's outcome. Raises StageError where the stage fails, or breaks its word."""
        given = batch.append_column(_ROW, pa.array(np.arange(batch.num_rows, dtype=np.int32)))
        with self._named():
            outcome = self.stage.judge(given)
        if not isinstance(outcome, Outcome):
            self._fail(f"returned a {type(outcome).__name__}; return an Outcome, as `reject` makes it")
        for field, rows in (("kept", outcome.kept), ("rejected", outcome.rejected)):
            if not isinstance(rows, pa.RecordBatch):
                self._fail(f"returned a {type(rows).__name__} as `{field}` of its Outcome; a RecordBatch belongs there")
        self._check_rows(given, outcome)
        return Outcome(kept=outcome.kept.drop_columns([_ROW]), rejected=outcome.rejected, num_in=outcome.num_in)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Whatever the code of a user raises is told with the stage's name."""
        try:
            yield
        except (ConfigError, PipelineError):
            raise  # it speaks for itself
        except Exception as error:
            raise StageError(f"stage {self.name}: {type(error).__name__}: {one_line(error)}") from error

    def _check_rows(self, given: pa.RecordBatch, outcome: Outcome) -> None:
        kept, rejected, rows = outcome.kept, outcome.rejected, given.num_rows
        if not rejected.schema.equals(REJECTIONS):
            self._fail("its rejections are not of the schema REJECTIONS; let `reject` make them")
        if outcome.num_in != rows or kept.num_rows + rejected.num_rows != rows or outcome.num_records:
            self._fail(
                f"was given {rows:,} rows, and returned {kept.num_rows:,} kept and {rejected.num_rows:,} rejected "
                f"of {outcome.num_in:,}"
            )
        for name in given.schema.names:
            if kept.schema.names.count(name) != 1:
                self._fail(f"returned column {name} {kept.schema.names.count(name)} times")
        undeclared = [name for name in kept.schema.names if name not in given.schema.names and name not in self.adds]
        if undeclared:
            self._fail(f"added column {undeclared[0]}, which its `adds` does not list")
        places = _places(kept, rows)
        if places is None:
            self._fail("lost, doubled or reordered rows")
        stays = np.zeros(rows, bool)
        stays[places] = True
        expected = given if stays.all() else given.filter(pa.array(stays))
        for name in given.schema.names:
            if not _same(kept[name], expected[name]):
                self._fail(f"changed column {name}; a stage only judges, and adds columns")
        turned_away = given.select(_WHERE_FOUND).filter(pa.array(~stays))
        if not all(rejected[name].equals(turned_away[name].cast(REJECTIONS.field(name).type)) for name in _WHERE_FOUND):
            self._fail("rejected other rows than those that it did not keep")
        if any(stage != self.name for stage in pc.unique(rejected["stage"]).to_pylist()):
            self._fail(f"rejected rows in another stage's name; pass stage={self.name!r} to `reject`")
        for reason in pc.unique(rejected["reason"]).to_pylist():
            if reason not in self.reasons:
                self._fail(f"rejected for {reason!r}, which its `reasons` do not list ({', '.join(self.reasons)})")

    def _fail(self, what: str) -> NoReturn:
        raise StageError(f"stage {self.name}: {what}")


def _places(kept: pa.RecordBatch, rows: int) -> npt.NDArray[np.int32] | None:
    """int32[K]: which rows of the batch were kept, ascending; None where they are not that."""
    column = kept[_ROW]
    if column.type != pa.int32() or column.null_count:
        return None
    places: npt.NDArray[np.int32] = column.to_numpy(zero_copy_only=False)
    if places.size and (places[0] < 0 or places[-1] >= rows or (np.diff(places) <= 0).any()):
        return None
    return places


def _same(these: pa.Array, others: pa.Array) -> bool:
    """Whether two columns are equal, NaN to NaN too."""
    if these.type != others.type:
        return False
    if pa.types.is_floating(these.type):
        bits = pa.int32() if these.type == pa.float32() else pa.int64()
        these, others = these.view(bits), others.view(bits)
    return bool(these.equals(others))


# --- from the user's stage ------------------------------------------------------------------------


def hold(stage: Stage) -> HeldStage:
    """The user's stage as it stands on a page. Raises ConfigError where it does not say what it has to."""
    if isinstance(stage, type) or not isinstance(stage, Stage):
        shown = f"{stage.__name__}; make one: {stage.__name__}()" if isinstance(stage, type) else type(stage).__name__
        raise ConfigError(f"expected a Stage, got {shown}")
    kind = type(stage).__name__
    name = getattr(stage, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"{kind}.name: expected a name for the ledger (a-z, 0-9, _), got {name!r}")
    reasons = getattr(stage, "reasons", None)
    if not isinstance(reasons, Mapping) or not reasons or not _all_text([*reasons, *reasons.values()]):
        raise ConfigError(f"{kind}.reasons: expected every reason for which it rejects, with what it means")
    if bad := [reason for reason in reasons if not reason or not reason.isprintable()]:
        raise ConfigError(f"{kind}.reasons: expected reasons of one printable line each, got {bad[0]!r}")
    for field in ("reads", "adds"):
        columns = getattr(stage, field)
        if not isinstance(columns, tuple) or not _all_text(columns):
            raise ConfigError(f"{kind}.{field}: expected a tuple of columns, got {columns!r}")
    if type(stage.version) is not int:
        raise ConfigError(f"{kind}.version: expected a whole number, got {stage.version!r}")
    about = About(
        name=name,
        version=stage.version,
        source=_source(type(stage)),
        fields=_fields(stage),
        reasons={str(reason): text for reason, text in reasons.items()},
        reads=stage.reads,
        adds=stage.adds,
    )
    return HeldStage(about=about, stage=stage)


def _all_text(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _source(kind: type[Stage]) -> str:
    """A fingerprint of the source text of a class and of those that it derives from, up to `Stage`, and of the plain
    values that their methods take from a function around them."""
    texts: list[Any] = []
    for each in kind.__mro__:
        if each not in Stage.__mro__:
            try:
                texts.append(inspect.getsource(each))
            except (OSError, TypeError) as error:
                raise ConfigError(
                    f"{each.__name__}: its source cannot be found, which tells when work is done again; "
                    "put the class into a file"
                ) from error
            texts += [[name, value] for name, value in _enclosed(each)]
    return fingerprint(texts)


def _enclosed(kind: type) -> Iterator[tuple[str, Any]]:
    """What the methods of a class that a function makes know of that function's variables, where it is plain data."""
    for name, value in vars(kind).items():
        method = inspect.unwrap(getattr(value, "__func__", None) or getattr(value, "fget", None) or value)
        if not inspect.isfunction(method):
            continue
        for variable, cell in zip(method.__code__.co_freevars, method.__closure__ or (), strict=True):
            with contextlib.suppress(ConfigError, ValueError):  # other functions; what has no value yet
                yield f"{name}.{variable}", _plain(cell.cell_contents, variable)


def _fields(stage: Any, names: Container[str] | None = None) -> Any:
    """What the stage goes by, as plain data: what its own `key_parts` says, else its fields, or those of `names`."""
    where = type(stage).__name__
    given = {name: value for name, value in vars(stage).items() if names is None or name in names}
    if type(stage).key_parts is not Stage.key_parts:
        return _plain(stage.key_parts(), f"{where}.key_parts()")
    if dataclasses.is_dataclass(stage):  # and not what it has worked out of them meanwhile
        given = {field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)}
    return _plain(given, where)


def _plain(value: Any, where: str) -> Any:
    """What JSON holds. Raises ConfigError for what has no such form."""
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping) and _all_text(value):
        return {str(name): _plain(each, f"{where}.{name}") for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, f"{where}[{number}]") for number, each in enumerate(value)]
    raise ConfigError(
        f"{where}: a {type(value).__name__} does not tell when work is done again; take text, numbers, bytes, tuples, "
        "dataclasses, or mappings with names"
    )
