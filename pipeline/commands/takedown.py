"""Commands that take something out of a data set for good: remove, compact, apply-delta."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.load import ConfigError
from pipeline.commands.words import Words
from pipeline.storage.bucket import BucketPath
from pipeline.storage.place import Place, place_of
from pipeline.terminal.printable import say
from pipeline.terminal.progress import Progress

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pipeline.takedown.remove import Removed

__all__ = ["apply_delta_command", "compact_command", "remove_command"]

_SHOWN = 5


def remove_command(words: Words) -> int:
    """remove DIR [--urls FILE] [--hosts FILE] [--sha256 FILE] [--uids FILE]
        [--reason TEXT] [--sign KEY.pem] [--replace] [--dry-run]

    Take samples out of a published set, for good: pictures and captions become
    zeros where they lie, rows go, and no run, extension, retry or repair brings
    them back. The files have one entry a line. A delta, which others apply to
    their copies, comes to DIR/removed. In a bucket the samples are hidden at
    once, and `compact` takes out their bytes. With --replace, new shards hold
    what the reserve has for the queries that lost pairs. With --dry-run, say
    what would go.
    """
    from pipeline.takedown.asked import ASKED_BY, read_asked
    from pipeline.takedown.remove import remove, would_go
    from pipeline.terminal.console import PrintableConsole

    files = {name: file for name in ASKED_BY if (file := words.take(name)) is not None}
    reason, is_dry, key = words.take("reason") or "", words.take_flag("dry-run"), _private_key(words)
    with_replacements = words.take_flag("replace")
    (target,) = words.positional(1, "a data set's directory")
    output = _set(words, target)
    if not files:
        raise ConfigError(f"say what is to go: {', '.join(f'--{name} FILE' for name in ASKED_BY)}")
    asked, progress = read_asked(files), Progress(PrintableConsole(stderr=True))
    if is_dry:
        going = would_go(output, asked, progress=progress)
        say(f"{output}: {_counts(going)} would go; nothing was changed")
        return 0
    gone = remove(output, asked, reason=reason, key=key, with_replacements=with_replacements, progress=progress)
    if gone.replaced:
        say(f"{output}: {gone.replaced:,} samples of the reserve came in new shards")
    if gone.file is None:
        say(f"{output}: nothing to remove, all of it is gone or listed already")
        return 0
    left = "; hidden, `python -m pipeline compact` takes out the bytes" if isinstance(output, BucketPath) else ""
    say(f"{output}: {_counts(gone)} removed{left}")
    say(f"wrote {gone.file}")
    return 0


def compact_command(words: Words) -> int:
    """compact DIR [--sign KEY.pem]

    Take the bytes of what was removed out of every file: of a set in a bucket,
    whose readers pass it over until then, and of a removal that was killed.
    """
    from pipeline.takedown.remove import compact
    from pipeline.terminal.console import PrintableConsole

    key = _private_key(words)
    (target,) = words.positional(1, "a data set's directory")
    output = _set(words, target)
    done = compact(output, key=key, progress=Progress(PrintableConsole(stderr=True)))
    for each in done:
        say(f"{output}: {_counts(each)} taken out of every file")
        say(f"wrote {each.file}")
    if not done:
        say(f"{output}: nothing to do, no removal is under way")
    return 0


def apply_delta_command(words: Words) -> int:
    """apply-delta DIR DELTA.json [--key PUBLIC.pem]

    Remove from a copy of a published set, or of its shards alone, what its
    publisher has removed. With --key, only if the owner of that key has signed
    it. Applying it again changes nothing.
    """
    from pipeline.storage.keys import public_key
    from pipeline.takedown.apply import apply_delta
    from pipeline.terminal.console import PrintableConsole

    named = words.take("key")
    key = None if named is None else public_key(place_of(named))
    target, delta = words.positional(2, "a data set's directory and a delta's file")
    output = _set(words, target)
    applied = apply_delta(output, place_of(delta), key=key, progress=Progress(PrintableConsole(stderr=True)))
    if applied.was_applied:
        say(f"{output}: nothing to do, {delta} is applied already")
        return 0
    say(f"{output}: {applied.samples:,} samples removed")
    for name in applied.differ[:_SHOWN]:
        say(f"differs: {name}: is not what the delta says it is afterwards")
    if len(applied.differ) > _SHOWN:
        say(f"differs: and {len(applied.differ) - _SHOWN:,} more files")
    return 1 if any(name.endswith(".tar") for name in applied.differ) else 0


def _counts(removed: Removed) -> str:
    delta = removed.delta
    shards = len({gone.shard for gone in delta.samples})
    return f"{len(delta.samples):,} samples of {shards:,} shards, {removed.answers:,} answers in the store"


def _private_key(words: Words) -> Ed25519PrivateKey | None:
    from pipeline.storage.keys import private_key

    file = words.take("sign")
    return None if file is None else private_key(place_of(file))


def _set(words: Words, target: str) -> Place:
    """A data set, or a directory of shards."""
    place = place_of(target)
    if (place / "manifest.json").is_file():
        if left := words.overrides():
            raise ConfigError(f"unknown option {left[0].partition('=')[0]}")
        return place
    return words.output(target)
