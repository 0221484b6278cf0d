"""Build a web of pictures, as `../build.py` builds the drawn one."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.load import ConfigError
from pipeline.errors import InputError
from pipeline.sample_web.build import build_web

__all__ = ["PicturesConfig", "build_pictures_web"]

FORMAT_VERSION = 3
"""Raised whenever equal settings give other bytes, so that old webs are built anew."""

_LEAST_LINKS = 400


@dataclass(frozen=True, kw_only=True)
class PicturesConfig:
    """Settings of a web of pictures; equal settings and equal pictures give equal bytes."""

    directory: str
    """The pictures: SET.tar (one file a picture, SET/NAME.webp) and texts.parquet (path, style, name, lang, kind,
    text; several rows a picture; style is the set)."""
    path: str = "data/pictures_web"
    """The directory to write; it is replaced as a whole."""
    links: int = 30_000
    """Image links on all pages together; every picture that is not kept apart has at least one."""
    seed: int = 0
    """Every choice follows from it."""
    port: int = 8767
    """The server's port on 127.0.0.1; it is part of every URL."""
    held_out: str | None = "noto"
    """A set that stands on no page: its pictures are the evaluation's, with their English labels as classes. null: no
    evaluation set."""
    classes: int | None = 400
    """So many names of that set are on pages and become classes, drawn by `seed`; its other names stand nowhere. Few,
    so that a training of a minute is far from guessing. null: all."""
    retrieval: int = 500
    """So many pictures that are of no class, and have texts of their own, stand on no page: they measure retrieval."""

    def __post_init__(self) -> None:
        """Raise ConfigError where a number is out of range."""
        if self.links < _LEAST_LINKS:
            raise ConfigError(f"links: {self.links} is too few; give {_LEAST_LINKS} or more")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port: {self.port} is no port; give one from 1 to 65535")
        if self.classes is not None and self.classes < 2:
            raise ConfigError(f"classes: {self.classes} is too few; give 2 or more, or null for all")
        if self.retrieval < 0:
            raise ConfigError(f"retrieval: {self.retrieval} is below 0; give 0 or more")


def build_pictures_web(config: PicturesConfig) -> Path:
    """Write the web, unless it is there already; its directory.

    Raises InputError where `config.directory` does not hold pictures with texts, and OutputError as
    `build_sample_web` does.
    """
    source = Path(config.directory)

    def write(directory: Path) -> None:
        # Not at the top: the command's help starts without Pillow and pyarrow.
        from pipeline.sample_web.from_pictures.write import write_pictures_web

        write_pictures_web(directory, config)

    return build_web(Path(config.path), _marker(config, source), write)


def _marker(config: PicturesConfig, source: Path) -> dict[str, object]:
    settings = asdict(config)
    del settings["path"], settings["directory"]  # where they lie says nothing of the content
    return {
        "format": "openwit web of pictures",
        "version": FORMAT_VERSION,
        "pictures": _fingerprint(source),
        **settings,
    }


def _fingerprint(source: Path) -> str:
    """BLAKE2b over names and bytes of all that is read."""
    found = [source / "texts.parquet", *sorted(source.glob("*.tar"))]
    hashed = hashlib.blake2b(digest_size=16)
    try:
        for file in found:
            with file.open("rb") as data:
                hashed.update(file.name.encode() + b"\0" + hashlib.file_digest(data, "blake2b").digest())
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); give a directory with SET.tar and texts.parquet"
        ) from error
    if len(found) == 1:
        raise InputError(f"{source}: has no SET.tar; give a directory with SET.tar and texts.parquet")
    return hashed.hexdigest()
