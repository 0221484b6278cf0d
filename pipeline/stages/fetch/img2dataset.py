"""The engine img2dataset: the same URLs, the same kind of answers, but img2dataset makes the requests.

    urls --what can be judged before--> img2dataset, in a Python of its own --tar, Parquet--> bodies, reasons

img2dataset only downloads here: bodies are stored as they were served (`disable_all_reencoding`), and what is
checked, resized and kept is our business, as after our own engine. `LIMITS` says what it cannot do. Its pins and
ours do not agree (it needs webdataset < 0.3 and opencv < 5), so it has an environment of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from configs.load import ConfigError
from pipeline.consent.signals import AnswerSignals
from pipeline.errors import EngineError
from pipeline.stages.fetch.address import AddressGuard
from pipeline.stages.fetch.block import BlockList, read_block_list
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import Fetched
from pipeline.stages.fetch.wire import OtherSchemeError, wire_url
from pipeline.storage.img2dataset import pictures

__all__ = ["LIMITS", "fetch_with_img2dataset", "find_img2dataset", "reason_of"]

LIMITS = (
    "fetch.engine img2dataset: no address guard after names are resolved or redirected, no limits per host, of the "
    "headers about consent only X-Robots-Tag, bytes held to max_bytes only afterwards, its own user agent, timeout_s "
    "holds for each socket operation; see docs/peers.md"
)
"""One line for whoever starts a run with it."""

_LEAST_VERSION = (1, 45)
_URLS_PER_SHARD = 1000
"""What was answered before the deadline is lost with the img2dataset shard that it is in."""
_DIRECTIVES = ("noai", "noimageai", "noml", "noindex", "noimageindex", "none")
"""Those of `x_robots_directives` that it can look for; it knows no dates."""
_FIND = "from importlib.metadata import version; print(version('img2dataset'))"
_RUN = """
import json, os, signal, sys, threading

def end_with_parent():
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)

if __name__ == "__main__":
    options = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_parent, daemon=True).start()
    from img2dataset import download
    download(**options)
