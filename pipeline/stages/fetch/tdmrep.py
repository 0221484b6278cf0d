"""Each host's /.well-known/tdmrep.json, asked for before its pictures are: which of them are reserved.

    URLs --one file a scheme and host--> fetch() --parse--> the URLs that a file reserves

A file that is not there, or cannot be had, reserves nothing: the protocol takes silence for consent, and pictures of a
host that does not answer fail by themselves. Hosts that redirects lead to are not asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from pipeline.consent.signals import AnswerSignals
from pipeline.consent.tdmrep import MAX_TDMREP_BYTES, TDMREP_PATH, parse_tdmrep
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import fetch
from pipeline.stages.fetch.wire import wire_url

__all__ = ["reserved"]

_OF_NO_INTEREST = AnswerSignals(
    x_robots_directives=(), tdm_reservation=False, content_usage=False, content_signal=False, xmp_data_mining=False
)
"""What such a file's own headers say is not said of pictures."""


def reserved(urls: Sequence[str], config: FetchConfig) -> Mapping[int, str]:
    """Index of each of `urls` that its host reserves -> the URL of the file that says so. Raises what `fetch` does."""
    files: dict[str, list[tuple[int, str]]] = {}
    for index, url in enumerate(urls):
        try:
            parts = urlsplit(asked := wire_url(url))
        except ValueError:
            continue  # the fetch itself says what is wrong with it
        files.setdefault(f"{parts.scheme}://{parts.netloc}{TDMREP_PATH}", []).append((index, asked))
    limited = dataclasses.replace(config, max_bytes=min(config.max_bytes, MAX_TDMREP_BYTES))
    asked_for = list(files)
    found: dict[int, str] = {}
    for answer in fetch(asked_for, limited, _OF_NO_INTEREST):
        if answer.body is not None:
            file = asked_for[answer.index]
            rules = parse_tdmrep(answer.body)
            found |= {index: file for index, url in files[file] if rules.reserves(url)}
    return found
