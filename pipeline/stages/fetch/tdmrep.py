"""Each host's /.well-known/tdmrep.json: where it is, what it says, and which URLs it reserves.

A file that is not there, or cannot be had, reserves nothing: the protocol takes silence for consent, and pictures of a
host that does not answer fail by themselves. Hosts that redirects lead to are not asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from pipeline.consent.robots_table import HostTable
from pipeline.consent.signals import AnswerSignals
from pipeline.consent.tdmrep import MAX_TDMREP_BYTES, TDMREP_PATH, TdmRep, parse_tdmrep
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import fetch
from pipeline.stages.fetch.shared_hosts import RunWide
from pipeline.stages.fetch.wire import wire_url

__all__ = ["ask_for_tdmrep", "reserved", "tdmrep_url_of"]

_OF_NO_INTEREST = AnswerSignals(
    x_robots_directives=(), tdm_reservation=False, content_usage=False, content_signal=False, xmp_data_mining=False
)
"""What such a file's own headers say is not said of pictures."""


def tdmrep_url_of(url: str) -> str:
    """Where the reservations for `url` are: of its scheme and host. Raises ValueError for what is no URL to request."""
    parts = urlsplit(wire_url(url))
    return f"{parts.scheme}://{parts.netloc}{TDMREP_PATH}"


def ask_for_tdmrep(files: Sequence[str], config: FetchConfig, run: RunWide) -> Iterator[tuple[str, str | None]]:
    """(URL, text) of each of `files` as the answers come: "" where nothing is reserved, None where it cannot be had.
    Raises what `fetch` does."""
    limited = dataclasses.replace(config, max_bytes=min(config.max_bytes, MAX_TDMREP_BYTES))
    for answer in fetch(files, limited, _OF_NO_INTEREST, run):
        body = answer.body
        text = None if body is None else body.decode("utf-8", "replace") if parse_tdmrep(body).reserves_any else ""
        yield files[answer.index], text


def reserved(urls: Sequence[str], table: HostTable) -> Mapping[int, str]:
    """Index of each of `urls` that its host reserves -> the URL of the file that says so."""
    known: dict[str, TdmRep | None] = {}
    found: dict[int, str] = {}
    for index, url in enumerate(urls):
        try:
            file, asked = tdmrep_url_of(url), wire_url(url)
        except ValueError:
            continue  # the fetch itself says what is wrong with it
        if file not in known:
            text = table.find(file)
            known[file] = None if text is None else parse_tdmrep(text.encode())
        rules = known[file]
        if rules is not None and rules.reserves(asked):
            found[index] = file
    return found
