"""`python -m pipeline.sample_web build|from-pictures|serve`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from configs.help import describe
from configs.load import ConfigError, load
from configs.system import check_system
from pipeline.errors import PipelineError
from pipeline.sample_web.build import SampleWebConfig, build_sample_web, is_built
from pipeline.sample_web.from_pictures import PicturesConfig, build_pictures_web
from pipeline.terminal.printable import say

__all__ = ["ServeConfig", "main"]

_USAGE = """usage: python -m pipeline.sample_web build|serve [--option value]
       python -m pipeline.sample_web from-pictures DIRECTORY [--option value]

build   write the sample web: pages, pictures, archives, tables, encyclopedia,
        evaluation set, ground truth
{build}

from-pictures
        write the same of a directory of named pictures
{pictures}

serve   answer its URLs on 127.0.0.1 until standard input ends
{serve}"""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Settings of the server; the port is the sample web's own."""

    path: str = "data/sample_web"
    """The directory that `build` wrote."""


def main(arguments: list[str]) -> int:
    """Run one command; the exit status: 0, or 2 after a mistake or an obstacle told in one line."""
    command, *options = arguments or ["--help"]
    if command in ("-h", "--help") or "--help" in options:
        print(
            _USAGE.format(
                build=describe(SampleWebConfig), pictures=describe(PicturesConfig), serve=describe(ServeConfig)
            )
        )
        return 0
    try:
        check_system()
        if command == "build":
            config = load(SampleWebConfig, None, options)
            done = is_built(config)
            path = build_sample_web(config)
            say(f"{path}: the sample web is {'already there' if done else 'built'} ({config.links} links)")
        elif command == "from-pictures":
            if not options or options[0].startswith("-"):
                raise ConfigError("from-pictures: give the directory of pictures: from-pictures DIRECTORY")
            of_pictures = load(PicturesConfig, None, ["--directory", *options])
            say(f"{build_pictures_web(of_pictures)}: a web of the pictures in {of_pictures.directory}")
        elif command == "serve":
            # Not at the top: `build` needs no server.
            from pipeline.sample_web.server import serve

            serve(Path(load(ServeConfig, None, options).path))
        else:
            raise ConfigError(f"unknown command {command!r}; use build, from-pictures or serve")
    except (ConfigError, PipelineError) as error:
        say(f"error: {error}", to=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
