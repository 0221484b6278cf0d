"""The commands that are openwit's own: they are about configs and shells, and make no data."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from configs.help import ask_for_help
from configs.load import ConfigError
from configs.near import did_you_mean
from configs.presets import KINDS, Kind, first_sentence, presets
from pipeline.errors import PipelineError
from pipeline.terminal.printable import printable, printable_json, say

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["class_of", "run"]


def run(name: str, words: Sequence[str]) -> int:
    """Run one of these commands; its exit status: 0, or 2 after a mistake that is told in one line."""
    command = _COMMANDS[name]
    if ask_for_help(words)[0]:
        print(f"openwit {inspect.getdoc(command)}")
        return 0
    try:
        command(list(words))
    except (ConfigError, PipelineError) as error:
        say(f"error: {error}", to=sys.stderr)
        return 2
    except (EOFError, KeyboardInterrupt):
        say("stopped; nothing was written", to=sys.stderr)
        return 130
    return 0


def class_of(kind: Kind) -> type[Any]:
    """The class that configs of this kind are read into."""
    if kind == "shards":
        from pipeline.config import WitConfig

        return WitConfig
    if kind == "queries":
        from query_list.config import BuildConfig

        return BuildConfig
    if kind == "experiment":
        from training.experiment.config import ExperimentConfig

        return ExperimentConfig
    from training.config import TrainConfig

    return TrainConfig


def _presets(words: list[str]) -> None:
    """presets
    presets show NAME
    presets show shards|queries|train|experiment NAME

    The configs that come along, by the word that stands for them in the place
    of CONFIG. `show` prints one, to be redirected into a file of your own:

        openwit presets show laion > my.yaml

    A name that several kinds have is that of a run's config, unless the kind
    is named.
    """
    match words:
        case []:
            print(printable(_list_of_presets()))
        case ["show", *named] if named and (len(named) == 1 or named[0] in KINDS):
            print(printable(_named_preset(named).read_text(encoding="utf-8")), end="")
        case _:
            raise ConfigError("expected nothing, or: presets show NAME")


def _list_of_presets() -> str:
    import textwrap

    lines = []
    for kind in KINDS:
        lines += ["", f"openwit {kind} NAME"]
        for name, file in presets(kind).items():
            indents = {"initial_indent": f"  {name:<15} ", "subsequent_indent": " " * 18}
            lines += textwrap.wrap(first_sentence(file), 80, **indents)  # type: ignore[arg-type]  # two strings
    return "\n".join(lines[1:])


def _named_preset(named: list[str]) -> Path:
    kinds = [kind for kind in KINDS if len(named) == 1 or kind == named[0]]
    name = named[-1]
    for kind in kinds:
        if name in (known := presets(kind)):
            return known[name]
    names = sorted({name for kind in kinds for name in presets(kind)})
    raise ConfigError(f"no preset {name!r}; {did_you_mean(name, names)}")


def _schema(words: list[str]) -> None:
    """schema shards|queries|train|experiment

    The JSON Schema (2020-12) of a config of that kind, for editors: they then
    complete its options, show what they mean and underline mistakes.

        openwit schema shards > openwit-shards.json

    and as the first line of the config, for yaml-language-server (VS Code's
    YAML extension, Neovim, Helix, Emacs):

        # yaml-language-server: $schema=openwit-shards.json
    """
    from configs.schema import json_schema

    for kind in KINDS:
        if words == [kind]:
            schema = json_schema(class_of(kind), title=f"openwit {kind}")
            print(printable_json(json.dumps(schema, indent=1, ensure_ascii=False)))
            return
    wrong = f"{words[0]!r} is no kind of config; " if words else ""
    raise ConfigError(f"{wrong}name one kind of config: {', '.join(KINDS)}")


def _completion(words: list[str]) -> None:
    """completion bash|zsh|fish

    A script for the shell's Tab key: it completes commands, presets, options by
    section, the words that an option takes, and files.

        bash: openwit completion bash > ~/.local/share/bash-completion/completions/openwit
        zsh:  openwit completion zsh > DIRECTORY/_openwit   (one of $fpath, before compinit)
        fish: openwit completion fish > ~/.config/fish/completions/openwit.fish

    For the present shell alone: eval "$(openwit completion bash)"
    """
    from openwit.command.completion import SHELLS

    if len(words) != 1 or words[0] not in SHELLS:
        wrong = f"{words[0]!r} is no shell that is known; " if words else ""
        raise ConfigError(f"{wrong}name one of {', '.join(SHELLS)}")
    print(SHELLS[words[0]], end="")


def _init(words: list[str]) -> None:
    """init [--to FILE] [--yes] [--force]
        [--sources PATHS] [--queries FILE] [--output DIR] [--contact URL|EMAIL]
        [--pairs_per_query N]

    Five questions, and a config of your own, with comments: where the links
    are, which queries, where the data set goes, how you can be reached, how
    many pairs a query may bring. The columns are read from the table itself,
    and what can be checked is checked at once.

    --to       the file to write (openwit.yaml); --force lets it replace one
    --yes      ask nothing: what has no option takes what would be proposed.
               --contact has to be given: it is sent with every request
    """
    from openwit.command.init import init

    init(words)


_COMMANDS: Mapping[str, Callable[[list[str]], None]] = {
    "presets": _presets,
    "schema": _schema,
    "completion": _completion,
    "init": _init,
}
