"""The commands of `openwit`: the one list, from which help, completion and dispatch are made.

Importing this loads nothing but the standard library: `openwit --help` and the Tab key wait for no config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from configs.presets import Kind

__all__ = ["COMMANDS", "GROUPS", "Command", "Group", "Values"]

Group = Literal["build", "ask", "reuse", "train", "use", "configs"]
GROUPS: Mapping[Group, str] = {
    "build": "Build a data set",
    "ask": "Ask it",
    "reuse": "Make something of it",
    "train": "Train on it",
    "use": "Use a CLIP",
    "configs": "Configs",
}
Values = Literal["flag", "file", "text"] | tuple[str, ...]
"""What follows an option: nothing, a path, something else, or one of these words."""
_YES_NO: Values = ("true", "false")
_RESULT: Mapping[str, Values] = {"format": ("table", "csv", "json", "parquet"), "to": "file"}
_TOLD_OF_A_RELEASE = (
    *("title", "description", "licence", "creator", "citation", "contact", "url", "download_url", "version"),
    *(
        "published",
        "sources",
        "keywords",
        "use_cases",
        "biases",
        "social_impact",
        "maintenance",
        "columns",
        "rows_per_file",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, and what it is made of."""

    name: str
    group: Group
    usage: str
    """What comes behind the name."""
    says: str
    """One line."""
    room: Literal["pipeline", "query_list", "training", "sample_web", "openwit"]
    """Whose `main` it is."""
    words: tuple[str, ...] = ()
    """What that `main` is called with, before the user's words."""
    config: Kind | None = None
    """The kind of its config: whose presets and options it takes."""
    takes: Literal["config", "config or set", "set", "other"] = "other"
    """Its first word."""
    options: Mapping[str, Values] = field(default_factory=dict)
    """Its own options, beside those of a config."""


