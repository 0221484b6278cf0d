"""The config of a set as others may see it: without contacts, tokens, proxies and paths of the machine.

What goes out is said option by option. Numbers, booleans and choices from a list always do; a text does where it is
named here, whole or by its last name; any other text, such as that of an option of a later version, stays in.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import yaml

from configs.load import to_mapping
from configs.options import names_of, options_of
from pipeline.config import WitConfig

__all__ = ["public_config", "shown_config"]

_WHOLE = frozenset(
    {
        *(f"extract.{name}_columns" for name in ("url", "text", "page_url", "license", "text_source", "extra")),
        *("extract.column_names", "extract.robots_directives", "fetch.respect_x_robots_tag", "image.exif_tags"),
        *("consent.x_robots_directives", "consent.page_directives", "consent.common_crawl", "privacy.phone_regions"),
        *("language.targets", "language.lexicons", "filters.languages", "filters.scores.column"),
    }
)
"""Words of the field: names of columns, languages, directives, tags."""
_BY_NAME = frozenset(
    {
        *(
            "sources",
            "queries",
            "filters.scores.files",
            "consent.robots_archives",
            "privacy.hash_lists",
            "privacy.pdq_lists",
        ),
        *(f"decontaminate.{name}" for name in ("images", "hashes", "captions", "class_names", "templates")),
    }
)
"""Files: their last name, or the URL of one that everybody can read."""
_OPEN_BUCKETS = ("s3://commoncrawl/", "hf://")


def public_config(config: WitConfig) -> tuple[str, list[str]]:
    """(YAML, the options that say something and were left out). To run it, these must be filled in."""
    left_out: list[str] = []
    plain = _shown(to_mapping(config), "", _choices(), left_out)
    names = list(dict.fromkeys(left_out))
    head = "# The config that the set was made with. Files are told by their last name.\n"
    if names:
        head += "# Left out, since they are of the machine or of who ran it:\n"
        head += "".join(f"#   {name}\n" for name in names)
    return head + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120), names


def shown_config(config: WitConfig) -> WitConfig:
    """`config` for the facts of a card: its sources and its query list by their last names."""
    return dataclasses.replace(
        config, sources=tuple(map(_last_name, config.sources)), queries=_last_name(config.queries)
    )


def _choices() -> frozenset[str]:
    """The options whose text is one of a list."""
    return frozenset(option.name for option in options_of(WitConfig) if _is_choice(option.kind))


def _is_choice(kind: Any) -> bool:
    if names_of(kind) or get_origin(kind) is Literal:
        return True
    members = [member for member in get_args(kind) if member is not type(None) and member is not Ellipsis]
    return bool(members) and all(_is_choice(member) for member in members)


def _shown(value: Any, key: str, choices: frozenset[str], left_out: list[str]) -> Any:
    if key in _WHOLE:
        return value
    if isinstance(value, Mapping):
        found = {}
        for name, each in value.items():
            inner = f"{key}.{name}" if key else str(name)
            shown = _shown(each, inner, choices, left_out)
            if shown is not None or each is None:
                found[name] = shown
        return found
    if isinstance(value, list):
        shown_each = [_shown(each, key, choices, left_out) for each in value]
        return (
            None if any(shown is None for shown in shown_each) else shown_each
        )  # half a list would say what is not so
    if not isinstance(value, str) or key in choices:
        return value
    if key in _BY_NAME:
        return _last_name(value)
    if value:
        left_out.append(key)
    return None


def _last_name(text: str) -> str:
    """Of a path or a bucket's URL its last name; of a public URL what it asks for, without who asks."""
    if text.startswith(_OPEN_BUCKETS):
        return text
    if re.match(r"https?://", text):
        parts = urlsplit(text)
        return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]
