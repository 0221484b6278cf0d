"""What every evaluation set is: parts that can be read apart, class names, templates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import PipelineError, one_line
from pipeline.storage.bucket import ConflictError
from pipeline.storage.place import Place
from training.errors import EvaluationError

__all__ = ["EvaluationSet", "Example", "Part", "reading"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One picture of an evaluation set, and what is known of it."""

    name: str
    """Where it stands, for messages."""
    image: bytes
    label: int | None
    """The number of its class."""
    captions: tuple[str, ...]


class Part(Protocol):
    """Some of a set's examples, which are read without the others."""

    def examples(self) -> Iterator[Example]:
        """In the set's order, anew at each call. Raises EvaluationError for what is damaged."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """An evaluation set, on a disk or in a bucket. Nothing of its pictures is in memory."""

    root: Place
    """The directory, or the file of a list."""
    form: str
    """Of which kind it is, in a word or two."""
    classes: tuple[str, ...]
    """Their names, by number; empty for a set without labels."""
    templates: tuple[str, ...]
    """Prompts, in which {c} stands for the class; empty where `classes` is."""
    parts: Sequence[Part]
    """What is measured on."""
    train: Sequence[Part] = ()
    """What a linear probe learns from; empty where the set has nothing for it."""

    @property
    def name(self) -> str:
        """What it is called beside others."""
        return self.root.stem if self.form == "list" else self.root.name or str(self.root)

    def examples(self) -> Iterator[Example]:
        """All that is measured on, in order. Raises EvaluationError."""
        for part in self.parts:
            yield from part.examples()


@contextmanager
def reading(place: Place, *, remedy: str = "make or copy the set again") -> Iterator[None]:
    """Failures of the disk or the bucket as EvaluationErrors that name `place`."""
    try:
        yield
    except EvaluationError:
        raise
    except OSError as error:
        raise EvaluationError(f"{place}: cannot be read ({error.strerror or one_line(error)}); {remedy}") from error
    except (PipelineError, ConflictError) as error:
        text = one_line(error)
        raise EvaluationError(text if str(place) in text else f"{place}: {text}") from error
