"""Build the sample web: plan, render, write beside, rename."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from configs.load import ConfigError
from pipeline.errors import OutputError
from pipeline.sample_web.vocabulary import Statistics

__all__ = [
    "FORMAT_VERSION",
    "SampleWebConfig",
    "build_sample_web",
    "build_web",
    "has_marker",
    "is_built",
    "read_settings",
]

FORMAT_VERSION = 2
"""Raised whenever equal settings give other bytes, so that old sample webs are built anew."""

_MARKER = "sample_web.json"
_LEAST_LINKS = 200


@dataclass(frozen=True, kw_only=True)
class SampleWebConfig:
    """Settings of the sample web; equal settings give equal bytes."""

    path: str = "data/sample_web"
    """The directory to write; it is replaced as a whole."""
    links: int = 6000
    """Image links on all pages together; at least 200, so that every kind of trouble fits."""
    seed: int = 0
    """Every choice follows from it."""
    port: int = 8766
    """The server's port on 127.0.0.1; it is part of every URL."""
    statistics: Statistics = "even"
    """even: every class has pictures enough, and nearly all English texts match the query list; web: as published of
    the web, with long tails, texts that match nothing, and wrong captions."""

    def __post_init__(self) -> None:
        """Raise ConfigError where a number is out of range."""
        if self.links < _LEAST_LINKS:
            raise ConfigError(f"links: {self.links} is too few; give {_LEAST_LINKS} or more")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port: {self.port} is no port; give one from 1 to 65535")


def is_built(config: SampleWebConfig) -> bool:
    """Whether `config.path` holds this very sample web."""
    return has_marker(Path(config.path), _marker(config))


def has_marker(path: Path, marker: Mapping[str, object]) -> bool:
    """Whether `path` holds the web of this marker."""
    try:
        return bool(json.loads((path / _MARKER).read_bytes()) == marker)
    except (OSError, ValueError):
        return False


def read_settings(path: Path) -> SampleWebConfig | None:
    """What the sample web at `path` was built with; None where there is none, or one of another version."""
    try:
        marker = json.loads((path / _MARKER).read_bytes())
        names = {field.name for field in fields(SampleWebConfig)} & marker.keys()
        config = SampleWebConfig(path=str(path), **{name: marker[name] for name in names})
    except (OSError, ValueError, TypeError, KeyError, ConfigError):
        return None
    return config if is_built(config) else None


def build_sample_web(config: SampleWebConfig) -> Path:
    """Write the sample web, unless it is there already; its directory.

    Everything is written into a temporary directory beside, then renamed. Raises OutputError where
    `config.path` is a directory of something else, or cannot be written.
    """

    def write(directory: Path) -> None:
        # Not at the top: the second build and the server start without Pillow and pyarrow.
        from pipeline.sample_web.write import write_sample_web

        settings = asdict(config)
        del settings["path"]
        write_sample_web(directory, **settings)

    return build_web(Path(config.path), _marker(config), write)


def build_web(path: Path, marker: Mapping[str, object], write: Callable[[Path], None]) -> Path:
    """Let `write` fill a directory that then becomes `path`, unless a web of this very marker is there already.

    Raises OutputError as `build_sample_web` does.
    """
    if has_marker(path, marker):
        return path
    if path.exists() and not (path / _MARKER).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"{path}: exists and is no sample web; give another --path or move it away")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-{os.getpid()}-", dir=path.parent))
        try:
            temporary.chmod(0o755)  # mkdtemp makes it private
            write(temporary)
            (temporary / _MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
            if path.exists():
                shutil.rmtree(path)
            try:
                temporary.rename(path)
            except OSError:
                if not has_marker(path, marker):  # another process was faster: the same bytes, then
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot write the sample web ({error.strerror}); give another --path") from error
    return path


def _marker(config: SampleWebConfig) -> dict[str, object]:
    settings = asdict(config)
    del settings["path"]  # a moved sample web is the same
    if config.statistics == "even":
        del settings["statistics"]  # as it was before there were others, so that old ones are known
    return {"format": "openwit sample web", "version": FORMAT_VERSION, **settings}


def _sweep(path: Path) -> None:
    """Remove what killed builds of this sample web left behind."""
    for left in path.parent.glob(f".{path.name}.tmp-*"):
        owner = left.name.removeprefix(f".{path.name}.tmp-").partition("-")[0]
        if not (owner.isdigit() and _is_running(int(owner))):
            shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
