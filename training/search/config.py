"""The options of `python -m training index` and `search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from training.config import Precision

__all__ = ["IndexConfig", "SearchConfig"]


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """What is indexed, and how well."""

    features: str
    """The features, as `python -m training embed` made them."""
    to: str | None = None
    """Directory or bucket's URL of the index; null: FEATURES/index."""
    of: Literal["image", "text"] = "image"
    """Whose features are found: pictures or texts."""
    neighbours: Annotated[int, Bounds(least=2)] = 16
    """Links of each vector in the graph: more find more, and take more room (HNSW's M)."""
    effort: Annotated[int, Bounds(least=1)] = 128
    """Vectors that are looked at to link a new one: more find more, and take longer (HNSW's efConstruction)."""
    threads: Annotated[int, Bounds(least=1, most=4096)] | None = None
    """That build the graph; null for one a core. One thread alone gives the same bytes every time."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What is looked for, and how it is answered."""

    index: str
    """An index, or features that hold one."""
    text: str | None = None
    """What to look for, in words."""
    image: str | None = None
    """What to look for, as a picture: a file or a bucket's URL. Give this or words."""
    k: Annotated[int, Bounds(least=1)] = 10
    """How many answers."""
    where: str | None = None
    """An SQL condition on the columns of the set's view `samples`: only these are searched."""
    effort: Annotated[int, Bounds(least=1)] = 128
    """Vectors of the graph that are looked at: more find more, and take longer (HNSW's efSearch)."""
    exact: bool = False
    """Compare with every vector instead."""
    model: str | None = None
    """Where the model is now; null: as it was named when the features were made."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """A single query is done before a GPU has woken."""
    precision: Precision = "fp32"
    """Of the forward pass."""
    tokenizer: str | None = None
    """As `embed` was given it."""
    source: str | None = None
    """Where the pictures and texts are now; null: as they were named when the features were made."""
    format: Literal["table", "json", "html"] | None = None
    """Of the answer; null: as the file's name says, else a table."""
    to: str | None = None
    """A file for the answer; an HTML page needs one."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if (self.text is None) == (self.image is None):
            raise ConfigError('give what to look for: words ("a red circle"), or --image FILE')
        if self.text is not None and not self.text.strip():
            raise ConfigError('text is empty; give words, such as "a red circle"')
        if self.shape == "html" and self.to is None:
            raise ConfigError("--format html needs --to FILE.html")

    @property
    def shape(self) -> Literal["table", "json", "html"]:
        """The format of the answer."""
        if self.format is not None:
            return self.format
        ending = (self.to or "").lower().rpartition(".")[2]
        return "html" if ending in ("html", "htm") else "json" if ending == "json" else "table"
