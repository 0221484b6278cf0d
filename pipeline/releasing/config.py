"""The options of `release`: what only people know of a set, and what of it goes out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds

__all__ = ["ReleaseConfig"]

_URL = re.compile(r"https?://[^\s/]+\.\S+|https?://localhost\S*")
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """What is said of a release. Nothing is made up: what is missing is told, and left out."""

    title: str | None = None
    """The name that others know it by; default: that of the data set's directory."""
    description: str | None = None
    """What the set is, in a paragraph; default: its facts in a sentence."""
    licence: str | None = None
    """Of the list that you publish, not of the pictures: an SPDX name such as CC-BY-4.0, or a URL."""
    creator: tuple[str, ...] = ()
    """Who made it: an organisation each, or `person: NAME`."""
    citation: str | None = None
    """How to cite it, as BibTeX if you can."""
    contact: str | None = None
    """Where owners of pictures, and people in them, ask for removal: a URL or an address."""
    url: str | None = None
    """The page of the release."""
    download_url: str | None = None
    """Where its files lie, as a directory; default: beside croissant.json."""
    version: str | None = None
    """MAJOR.MINOR.PATCH; default: 1.0.0, or the next major one of what it supersedes."""
    published: str | None = None
    """The day, as 2026-11-29; default: that on which the release was begun."""
    sources: str | None = None
    """Where the links come from, such as Common Crawl CC-MAIN-2026-40: their files are told by their last names."""
    keywords: tuple[str, ...] = ("image-text pairs", "contrastive language-image pre-training", "web crawl")
    """Words by which it is found."""
    use_cases: tuple[str, ...] = ()
    """What it is meant for, and was tried for (`rai:dataUseCases`)."""
    biases: tuple[str, ...] = ()
    """What you know of its biases, beside what follows from how it was made (`rai:dataBiases`)."""
    social_impact: str | None = None
    """`rai:dataSocialImpact`."""
    maintenance: str | None = None
    """How it is kept up: who looks after removals, how often versions come (`rai:dataReleaseMaintenancePlan`)."""

    pictures: bool = False
    """The pictures too, as WebDataset tars; false: links and captions alone."""
    columns: str | None = None
    """Other columns than those of docs/release.md: all of them (uid,url,caption), or more and less (+exif,-phash)."""
    rows_per_file: Annotated[int, Bounds(least=1)] = 1_000_000
    """Rows of a Parquet file, about, of a release without pictures; with them each shard has its own."""
    supersedes: str | None = None
    """The release before, a directory: it is listed, and the uids that are gone since."""
    sign: str | None = None
    """A file with an Ed25519 private key (PEM), which signs SHA256SUMS; needs the extra `sign`."""
    engine: Literal["inline", "ray"] = "inline"
    """Where rows and pictures are written: in this process, or on Ray as a run does."""

    def __post_init__(self) -> None:
        """Raises ConfigError for what nobody could read as what it is to be."""
        check_bounds(self)
        if self.title is not None and not self.title.strip():
            raise ConfigError("title: give a name, or leave it away")
        if self.licence is not None and not (_URL.fullmatch(self.licence) or _NAME.fullmatch(self.licence)):
            raise ConfigError(f"licence: {self.licence!r} is neither an SPDX name, such as CC-BY-4.0, nor a URL")
        for name in ("url", "download_url"):
            value = getattr(self, name)
            if value is not None and not _URL.fullmatch(value):
                raise ConfigError(f"{name}: {value!r} is no http(s) URL")
        if self.version is not None and not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise ConfigError(f"version: {self.version!r} is not MAJOR.MINOR.PATCH, such as 1.0.0")
        if self.published is not None:
            try:
                date.fromisoformat(self.published)
            except ValueError:
                raise ConfigError(f"published: {self.published!r} is no day, such as 2026-11-29") from None
