"""Commands that make something of a data set: subset, join, export-list, release."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from configs.load import ConfigError, from_mapping, read_mapping
from pipeline.commands.words import Words, new_output
from pipeline.releasing.config import ReleaseConfig
from pipeline.sets.subset_config import SubsetConfig
from pipeline.storage.place import place_of
from pipeline.terminal.printable import say
from pipeline.terminal.progress import Progress

__all__ = ["export_list_command", "join_command", "release_command", "subset_command"]


def subset_command(words: Words) -> int:
    """subset DIR --out DIR2 [--where "CONDITION"]
        [--scores FILE,FILE...] [--uids FILE] [--limit_per_query N]
        [--blur COLUMN] [--samples_per_shard N] [--allow-files]
        [--captions FILE,FILE...] [--choose best|web|synthetic]
        [--min_caption_score S]

    New shards from old: bytes copied, nothing decoded or downloaded. DIR2 is a
    data set directory of its own. The condition may name the columns of Parquet
    files keyed by uid (--scores), which are joined to DIR2. What lies in the
    boxes of a column (--blur face_boxes) is made unrecognisable. Of what the
    page said and what models wrote of a picture (--captions) one text
    becomes `caption`. The ledger of DIR2 says what was left out, and why.
    """
    from pipeline.sets.subset import subset
    from pipeline.terminal.console import PrintableConsole

    out = new_output(words.take_required("out"))
    options: dict[str, Any] = {name: words.take(name) for name in ("where", "uids", "blur")}
    options |= {name: words.take_count(name.replace("_", "-")) for name in ("limit_per_query", "samples_per_shard")}
    options["scores"] = [file for file in (words.take("scores") or "").split(",") if file]
    options["allow_files"] = words.take_flag("allow-files")
    options["engine"] = words.take("engine") or "inline"
    if (captions := _captions(words)) is not None:
        options["captions"] = captions
    config = from_mapping(SubsetConfig, options, where="subset")
    (target,) = words.positional(1, "a data set's directory")
    console = PrintableConsole(stderr=True)
    result = subset(words.output(target), config, out, progress=Progress(console))
    if result.unknown_uids:
        console.print(f"{result.unknown_uids:,} uids of {config.uids} are not in the set")
    for told, count in result.left_out.items():
        say(f"left out {count:,}: {told}")
    say(f"{out}: {result.samples:,} samples in {result.shards:,} shards, {result.num_bytes / 1e6:,.1f} MB")
    return 0


def _captions(words: Words) -> dict[str, Any] | None:
    """The section `captions` of a subset; None where nothing of it is given."""
    files, choose, least = words.take("captions"), words.take("choose"), words.take("min-caption-score")
    if (files, choose, least) == (None, None, None):
        return None
    found: dict[str, Any] = {"files": [file for file in (files or "").split(",") if file]}
    found |= {} if choose is None else {"choose": choose}
    if least is not None:
        try:
            found["min_score"] = float(least)
        except ValueError:
            raise ConfigError(f"--min_caption_score: expected a number, got {least!r}") from None
    return found


def join_command(words: Words) -> int:
    """join DIR SCORES.parquet [--name NAME]

    Add the columns of a Parquet keyed by uid (16 bytes, or 32 hex digits) to
    the view `samples`, to query and to filter on. They are kept in
    DIR/joined/NAME.parquet; delete that file to take them away.
    """
    from pipeline.sets.join import join

    name = words.take("name")
    target, scores = words.positional(2, "a data set's directory and a .parquet file")
    result = join(words.output(target), place_of(scores), name)
    say(
        f"joined {', '.join(result.columns)} as {result.name}: {result.rows:,} rows, "
        f"{result.covered:,} of {result.samples:,} samples have one"
    )
    return 0


def export_list_command(words: Words) -> int:
    """export-list DIR --to FILE.parquet

    The URLs and captions with uids, queries, provenance and sha256, without
    images. The list is a source as well.
    """
    from pipeline.sets.export_list import export_list

    to = place_of(words.take_required("to"))
    (target,) = words.positional(1, "a data set's directory")
    rows = export_list(words.output(target), to)
    say(f"wrote {rows:,} rows to {to}")
    return 0


def release_command(words: Words) -> int:
    """release DIR OUT [--about FILE.yaml] [--title TEXT]
        [--description TEXT] [--licence NAME|URL] [--creator NAME]
        [--citation BIBTEX] [--contact WHERE] [--url URL] [--download_url URL]
        [--version N.N.N] [--published DAY] [--sources TEXT] [--keywords TEXT]
        [--use_cases TEXT] [--biases TEXT] [--social_impact TEXT]
        [--maintenance TEXT] [--pictures] [--columns +NAME,-NAME]
        [--rows_per_file N] [--supersedes DIR] [--sign KEY.pem]
        [--engine inline|ray]

    What others need to use the data set, in the directory OUT: links and
    captions as Parquet (with --pictures the tars too), query list, config
    without what is private, card, README.md, croissant.json, checksums. What
    only people know comes from options, or from a file with the same names
    (--about). `verify OUT` checks it, `sha256sum -c SHA256SUMS` too.
    """
    from pipeline.releasing.release import release
    from pipeline.terminal.console import PrintableConsole

    about = words.take("about")
    options = {} if about is None else {name: _day(value) for name, value in read_mapping(about).items()}
    told: dict[str, Any] = {"rows_per_file": words.take_count("rows-per-file")}
    told["pictures"] = words.take_flag("pictures") or None
    for field in dataclasses.fields(ReleaseConfig):
        if field.name not in told:
            told[field.name] = words.take(field.name.replace("_", "-"))
    options |= {name: value for name, value in told.items() if value is not None}
    said = from_mapping(ReleaseConfig, options, where=about or "release")
    target, to = words.positional(2, "a data set's directory, and one for the release")
    out = new_output(to)
    result = release(words.output(target), said, out, progress=Progress(PrintableConsole(stderr=True)))
    if result.undecided:
        say(f"not published, since nobody decided about them: {', '.join(result.undecided)}")
    if result.missing:
        say(
            f"not told, since only you know: {', '.join(result.missing)}; say it with --{result.missing[0]}, or --about"
        )
    what = "is whole already" if result.was_there else f"release {result.release}"
    say(f"{out}: {what}: {result.samples:,} samples, {result.files:,} files, {result.num_bytes / 1e6:,.1f} MB")
    return 0


def _day(value: Any) -> Any:
    """YAML takes 2026-11-29 for a date."""
    return value.isoformat() if isinstance(value, datetime.date) else value