"""
_HTTP = re.compile(r"HTTP Error (\d{3}):")
_MESSAGES = (  # the first that is found counts; texts of urllib, http.client, ssl and the C library's resolver
    ("x_robots_tag", "X-Robots-Tag"),
    ("too_many_redirects", "redirect error that would lead to an infinite loop"),
    ("scheme_not_allowed", "Redirection to url|unknown url type"),
    (
        "connect",
        r"<urlopen error (?:timed out|\[Errno \d+\] (?:Connection (?:refused|timed out)|No route|.*unreachable))",
    ),
    ("timeout", "timed out"),
    (
        "dns",
        r"Name or service not known|name resolution|No address associated|nodename nor servname|label (?:empty|too)",
    ),
    ("tls", r"SSL|certificate"),
    ("bad_url", "no host given|control characters|nonnumeric port|Invalid IPv6|codec can't encode|Invalid URL"),
)


def find_img2dataset(config: FetchConfig) -> str | None:
    """The version of img2dataset that `config.engine_python` has; None where another engine is configured.

    Takes a fraction of a second. Raises ConfigError where there is no such Python, or no img2dataset that will do.
    """
    if config.engine != "img2dataset":
        return None
    where = f"fetch.engine_python {config.engine_python!r}"
    make = "make an environment with img2dataset 1.47 (docs/peers.md says how) and name its Python"
    try:
        done = subprocess.run([config.engine_python, "-I", "-c", _FIND], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{where} cannot be run ({error}); {make}") from error
    version = done.stdout.strip()
    if done.returncode or not version:
        raise ConfigError(f"{where} has no img2dataset; {make}")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < _LEAST_VERSION:
        raise ConfigError(f"{where} has img2dataset {version}, which is too old; {make}")
    return version


def fetch_with_img2dataset(
    urls: Sequence[str], config: FetchConfig, signals: AnswerSignals, scratch: Path
) -> Iterator[Fetched]:
    """Download `urls` through img2dataset: exactly one Fetched for every index.

    `scratch` is a directory that does not exist; it holds all bodies meanwhile and is left to the caller to remove.
    Never raises for a URL's fault. Raises ConfigError for a block list that cannot be read, EngineError where
    img2dataset fails as a whole.
    """
    block = read_block_list(config.block, config.block_files)
    guard = AddressGuard(config.allow_addresses)
    asked: dict[int, str] = {}
    for index, url in enumerate(urls):
        judged = _judge(index, url, block, guard)
        if isinstance(judged, Fetched):
            yield judged
        else:
            asked[index] = judged
    if not asked:
        return
    scratch = scratch.absolute()
    scratch.mkdir()
    pq.write_table(pa.table({"url": list(asked.values()), "place": list(asked)}), scratch / "urls.parquet")
    in_time = _download(scratch, config, signals)
    for parquet in sorted((scratch / "out").glob("*.parquet")):
        if not parquet.with_name(f"{parquet.stem}_stats.json").exists():
            continue  # written last: without it the shard is not whole
        yield from _answers(parquet, asked, block, config)
    reason, detail = "transfer", "img2dataset gave no answer"
    if not in_time:
        reason, detail = "timeout", f"not finished after the shard's {config.shard_deadline_s:g} s"
    for index, url in asked.items():
        yield Fetched(index=index, reason=reason, detail=detail, final_url=url)


def _judge(index: int, url: str, block: BlockList, guard: AddressGuard) -> Fetched | str:
    """The URL to ask for, or why none is."""
    try:
        asked = wire_url(url)
        parts = urlsplit(asked)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except OtherSchemeError as scheme:
        return Fetched(index=index, reason="scheme_not_allowed", detail=f"{str(scheme)[:20]}:")
    except ValueError:
        return Fetched(index=index, reason="bad_url")
    blocked = block.match_url(asked)
    if blocked is not None:
        return Fetched(index=index, reason="block_list", detail=blocked, final_url=asked)
    if not guard.permits_host(host, port):
        return Fetched(index=index, reason="address_not_allowed", detail=f"{host} port {port}", final_url=asked)
    return asked


def _download(scratch: Path, config: FetchConfig, signals: AnswerSignals) -> bool:
    """Run img2dataset over scratch/urls.parquet into scratch/out; whether it ended before the deadline."""
    options: dict[str, Any] = {
        "url_list": str(scratch / "urls.parquet"),
        "input_format": "parquet",
        "save_additional_columns": ["place"],
        "output_folder": str(scratch / "out"),
        "output_format": "webdataset",
        "number_sample_per_shard": _URLS_PER_SHARD,
        "processes_count": 1,
        "thread_count": config.concurrency,
        "timeout": config.timeout_s,
        "retries": config.retries,
        "disable_all_reencoding": True,
        "extract_exif": False,
        "compute_hash": None,
        "enable_wandb": False,
        "user_agent_token": config.product,
        "disallowed_header_directives": [name for name in signals.x_robots_directives if name in _DIRECTIVES],
    }
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled", "no_proxy": "*"}
    if config.ca_file:
        environment["SSL_CERT_FILE"] = config.ca_file
    deadline_s = time.monotonic() + (config.shard_deadline_s or float("inf"))
    with (scratch / "log").open("wb") as log:
        child = subprocess.Popen(
            [config.engine_python, "-I", "-c", _RUN],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # its workers go with it
        )
        assert child.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended early; its exit says so
                child.stdin.write(json.dumps(options).encode() + b"\n")
                child.stdin.flush()
            code = child.wait(None if deadline_s == float("inf") else max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
    if code or not list((scratch / "out").glob("*_stats.json")):
        lines = (scratch / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"]
        raise EngineError(f"img2dataset ({config.engine_python}) failed with status {code}: {lines[-1][:300]}")
    return True


def _answers(parquet: Path, asked: dict[int, str], block: BlockList, config: FetchConfig) -> Iterator[Fetched]:
    """The answers of one img2dataset shard; those given leave `asked`."""
    rows = pq.read_table(parquet, columns=["key", "place", "status", "error_message"]).to_pylist()
    places = {row["key"]: row["place"] for row in rows if row["status"] == "success"}
    for row in rows:
        if row["status"] != "success" and row["place"] in asked:
            message = " ".join((row["error_message"] or "").split())
            reason, status = reason_of(message)
            url = asked.pop(row["place"])
            yield Fetched(
                index=row["place"], reason=reason, detail=message[:200], http_status=status, final_url=url, attempts=1
            )
    with parquet.with_suffix(".tar").open("rb") as tar:
        for key, body in pictures(tar, max_bytes=config.max_bytes):
            index = places.get(key, -1)
            if index not in asked:
                continue
            given = Fetched(index=index, final_url=asked.pop(index), attempts=1)
            yield _with_body(given, body, block, config.max_bytes)


def _with_body(given: Fetched, body: bytes | None, block: BlockList, max_bytes: int) -> Fetched:
    blocked = block.match_body(body) if body else None
    reason, detail = None, None
    if body is None:
        reason, detail = "too_large", f"over {max_bytes} bytes"
    elif not body:
        reason = "empty_body"
    elif blocked is not None:
        reason, detail = "block_list", blocked
    return Fetched(
        index=given.index,
        body=body if reason is None else None,
        reason=reason,
        detail=detail,
        final_url=given.final_url,
        attempts=given.attempts,
    )


def reason_of(message: str) -> tuple[str, int | None]:
    """img2dataset's error message as (reason, HTTP status): a word of `pipeline.records.reasons`, stage fetch."""
    http = _HTTP.match(message)
    status = int(http[1]) if http else None
    if status is None or 300 <= status < 400:  # a refused redirect; other statuses end with words of the server's
        for reason, pattern in _MESSAGES:
            if re.search(pattern, message):
                return reason, status
    return (f"http_{status}" if status else "transfer"), status
