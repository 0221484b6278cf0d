"""What the Tab key offers. A shell's script hands over the words so far and shows what comes back.

    bash, zsh, fish --words--> openwit __complete WORDS --a candidate a line--> the shell

One rule for three shells, in Python, so that it knows the options of this very version. What ends in `/`, `.` or `=`
is a beginning: no space follows it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from configs.presets import KINDS, Kind, presets
from openwit.command.table import COMMANDS, Command, Values

__all__ = ["SHELLS", "candidates"]

_CONFIGS = (".yaml", ".yml")
_VERBS = ("build", "stats", "lint", "diff-rules")
_QUERY_NAMES = (
    *(
        "aspect_ratios",
        "balance",
        "balance_curve",
        "balance_final",
        "balance_summary",
        "balance_tail",
        "balance_unmatched",
    ),
    *("caption_characters", "caption_words", "consent", "duplicates", "failures", "formats", "funnel", "heavy_hosts"),
    *("host_shares", "hosts", "image_sizes", "language_probability", "languages", "licences", "links_left"),
    *("queries_by_rank", "query_sources", "sample_hosts", "totals"),
)
"""As query_list and the catalog have them, which would load what they work with; tests hold them equal."""


def candidates(words: Sequence[str]) -> list[str]:
    """What may stand in the place of the last of `words`, the words behind `openwit`, as far as it is typed."""
    *before, typed = words or [""]
    if "=" in before or typed == "=":  # bash takes --a=b for three words
        before, typed = _joined(before, typed)
    if not before:
        names = [*(command.name for command in COMMANDS), "--help", "--version"]
        return _beginning(names, typed)
    command = next((command for command in COMMANDS if command.name == before[0]), None)
    return [] if command is None else _of_command(command, before[1:], typed)


def _joined(before: list[str], typed: str) -> tuple[list[str], str]:
    """As if there had been a space for the `=` before what is typed."""
    if typed == "=":
        return before, ""
    return [word for word in before if word != "="], typed


def _of_command(command: Command, before: list[str], typed: str) -> list[str]:
    if typed.startswith("--") and "=" in typed:
        name, _, value = typed.partition("=")
        return [f"{name}={found}" for found in _values(command, name[2:], value)]
    last = before[-1] if before else ""
    if last in ("--help", "-h"):
        return _beginning([*_sections(command), "all"], typed) if command.config else []
    if last.startswith("--") and "=" not in last and _kind_of(command, last[2:]) != "flag":
        return _values(command, last[2:], typed)
    if typed.startswith("-"):
        return _options(command, typed)
    return _positional(command, _positions(command, before), typed)


def _positions(command: Command, before: list[str]) -> list[str]:
    """The words of `before` that are neither options nor their values."""
    found = []
    rest = list(before)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            found.append(word)
        elif "=" not in word and _kind_of(command, word[2:]) != "flag" and rest:
            rest.pop(0)
    return found


def _positional(command: Command, before: list[str], typed: str) -> list[str]:
    """What stands in the place of a word that is no option, behind the words `before` of its sort."""
    place = len(before)
    match command.name, place:
        case "sql", 1:
            return _beginning(_QUERY_NAMES, typed)
        case "join", 1:
            return _files(typed, (".parquet",))
        case "queries", 1 if before[0] in _VERBS:
            return _beginning(presets("queries"), typed) + _files(typed, None)
        case "presets", 0:
            return _beginning(["show"], typed)
        case "presets", 1:
            return _beginning([*KINDS, *itertools.chain(*map(presets, KINDS))], typed)
        case "presets", 2 if (kind := _kind_named(before[1])) is not None:
            return _beginning(presets(kind), typed)
        case "schema", 0:
            return _beginning(KINDS, typed)
        case "completion", 0:
            return _beginning(SHELLS, typed)
        case "sample-web", 0:
            return _beginning(["build", "from-pictures", "serve"], typed)
    if place or command.takes == "other":
        return []
    if command.config is None:
        return _files(typed, ())
    verbs = _VERBS if command.name == "queries" else ()
    return _beginning([*presets(command.config), *verbs], typed) + _files(typed, _CONFIGS)


def _kind_named(word: str) -> Kind | None:
    return next((kind for kind in KINDS if kind == word), None)


def _options(command: Command, typed: str) -> list[str]:
    """Options that begin with what is typed: a section first, then its options."""
    names = [f"--{name}" for name in (*command.options, "help")]
    for name in _kinds(command):
        # As far as the next dot behind what is typed.
        end = name.find(".", max(len(typed) - 2, 0))
        names.append(f"--{name}" if end < 0 else f"--{name[: end + 1]}")
    return _beginning(dict.fromkeys(names), typed)


def _values(command: Command, name: str, typed: str) -> list[str]:
    values = _kind_of(command, name)
    if isinstance(values, tuple):
        return _beginning(values, typed)
    return _files(typed, None) if values == "file" else []


def _kind_of(command: Command, name: str) -> Values:
    """What follows the option `name`; words of other options are text."""
    name = name.replace("_", "-")
    for known, values in (*command.options.items(), ("help", "flag"), *_kinds(command).items()):
        if known.replace("_", "-") == name:
            return values
    return "text"


def _kinds(command: Command) -> Mapping[str, Values]:
    """Dotted option -> what follows it, of the command's config."""
    if command.config is None:
        return {}
    from configs.options import options_of
    from openwit.command.own import class_of

    return {option.name: _values_of(option.kind) for option in options_of(class_of(command.config))}


