"""croissant.json: the release as Croissant 1.1 describes data (docs.mlcommons.org/croissant, of 2026-01-29).

What only people know and nobody said (licence, creator, url, citation) is not there: `missing` names it. The record
sets are `samples`, the rows of links/, `queries`, and of a release with pictures `pictures`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.config import WitConfig
from pipeline.releasing.columns import Column
from pipeline.releasing.facts import Facts
from pipeline.releasing.rai import RAI, rai_of
from pipeline.releasing.rows import schema_of

__all__ = ["CROISSANT", "croissant_of", "licence_url", "missing"]

CROISSANT = "http://mlcommons.org/croissant/1.1"
_MOST_FILES = 1_000
"""Of data that are listed one by one, each with its checksum; of more, SHA256SUMS alone has them."""
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""Appendix 1 of the specification, which readers hold a file's own against."""
_FORMATS = {
    ".parquet": "application/x-parquet",
    ".json": "application/json",
    ".tar": "application/x-tar",
    ".md": "text/markdown",
    ".html": "text/html",
    ".yaml": "application/yaml",
    ".txt": "text/plain",
}
_PLAIN = "text/plain"
_PICTURES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_REQUIRED = ("licence", "creator", "url")
_RECOMMENDED = ("citation", "contact")


def missing(facts: Facts) -> list[str]:
    """What a release should say, and only people know: first what Croissant requires."""
    return [name for name in (*_REQUIRED, *_RECOMMENDED) if not getattr(facts.said, name)]


def licence_url(licence: str) -> str:
    """A name of SPDX's list as its URL there; a URL as it is."""
    return licence if "://" in licence else f"https://spdx.org/licenses/{licence}.html"


def croissant_of(
    facts: Facts, columns: Sequence[Column], files: Sequence[Mapping[str, Any]], queries: pa.Schema | None
) -> bytes:
    """The file. `files` are the others of the release: `name`, `bytes`, `sha256` each; `queries` the columns of
    queries.parquet, if it is among them."""
    said, told = facts.said, rai_of(facts)
    record_sets = [_samples(columns)]
    if said.pictures:
        record_sets.append(_pictures())
    if queries is not None:
        record_sets.append(_queries(queries))
    found: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": facts.title,
        "description": facts.description,
        "conformsTo": [CROISSANT, RAI],
        "license": None if said.licence is None else licence_url(said.licence),
        "url": said.url,
        "creator": [_creator(name) for name in said.creator],
        "citeAs": said.citation,
        "datePublished": facts.published,
        "dateCreated": facts.days[-1] if facts.days else None,
        "version": facts.release,
        "keywords": list(said.keywords),
        "inLanguage": list(facts.card.header.targets),
        "isLiveDataset": False,
        "distribution": list(_distribution(files, said.download_url, _endings(facts.config))),
        "recordSet": record_sets,
        **{f"rai:{name}": text for name, text in told.items()},
    }
    plain = {name: value for name, value in found.items() if value is not None and value != []}
    return (json.dumps(plain, indent=1, ensure_ascii=False) + "\n").encode()


def _creator(name: str) -> dict[str, str]:
    kind, _, rest = name.partition(":")
    is_person = kind.strip().lower() == "person" and bool(rest.strip())
    return {"@type": "sc:Person" if is_person else "sc:Organization", "name": rest.strip() if is_person else name}


def _endings(config: WitConfig | None) -> Sequence[str]:
    """Of the pictures in the tars: one, unless they are stored as they were served."""
    if config is None or config.image.store_original:
        return list(_PICTURES)
    return [config.image.encode_format]


