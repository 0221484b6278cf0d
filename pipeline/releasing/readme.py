"""README.md: the release on one page, with the header that Hugging Face's hub reads (data set cards)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from pipeline.releasing.columns import Column
from pipeline.releasing.facts import Facts
from pipeline.releasing.rai import rai_of

__all__ = ["readme_of"]

_HEADINGS = {
    "dataUseCases": "What it is for",
    "dataCollection": "How it was collected",
    "dataCollectionRawData": "Sources",
    "dataPreprocessingProtocol": "How pairs were chosen",
    "dataCollectionMissingData": "What is not there",
    "machineAnnotationTools": "Judged by machines",
    "dataBiases": "Biases",
    "dataLimitations": "Limits",
    "personalSensitiveInformation": "Persons",
    "dataSocialImpact": "Social impact",
    "dataReleaseMaintenancePlan": "Upkeep",
}
"""RAI property -> heading."""
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LARGER = ((10**8, "10M<n<100M"), (10**9, "100M<n<1B"))
_SPECIAL = re.compile(r"([\\`*_<>|\[\]#])")


def readme_of(facts: Facts, columns: Sequence[Column], *, queries: bool) -> bytes:
    """The file; `queries`: whether queries.parquet is there."""
    front = yaml.safe_dump(_header(facts, queries), sort_keys=False, allow_unicode=True, width=1_000)
    page = "\n".join(_page(facts, columns, queries))
    return f"---\n{front}---\n\n{page}\n".encode()


def _header(facts: Facts, queries: bool) -> dict[str, Any]:
    configs: list[dict[str, Any]] = [
        {"config_name": "default", "data_files": [{"split": "train", "path": "links/*.parquet"}]}
    ]
    if queries:
        configs.append({"config_name": "queries", "data_files": [{"split": "train", "path": "queries.parquet"}]})
    return {
        "pretty_name": facts.title,
        **_licence(facts.said.licence),
        "language": list(facts.card.header.targets),
        "size_categories": [_size(facts.samples)],
        "task_categories": ["zero-shot-image-classification", "image-to-text", "text-to-image"],
        "tags": [*facts.said.keywords, "croissant"],
        "configs": configs,
    }


def _licence(licence: str | None) -> dict[str, str]:
    """The hub knows SPDX's names in small letters; of others it wants a link."""
    if licence is None:
        return {}
    if "://" in licence:
        return {"license": "other", "license_name": "see-link", "license_link": licence}
    return {"license": licence.lower()}


def _size(samples: int) -> str:
    return next((name for limit, name in (*_SIZES, *_LARGER) if samples < limit), "n>1B")


def _page(facts: Facts, columns: Sequence[Column], queries: bool) -> Iterator[str]:
    said = facts.said
    yield f"# {_plain(facts.title)}"
    yield ""
    yield _plain(facts.description)
    yield ""
    yield f"Release {facts.release}, {facts.published}: {facts.samples:,} samples."
    yield (
        "The licence is that of this list; pictures and captions stay their authors', and the column `license` holds "
        "what their page said."
        if said.licence
        else "Nobody has said under which licence this list may be used; pictures and captions stay their authors'."
    )
    yield ""
    yield from _files(facts, queries)
    yield ""
    yield "Check them with `sha256sum -c SHA256SUMS`, or `python -m pipeline verify DIRECTORY`."
    yield ""
    yield "## Columns"
    yield ""
    yield "| column | what it is |"
    yield "|---|---|"
    for column in columns:
        yield f"| `{column.name}` | {column.says} |"
    told: Mapping[str, str | Sequence[str]] = rai_of(facts)
    for name, heading in _HEADINGS.items():
        if name in told:
            yield ""
            yield f"## {heading}"
            yield ""
            yield from _told(told[name])
    if said.citation:
        yield ""
        yield "## Citation"
        yield ""
        yield from ("```bibtex", said.citation.strip().replace("```", ""), "```")


def _files(facts: Facts, queries: bool) -> Iterator[str]:
    yield "| file | what it is |"
    yield "|---|---|"
    yield "| `links/*.parquet` | a row a sample, in the set's order, which is random |"
    if facts.said.pictures:
        yield "| `pictures/*.tar` | WebDataset: picture, row, caption of each sample |"
    if queries:
        yield "| `queries.parquet` | the query list, with what each query matched and selects |"
    yield "| `card.html` | the data card: funnel, balance, captions, pictures, hosts |"
    yield "| `croissant.json` | the same for machines: Croissant 1.1 |"
    yield "| `ledger.json` | what each stage was given, kept and turned away, by reason |"
    if facts.config_yaml is not None:
        yield "| `config.yaml` | the config, without what is of the machine or of who ran it |"
    if facts.removals:
        yield "| `removed/*.json` | what was taken out of the set, for copies of it to follow |"
    if facts.said.supersedes is not None:
        yield "| `gone/*.txt` | uids of the release before that are not in this one |"
    yield "| `release.json` | every file, what was released before |"
    yield "| `SHA256SUMS` | checksums of all of them |"


def _told(told: str | Sequence[str]) -> Iterator[str]:
    if isinstance(told, str):
        yield _plain(told)
    else:
        yield from (f"- {_plain(each)}" for each in told)


def _plain(text: str) -> str:
    """On one line, and no Markdown: it may hold names of other people's files."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