def _values_of(kind: Any) -> Values:
    from configs.options import is_union, names_of

    if names := names_of(kind):
        return tuple(names)
    if kind is bool:
        return ("true", "false")
    if get_origin(kind) is Literal:
        return tuple(str(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return _values_of(get_args(kind)[0])
    if is_union(kind):
        members = [_values_of(member) for member in get_args(kind) if member is not type(None)]
        words = tuple(itertools.chain(*(member for member in members if isinstance(member, tuple))))
        return words or members[0]
    return "file" if kind is str else "text"


def _sections(command: Command) -> Iterable[str]:
    return dict.fromkeys(["general", *(name.partition(".")[0] for name in _kinds(command) if "." in name)])


def _beginning(names: Iterable[str], typed: str) -> list[str]:
    return [name for name in names if name.startswith(typed)]


def _files(typed: str, endings: tuple[str, ...] | None) -> list[str]:
    """Directories, and files with one of `endings` (None: all), whose path begins with what is typed."""
    return sorted(_found(typed, endings))


def _found(typed: str, endings: tuple[str, ...] | None) -> Iterator[str]:
    folder, name = os.path.split(typed)
    try:
        entries = list(Path(folder or ".").expanduser().iterdir())
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(name) or (entry.name.startswith(".") and not name):
            continue
        if entry.is_dir():
            yield os.path.join(folder, entry.name) + "/"
        elif endings is None or entry.name.endswith(endings):
            yield os.path.join(folder, entry.name)


_BASH = r"""# openwit's completion for bash, made by `openwit completion bash`
_openwit() {
    local i
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && -z ${COMPREPLY[0]} ]] && COMPREPLY=()
    for i in "${!COMPREPLY[@]}"; do
        case ${COMPREPLY[i]} in
            *[/.=]) compopt -o nospace ;;
            *" "*) COMPREPLY[i]=$(printf '%q' "${COMPREPLY[i]}") ;;
        esac
    done
}
complete -F _openwit openwit
"""
_ZSH = r"""#compdef openwit
# openwit's completion for zsh, made by `openwit completion zsh`
_openwit() {
    local -a found
    found=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=("${(@)found:#}")
    compadd -S ' ' -- "${(@)found:#*[/.=]}"
    compadd -S '' -- "${(@M)found:#*[/.=]}"
}
if [[ $funcstack[1] == _openwit ]]; then _openwit "$@"; else compdef _openwit openwit; fi
"""
_FISH = r"""# openwit's completion for fish, made by `openwit completion fish`
function __openwit_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    $program __complete $words (commandline -ct) 2>/dev/null
end
complete -c openwit -f -a '(__openwit_complete)'
"""
SHELLS: Mapping[str, str] = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""Shell -> its script."""