def _distribution(
    files: Sequence[Mapping[str, Any]], base: str | None, endings: Sequence[str]
) -> Iterator[dict[str, Any]]:
    data = [file for file in files if _is_data(file["name"])]
    if len(data) > _MOST_FILES:
        files = [file for file in files if not _is_data(file["name"])]
    for file in files:
        name = file["name"]
        yield {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name if base is None else f"{base.rstrip('/')}/{name}",
            "contentSize": f"{file['bytes']} B",
            "encodingFormat": _format_of(name),
            "sha256": file["sha256"],
        }
    yield {
        "@type": "cr:FileSet",
        "@id": "links",
        "name": "links",
        "description": "Rows, one a sample, in the set's order.",
        "encodingFormat": _FORMATS[".parquet"],
        "includes": "links/*.parquet",
    }
    tars = [file["name"] for file in data if file["name"].endswith(".tar")]
    if not tars:
        return
    if len(data) > _MOST_FILES:
        yield {
            "@type": "cr:FileSet",
            "@id": "tars",
            "name": "tars",
            "description": "WebDataset: of each sample the picture, its row as .json and its caption as .txt.",
            "encodingFormat": _FORMATS[".tar"],
            "includes": "pictures/*.tar",
        }
        tars = ["tars"]
    yield {
        "@type": "cr:FileSet",
        "@id": "picture-files",
        "name": "picture-files",
        "description": "Of each sample the picture; beside it stand its row, KEY.json, and its caption, KEY.txt.",
        "containedIn": [{"@id": tar} for tar in tars],
        "encodingFormat": [_PICTURES[ending] for ending in endings],
        "includes": [f"*.{ending}" for ending in endings],
    }


def _is_data(name: str) -> bool:
    return name.startswith(("links/", "pictures/"))


def _format_of(name: str) -> str:
    return next((kind for ending, kind in _FORMATS.items() if name.endswith(ending)), _PLAIN)


def _samples(columns: Sequence[Column]) -> dict[str, Any]:
    schema = schema_of([column.name for column in columns])
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": "A picture's URL with a caption, and what is known of them.",
        "key": {"@id": "samples/uid"},
        "field": [
            _field("samples", schema.field(column.name), {"fileSet": {"@id": "links"}}, column.says)
            for column in columns
        ],
    }


def _pictures() -> dict[str, Any]:
    source = {"fileSet": {"@id": "picture-files"}}
    name = {"@type": "cr:Field", "@id": "pictures/key", "name": "key", "dataType": "sc:Text"}
    image = {"@type": "cr:Field", "@id": "pictures/image", "name": "image", "dataType": "sc:ImageObject"}
    return {
        "@type": "cr:RecordSet",
        "@id": "pictures",
        "name": "pictures",
        "description": "The pictures; key is that of samples.",
        "key": {"@id": "pictures/key"},
        "field": [
            name
            | {"source": {**source, "extract": {"fileProperty": "filename"}, "transform": {"regex": r"([^/]*)\.\w+"}}},
            image | {"source": {**source, "extract": {"fileProperty": "content"}}},
        ],
    }


def _queries(schema: pa.Schema) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "queries",
        "name": "queries",
        "description": "The query list; query_ids and selected_by of the samples are its query_id.",
        "key": {"@id": "queries/query_id"},
        "field": [
            _field("queries", field, {"fileObject": {"@id": "queries.parquet"}}, _OF_QUERIES.get(field.name, ""))
            for field in schema
        ],
    }


_OF_QUERIES = {
    "query_id": "its number, from 0",
    "query": "the word or phrase",
    "source": "unigrams, bigrams, titles, wordnet, or a list of the makers' own",
    "count": "occurrences in the corpus (unigrams, bigrams)",
    "views": "page views (titles)",
    "pmi": "pointwise mutual information, log2 (bigrams)",
    "rank": "within its source, from 0",
    "matched": "distinct pairs that contain it, before balancing",
    "selected": "samples that it selects",
    "contained": "samples that contain it, whoever selected them",
}
"""Column of queries.parquet -> what it is."""


def _field(owner: str, field: pa.Field, source: Mapping[str, Any], says: str) -> dict[str, Any]:
    is_list = pa.types.is_list(field.type)
    kind = field.type.value_type if is_list else field.type
    found = {
        "@type": "cr:Field",
        "@id": f"{owner}/{field.name}",
        "name": field.name,
        "description": says,
        "dataType": "sc:URL" if field.name in ("url", "page_url") else _DATA_TYPES.get(str(kind), "sc:Text"),
        "source": {**source, "extract": {"column": field.name}},
    }
    if is_list:
        found |= {"isArray": True, "arrayShape": "-1"}
    return {name: value for name, value in found.items() if value != ""}


_DATA_TYPES = {
    "int32": "cr:Int32",
    "int64": "cr:Int64",
    "uint64": "cr:UInt64",
    "float": "cr:Float32",
    "double": "cr:Float64",
    "bool": "sc:Boolean",
}
"""Arrow's name of a type -> Croissant's."""
