"""`python -m pipeline.sample_web build|serve`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from configs.help import describe
from configs.load import ConfigError, load
from configs.system import check_system
from pipeline.errors import PipelineError
from pipeline.sample_web.build import SampleWebConfig, build_sample_web, is_built
from pipeline.terminal.printable import say

__all__ = ["ServeConfig", "main"]

_USAGE = """usage: python -m pipeline.sample_web build|serve [--option value]

build   write the sample web: pages, pictures, archives, tables, encyclopedia,
        evaluation set, ground truth
{build}

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
        print(_USAGE.format(build=describe(SampleWebConfig), serve=describe(ServeConfig)))
        return 0
    try:
        check_system()
        if command == "build":
            config = load(SampleWebConfig, None, options)
            done = is_built(config)
            path = build_sample_web(config)
            say(f"{path}: the sample web is {'already there' if done else 'built'} ({config.links} links)")
        elif command == "serve":
            # Not at the top: `build` needs no server.
            from pipeline.sample_web.server import serve

            serve(Path(load(ServeConfig, None, options).path))
        else:
            raise ConfigError(f"unknown command {command!r}; use build or serve")
    except (ConfigError, PipelineError) as error:
        say(f"error: {error}", to=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
