"""A task: its inputs, its settings, its outputs by name, and the work on them.

    @dataclass(frozen=True, kw_only=True)
    class Edges:                                              # what it writes
        edges: Location = output("edges.parquet", EDGES)
        below: Location = output("below.npy")

    @dataclass(frozen=True, kw_only=True)
    class Gather(Task[Edges]):                                # what it reads, what it goes by
        unique: Location
        seed: int

        def work(self, out: Edges) -> Info: ...

A task's key is derived from all of that: its name and version, the content of what it reads, and every other field.
Where nothing of it has changed, the work is not done again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar, get_args

from pipeline.storage.location import Files, Location

__all__ = [
    "WORKER_MB",
    "AnyTask",
    "Info",
    "Needs",
    "Output",
    "Task",
    "TaskOfParts",
    "apart",
    "names_in",
    "output",
    "outputs_of",
    "place",
]

Info = dict[str, Any]
"""Small facts that can be JSON: what the done-record of a task says beyond its files."""
Out = TypeVar("Out")
WORKER_MB = 400
"""Of a worker that has loaded the libraries and holds no data yet: 340 MB (docs/scale.md)."""
_OUTPUT = "openwit.output"
_APART = "openwit.apart"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a task asks of the node that runs it. A bid for room that decides nothing, and no limit."""

    cpus: float = 1.0
    """Less than one for work that mostly waits."""
    memory_mb: int = WORKER_MB + 100
    """Of the whole process, in units of 2**20 bytes."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a field of a task's outputs is."""

    kind: str = ""
    """The end of the file's name, after the part's."""
    names: tuple[str, ...] = ()
    """Of several files that belong together and have names of their own."""
    rows: Any = None
    """The schema of a Parquet file, for those who look at the page; the engine does not."""
    view: str | None = None
    """The catalog's view of these files."""

    def files(self, part: str) -> tuple[str, ...]:
        """The names of the files, for a part of this name."""
        joint = "" if self.kind.startswith(("_", ".")) else "."
        return self.names or (f"{part}{joint}{self.kind}",)


_DEFAULT_NEEDS = Needs()


def output(kind: str = "", rows: Any = None, *, names: Sequence[str] = (), view: str | None = None) -> Any:
    """A field for a file (a Location) that a task writes, or with `names` for several (Files)."""
    return dataclasses.field(metadata={_OUTPUT: Output(kind=kind, names=tuple(names), rows=rows, view=view)})


def apart(**default: Any) -> Any:
    """A field of a task that decides nothing of its outputs, such as how much memory it may use."""
    return dataclasses.field(metadata={_APART: True}, **default)


def outputs_of(out: type[Any]) -> dict[str, Output]:
    """Field -> what it is, of a dataclass of outputs."""
    return {field.name: field.metadata[_OUTPUT] for field in dataclasses.fields(out)}


def names_in(out: type[Any], part: str) -> list[str]:
    """The names of all files of a part."""
    return [name for each in outputs_of(out).values() for name in each.files(part)]


def place(out: type[Out], part: str, at: Mapping[str, Location]) -> Out:
    """The outputs of a part as locations, of which `at` has one for each of `names_in`."""
    fields: dict[str, Any] = {}
    for field, each in outputs_of(out).items():
        located = [at[name] for name in each.files(part)]
        fields[field] = Files(located) if each.names else located[0]
    return out(**fields)


