"""The options of `python -m training score`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds

__all__ = ["AestheticConfig", "DuplicatesConfig", "Keep", "PolicyOptions", "ScoreConfig", "ScoreName", "named_features"]

ScoreName = Literal["clip", "aesthetic", "policy", "duplicates"]
Keep = Literal["hard", "easy", "random"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class AestheticConfig:
    """A head on the pictures' features."""

    head: str | None = None
    """Its weights, a file of this machine (.pth, .pt, .safetensors): LAION's linear heads, or the MLP of
    improved-aesthetic-predictor."""


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """Moderation by prompts."""

    file: str | None = None
    """The policy, YAML: named rules, each with prompts and a threshold."""


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig:
    """Pictures that say the same (SemDeDup, arXiv 2303.09540)."""

    eps: Annotated[float, Bounds(least=0, below=1)] = 0.05
    """One picture of two whose cosine is above 1 - eps goes. The column `similarity` serves any other eps as well."""
    keep: Keep = "hard"
    """Which one stays. hard: the one that is least like its cluster's centroid, as in the paper; easy: the one most
    like it; random: by a keyed hash of the uid."""
    clusters: Annotated[int, Bounds(least=1)] | None = None
    """Pictures are compared within a cluster; null for the square root of their number, which costs least."""
    iterations: Annotated[int, Bounds(least=1)] = 20
    """Of k-means, at most."""
    rows_per_cluster: Annotated[int, Bounds(least=1)] = 64
    """Pictures that k-means learns from, for each cluster; in memory at 10 bytes a number of their features."""
    seed: Annotated[int, Bounds()] = 0
    """Decides where k-means begins, and what it learns from."""
    memory_mb: Annotated[int, Bounds(least=1)] = 1000
    """Features of the clusters that are compared at a time, about."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What to score, and by what."""

    features: tuple[str, ...]
    """What `embed` wrote: a directory or a bucket's URL. More of them, NAME=DIRECTORY each, add the CLIP score by
    another model's features, as the column NAME_score."""
    scores: tuple[ScoreName, ...] = ("clip",)
    """clip: the cosine of picture and text. aesthetic: see `aesthetic.head`. policy: see `policy.file`. duplicates:
    pictures that say the same."""
    to: str | None = None
    """The Parquet to write; null for FEATURES.scores.parquet, beside the first."""
    name: str = "clip"
    """The CLIP score is the column NAME_score. Another name, such as dfn, for the features of a filter network."""
    model: str | None = None
    """Embeds the prompts of a policy; null for the model that made the features, where it was then."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where clusters are found and compared, and prompts are embedded; auto takes a GPU when there is one."""
    engine: Literal["inline", "ray"] = "inline"
    """Where the parts are scored: in this process, or on Ray, a task a part."""
    aesthetic: AestheticConfig = field(default_factory=AestheticConfig)
    """The head."""
    policy: PolicyOptions = field(default_factory=PolicyOptions)
    """The policy."""
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    """What is the same."""

    def __post_init__(self) -> None:
        if not self.features:
            raise ConfigError("features: give what `python -m training embed` wrote")
        if not self.scores or len(set(self.scores)) < len(self.scores):
            raise ConfigError("scores: name at least one of clip, aesthetic, policy, duplicates, each once")
        if "aesthetic" in self.scores and self.aesthetic.head is None:
            raise ConfigError("aesthetic needs a head; give its file with --aesthetic.head")
        if "policy" in self.scores and self.policy.file is None:
            raise ConfigError("policy needs its rules; give their file with --policy.file")
        if self.to is not None and not self.to.endswith(".parquet"):
            raise ConfigError(f"to: scores are a .parquet file; rename {self.to}")
        names = [self.name, *(name for name, _ in named_features(self.features[1:]))]
        for name in names:
            if not _NAME.fullmatch(name):
                raise ConfigError(f"{name!r} cannot name a column; use a-z, 0-9 and _, a letter first")
        if len(set(names)) < len(names):
            raise ConfigError(f"features and name give a column twice ({', '.join(names)}); give each its own NAME")


def named_features(features: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(NAME, directory) of each NAME=DIRECTORY. Raises ConfigError where there is no name."""
    pairs = []
    for text in features:
        name, equals, directory = text.partition("=")
        if not equals or not directory:
            raise ConfigError(f"features: {text!r} needs a name for its column, as in dfn={text}")
        pairs.append((name, directory))
    return tuple(pairs)