COMMANDS: tuple[Command, ...] = (
    Command(
        name="queries",
        group="build",
        usage="CONFIG",
        says="the query list, from Wikipedia or your words",
        room="query_list",
        config="queries",
        takes="config",
    ),
    Command(
        name="shards",
        group="build",
        usage="CONFIG",
        says="crawl archives or tables of links to shards",
        room="pipeline",
        words=("run",),
        config="shards",
        takes="config",
        options={"extend": "flag", "retry-failed": "flag", "metrics-file": "file"},
    ),
    Command(
        name="plan",
        group="build",
        usage="CONFIG",
        says="the steps, and what would run",
        room="pipeline",
        words=("plan",),
        config="shards",
        takes="config",
    ),
    Command(
        name="status",
        group="build",
        usage="CONFIG|DIR",
        says="whether a run lives, and how far it is",
        room="pipeline",
        words=("status",),
        config="shards",
        takes="config or set",
    ),
    Command(
        name="sample-web",
        group="build",
        usage="build|serve",
        says="the built-in miniature web",
        room="sample_web",
    ),
    Command(
        name="sql",
        group="ask",
        usage="CONFIG|DIR SQL|NAME",
        says="SQL, or a named query: funnel, balance ...",
        room="pipeline",
        words=("sql",),
        config="shards",
        takes="config or set",
        options={**_RESULT, "allow-files": "flag"},
    ),
    Command(
        name="report",
        group="ask",
        usage="CONFIG|DIR",
        says="the data card, one HTML file",
        room="pipeline",
        words=("report",),
        config="shards",
        takes="config or set",
        options={"to": "file"},
    ),
    Command(
        name="balance-report",
        group="ask",
        usage="CONFIG|DIR",
        says="what several t, and each mode, would keep",
        room="pipeline",
        words=("balance-report",),
        config="shards",
        takes="config or set",
        options={**_RESULT, "of": ("limits", "modes", "published"), "t": "text"},
    ),
    Command(
        name="explain",
        group="ask",
        usage="CONFIG|DIR --url URL",
        says="the story of one link",
        room="pipeline",
        words=("explain",),
        config="shards",
        takes="config or set",
        options={"uid": "text", "url": "text", "format": ("text", "json")},
    ),
    Command(
        name="verify",
        group="ask",
        usage="CONFIG|DIR",
        says="check every byte and count; --repair",
        room="pipeline",
        words=("verify",),
        config="shards",
        takes="config or set",
        options={"work": "flag", "repair": "flag", "key": "file"},
    ),
    Command(
        name="subset",
        group="reuse",
        usage="DIR --out DIR2",
        says="new shards from old, without a download",
        room="pipeline",
        words=("subset",),
        takes="set",
        options={
            "out": "file",
            "where": "text",
            "scores": "file",
            "blur": "text",
            "uids": "file",
            "limit_per_query": "text",
            "samples_per_shard": "text",
            "allow-files": "flag",
        },
    ),
    Command(
        name="join",
        group="reuse",
        usage="DIR FILE",
        says="add columns of your own, by uid",
        room="pipeline",
        words=("join",),
        takes="set",
        options={"name": "text"},
    ),
    Command(
        name="export-list",
        group="reuse",
        usage="DIR --to FILE",
        says="URLs and captions without images",
        room="pipeline",
        words=("export-list",),
        takes="set",
        options={"to": "file"},
    ),
    Command(
        name="release",
        group="reuse",
        usage="DIR OUT",
        says="the set for others: links, card, checksums",
        room="pipeline",
        words=("release",),
        takes="set",
        options={
            "about": "file",
            "pictures": "flag",
            "supersedes": "file",
            "sign": "file",
            "engine": ("inline", "ray"),
            **dict.fromkeys(_TOLD_OF_A_RELEASE, "text"),
        },
    ),
    Command(
        name="remove",
        group="reuse",
        usage="DIR --urls FILE",
        says="take samples out, for good; tell others",
        room="pipeline",
        words=("remove",),
        takes="set",
        options={
            "urls": "file",
            "hosts": "file",
            "sha256": "file",
            "uids": "file",
            "reason": "text",
            "sign": "file",
            "replace": "flag",
            "dry-run": "flag",
        },
    ),
    Command(
        name="compact",
        group="reuse",
        usage="DIR",
        says="take out the bytes of what was removed",
        room="pipeline",
        words=("compact",),
        takes="set",
        options={"sign": "file"},
    ),
    Command(
        name="apply-delta",
        group="reuse",
        usage="DIR DELTA",
        says="remove what a set's publisher removed",
        room="pipeline",
        words=("apply-delta",),
        takes="set",
        options={"key": "file"},
    ),
    Command(
        name="train",
        group="train",
        usage="CONFIG",
        says="train a CLIP; with --seeds N several",
        room="training",
        words=("run",),
        config="train",
        takes="config",
        options={"seeds": "text"},
    ),
    Command(
        name="train-plan",
        group="train",
        usage="CONFIG",
        says="what a run takes: memory, steps, queries",
        room="training",
        words=("plan",),
        config="train",
        takes="config",
    ),
    Command(
        name="experiment",
        group="train",
        usage="CONFIG",
        says="does balancing pay? arms x seeds, compared",
        room="training",
        words=("experiment",),
        config="experiment",
        takes="config",
    ),
    Command(
        name="evaluate",
        group="use",
        usage="MODEL...|CONFIG",
        says="measure models on sets: one table, one page",
        room="training",
        words=("evaluate",),
        config="train",
        takes="config",
        options={"sets": "text", "to": "file", "probe": _YES_NO, "flips": _YES_NO},
    ),
    Command(
        name="evaluation-set",
        group="use",
        usage="SET --to DIR",
        says="an evaluation set of any form as tars",
        room="training",
        words=("evaluation-set",),
        options={"to": "file", "examples_per_tar": "text"},
    ),
    Command(
        name="embed",
        group="use",
        usage="MODEL DATA",
        says="features of a set, folder or list",
        room="training",
        words=("embed",),
        options={
            "to": "file",
            "name": "text",
            "what": ("both", "image", "text"),
            "batch_size": "text",
            "device": ("auto", "cpu", "cuda"),
            "image_column": "text",
            "text_column": "text",
            "uid_column": "text",
        },
    ),
    Command(
        name="index",
        group="use",
        usage="FEATURES",
        says="an index of features, for search",
        room="training",
        words=("index",),
        options={"to": "file", "of": ("image", "text"), "effort": "text", "threads": "text"},
    ),
    Command(
        name="search",
        group="use",
        usage='INDEX "WORDS"',
        says="what is nearest to words, or --image FILE",
        room="training",
        words=("search",),
        options={
            "image": "file",
            "k": "text",
            "where": "text",
            "format": ("table", "json", "html"),
            "to": "file",
            "model": "file",
            "source": "file",
        },
    ),
    Command(
        name="score",
        group="use",
        usage="FEATURES...",
        says="scores by uid, for subset and filters",
        room="training",
        words=("score",),
        options={
            "scores": "text",
            "to": "file",
            "name": "text",
            "model": "file",
            "device": ("auto", "cpu", "cuda"),
            "engine": ("inline", "ray"),
            "aesthetic.head": "file",
            "policy.file": "file",
            "duplicates.eps": "text",
            "duplicates.keep": ("hard", "easy", "random"),
            "duplicates.clusters": "text",
        },
    ),
    Command(
        name="faces",
        group="use",
        usage="MODEL_FILE DATA",
        says="boxes of faces by uid, for subset and filters",
        room="training",
        words=("faces",),
        options={"to": "file", "min_score": "text", "longest_side": "text", "engine": ("inline", "ray")},
    ),
    Command(
        name="export",
        group="use",
        usage="CONFIG|MODEL",
        says="for open_clip, transformers, ONNX, a hub",
        room="training",
        words=("export",),
        config="train",
        takes="config",
        options={
            "to": ("open_clip", "transformers", "onnx"),
            "directory": "file",
            "push": "text",
            "private": ("true", "false"),
        },
    ),
    Command(
        name="card",
        group="use",
        usage="RUN",
        says="the model card, from what was measured",
        room="training",
        words=("card",),
        takes="set",
        options={"to": "file"},
    ),
    Command(
        name="limits",
        group="use",
        usage="MODEL",
        says="counting, places, binding, digits, wording",
        room="training",
        words=("limits",),
        takes="set",
        options={"to": "file", "questions": "text", "seed": "text", "batch_size": "text"},
    ),
    Command(
        name="init",
        group="configs",
        usage="[--to FILE]",
        says="five questions, and a config of your own",
        room="openwit",
        options={
            "sources": "file",
            "queries": "file",
            "output": "file",
            "contact": "text",
            "pairs_per_query": "text",
            "to": "file",
            "yes": "flag",
            "force": "flag",
        },
    ),
    Command(
        name="presets",
        group="configs",
        usage="[show NAME]",
        says="the configs that come along, by name",
        room="openwit",
    ),
    Command(
        name="schema",
        group="configs",
        usage="KIND",
        says="JSON Schema of a config, for editors",
        room="openwit",
    ),
    Command(
        name="completion",
        group="configs",
        usage="bash|zsh|fish",
        says="the Tab key for a shell",
        room="openwit",
    ),
)