@dataclass(frozen=True, kw_only=True)
class AnyTask(ABC, Generic[Out]):
    """One partition's work: `Task` and `TaskOfParts` are its two kinds."""

    version: ClassVar[int] = 1
    """Rises when the same fields give other outputs."""
    published: ClassVar[bool] = False
    """Whether the outputs go out into the world: their record then has SHA-256, which everyone can check."""
    out: ClassVar[type[Any]]
    """The class of its outputs; the one in the brackets of its base."""

    partition: str = dataclasses.field(metadata={_APART: True})
    """File-name-safe, and independent of who does the work."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in getattr(cls, "__orig_bases__", ()):
            for found in get_args(base):
                if isinstance(found, type):
                    cls.out = found

    @property
    def needs(self) -> Needs:
        """What it asks of a node: a class that needs more or less than most says so."""
        return _DEFAULT_NEEDS

    @property
    def clerk(self) -> type[Any] | None:
        """What stands at the desk that all tasks of its step may ask (`desk.Clerk`); the same for all of them."""
        return None

    @property
    def subject(self) -> str:
        """What it works on, for people, where the partition's name does not say; decides nothing."""
        return ""

    @cached_property
    def key(self) -> str:
        """Fingerprints everything that the outputs depend on: 32 hex digits."""
        texts = ", ".join(f'"{name}": {_text(getattr(self, name))}' for name in _fields_of_key(type(self)))
        text = f"[{_encode(type(self).__name__)}, {_encode(self.version)}, {{{texts}}}]"
        return hashlib.sha256(text.encode()).hexdigest()[:32]  # as `configs.load.fingerprint` of all of it

    @property
    @abstractmethod
    def parts(self) -> Sequence[str]:
        """The names of what it writes: of each part all outputs."""

    @property
    def outputs(self) -> list[str]:
        """File names under the step's directory."""
        return [name for part in self.parts for name in names_in(self.out, part)]

    def perform(self, at: Mapping[str, Location]) -> Info:
        """Do the work; `at` says where to write each of `outputs`."""
        return self._perform({part: place(self.out, part, at) for part in self.parts})

    @abstractmethod
    def _perform(self, outs: Mapping[str, Out]) -> Info: ...


@dataclass(frozen=True, kw_only=True)
class Task(AnyTask[Out]):
    """A task with one part, named like its partition."""

    @property
    def parts(self) -> Sequence[str]:
        return (self.partition,)

    @abstractmethod
    def work(self, out: Out) -> Info:
        """Write every output; returns what else there is to say. Runs in any process."""

    def _perform(self, outs: Mapping[str, Out]) -> Info:
        return self.work(outs[self.partition])


@dataclass(frozen=True, kw_only=True)
class TaskOfParts(AnyTask[Out]):
    """A task that writes several parts at once; its facts have those of each under "parts", with its `name`.

    That is a list in the order of `parts`: an object would come back from its record as names sort, 100000 before
    99999.
    """

    @abstractmethod
    def work(self, outs: Mapping[str, Out]) -> Info:
        """Write every part's outputs; returns what else there is to say. Runs in any process."""

    def _perform(self, outs: Mapping[str, Out]) -> Info:
        return self.work(outs)


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
_KEPT_TEXTS = 64
_texts: OrderedDict[int, tuple[Any, str]] = OrderedDict()
"""Of what many tasks share, by identity: a config would else be told anew by each of 90,000."""


@functools.cache
def _fields_of_key(task: type[Any]) -> tuple[str, ...]:
    return tuple(sorted(f.name for f in dataclasses.fields(task) if _APART not in f.metadata))


def _text(value: Any) -> str:
    """What stands for a field in a key, as JSON."""
    if type(value) is not tuple and not dataclasses.is_dataclass(value):
        return _encode(_plain(value))
    known = _texts.get(id(value))
    if known is None or known[0] is not value:
        known = _texts[id(value)] = (value, _encode(_plain(value)))
        if len(_texts) > _KEPT_TEXTS:
            _texts.popitem(last=False)
    _texts.move_to_end(id(value))
    return known[1]


def _plain(value: Any) -> Any:
    """What stands for a field in a key. Raises TypeError for what has no such form."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Location):
        return value.content
    if isinstance(value, Files):
        return value.digest
    if hasattr(value, "key_parts"):  # it says itself what of it decides the outputs, such as a `Stage`
        return _plain(value.key_parts())
    if isinstance(value, bytes):
        return value.hex()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    raise TypeError(f"a {type(value).__name__} says nothing that a task's key could hold")
