"""The command line of the trainer, a thin layer: words in, text out.

    words -- table.py --> the module of a command -- words.py: its places and options --> what does it

Each module is imported when its command is run, and imports what it works with in `run`: torch alone takes seconds,
and neither help nor a mistake shall wait for it.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from configs.help import ask_for_help, help_page
from configs.load import ConfigError
from configs.near import did_you_mean
from configs.system import check_system
from pipeline.errors import PipelineError
from pipeline.terminal.printable import printable, say
from training.commands.table import COMMANDS, Command
from training.errors import TrainingError, is_told_by_another

__all__ = ["main"]

_SAYS_AT = 28
"""Column of what a command does."""


def main(arguments: Sequence[str], *, called: str | None = None) -> int:
    """Run one command; the exit status is 0, 2 for an error, 128 + signal when stopped. `called` is what the user wrote
    for it, if not `python -m training`."""
    words = list(arguments)
    try:
        asked, topic = ask_for_help(words)
        if asked or not words or words[0] == "help":
            with contextlib.suppress(BrokenPipeError):  # whoever read it has seen enough
                print(printable(_help(words[0] if words else "", called, topic)), flush=True)
            return 0 if words else 2
        check_system()
        name, *rest = words
        command = next((command for command in COMMANDS if command.name == name), None)
        if command is None:
            hint = did_you_mean(name, [command.name for command in COMMANDS])
            raise ConfigError(f"unknown command {name!r}; {hint}")
        return int(import_module(command.module).run(rest))
    except (ConfigError, TrainingError, PipelineError) as error:  # the last is of a bucket
        if not is_told_by_another(error):
            say(f"error: {error}", to=sys.stderr)
        return 2
    except KeyboardInterrupt:  # under Ray, whose own handler takes the signal
        return 128 + signal.SIGINT
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if not is_told_by_another(error):
            say(f"error: {where}{error.strerror or error}", to=sys.stderr)
        return 2


def _help(name: str, called: str | None, topic: str | None) -> str:
    command = next((command for command in COMMANDS if command.name == name), None)
    if command is None:
        return f"{_overview()}\n{_options(COMMANDS[0], topic)}" if topic is None else _options(COMMANDS[0], topic)
    if topic is not None:
        return _options(command, topic)
    usage = f"{called or f'python -m training {name}'} {command.usage} [--section.key value ...]"
    return f"{usage}\n\n{command.says}\n\n{_options(command, None)}"


def _options(command: Command, topic: str | None) -> str:
    module = import_module(command.module)
    return help_page(module.OPTIONS, topic, needed=module.NEEDED)


def _overview() -> str:
    lines = ["usage: python -m training COMMAND WORDS [--section.key value ...]", "", "commands:"]
    for command in COMMANDS:
        first, *more = command.says.splitlines()
        head = f"  {command.name} {command.usage}"
        if len(head) < _SAYS_AT:
            lines.append(f"{head:<{_SAYS_AT}}{first}")
        else:
            lines += [head, f"{'':{_SAYS_AT}}{first}"]
        lines += [f"{'':{_SAYS_AT}}{line}" for line in more]
    lines += [
        "",
        "CONFIG.yaml may be a preset's word instead: sample, clip-vit-b-32 ...",
        "Several processes: torchrun --nproc-per-node 2 -m training run CONFIG.yaml",
        "`python -m training COMMAND --help` has a command's options; those of run are:",
        "",
    ]
    return "\n".join(lines)
