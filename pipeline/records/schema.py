"""Every Arrow schema of the pipeline: the glossary.

    source --extract--> CANDIDATES --clean, language, match, privacy--> MATCHED --dedup, balance--> SELECTED
    SELECTED --fetch, check_image--> FETCHED --final balance--> SAMPLES (beside the tar shards)
    every stage --> REJECTIONS          query_list --> QUERIES          balance --> QUERY_COUNTS

Words:
    link       one image reference in one record of a source (a page, a table row)
    uid        128-bit identity of (canonical URL, text source, source text); see `identity.py`
    url_id     128-bit identity of the canonical URL alone: one per picture that can be requested, however it is spelt
    alt_text   what the page said, entities decoded, otherwise untouched
    caption    `alt_text` made fit to train on, or what a captioner wrote in its place; what the model sees
    query      an entry of the query list; `query_ids` are those that the caption contains
    selected   chosen by at least one of its queries; `selected_by` names them
    sample     a selected pair whose picture was fetched and passed every check
    shard      a tar of samples, with its Parquet of the same rows in the same order
"""

from __future__ import annotations

import pyarrow as pa

__all__ = [
    "CANDIDATES",
    "CAPTIONED",
    "CAPTIONS",
    "CAPTIONS_MADE_BY",
    "CLEANED",
    "FACTS",
    "FETCHED",
    "FINAL_COUNTS",
    "IDENTIFIED",
    "MATCHED",
    "QUERIES",
    "QUERY_COUNTS",
    "REJECTIONS",
    "ROBOTS",
    "SAMPLES",
    "SCORED_CAPTIONS",
    "SELECTED",
    "TEXT_SOURCES",
]

TEXT_SOURCES = ("alt", "title", "figcaption")
"""Where a caption's text was read; the middle field of the uid."""

_ID = pa.binary(16)


def _fields(*pairs: tuple[str, pa.DataType]) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in pairs]


_WHERE_FOUND = [
    *_fields(
        ("source", pa.string()),  # the input file, as the config names it
        ("record", pa.int64()),  # byte offset of the record in an archive, row number in a table
        ("link", pa.int32()),  # ordinal of the image link within its record, from 0
    ),
]

CANDIDATES = pa.schema(
    [
        *_fields(
            ("uid", _ID),
            ("url_id", _ID),
            ("url", pa.string()),  # absolute, as browsers spell what the page wrote (`web/urls.py`); the one to request
            ("alt_text", pa.string()),
            ("text_source", pa.string()),  # one of TEXT_SOURCES
        ),
        pa.field("page_url", pa.string()),  # null for tables without one
        pa.field("license", pa.string()),  # the page's rel=license link, if any
        pa.field("extra", pa.string()),  # JSON object of a table's other columns, as configured
        *_WHERE_FOUND,
    ]
)
"""One image link with text, from any source."""

CLEANED = pa.schema([*CANDIDATES, *_fields(("caption", pa.string()))])
"""A candidate whose text is fit to be a caption."""

IDENTIFIED = pa.schema(
    [
        *CLEANED,
        *_fields(
            ("lang", pa.string()),  # the target that it is kept as, a fastText label without its prefix: en, de, ...
            ("p_en", pa.float32()),  # probability of the first target language, in 0..1
            ("lang_by", pa.string()),  # model, or lexicon: the model alone would have turned it away
        ),
    ]
)
"""A cleaned candidate in a target language."""

_PII = pa.field("pii", pa.string())
"""Kinds of personal data in the caption, with commas between them; empty for none, null where nobody looked: with
`privacy.pii: off`, and in files of before there was the column."""

MATCHED = pa.schema([*IDENTIFIED, pa.field("query_ids", pa.list_(pa.int32()), nullable=False), _PII])
"""A pair whose caption contains at least one query (or none, with texts.keep_unmatched); `query_ids` ascending, each
once."""

SELECTED = pa.schema(
    [
        *MATCHED,
        pa.field("selected_by", pa.list_(pa.int32()), nullable=False),  # ascending, never empty
        *_fields(
            ("order", pa.uint64()),  # keyed hash of (seed, url_id): the data set's row order
            ("staging_shard", pa.int32()),
        ),
    ]
)
"""A pair of the plan: what will be requested, and in which staging shard it lands."""

_IMAGE_FACTS = [
    pa.field("width", pa.int32()),  # pixels, as stored in the shard
    pa.field("height", pa.int32()),
    pa.field("original_width", pa.int32()),  # pixels, upright, as served
    pa.field("original_height", pa.int32()),
    pa.field("original_format", pa.string()),  # JPEG, PNG, WEBP, AVIF, GIF, TIFF, BMP, JPEG2000
    pa.field("original_bytes", pa.int64()),
    pa.field("exif", pa.string()),  # JSON object of the tags kept by the config
    pa.field("sha256", pa.string()),  # of the body as served, 64 hex digits
    pa.field("phash", pa.uint64()),  # 64-bit perceptual hash of the upright picture
]

_ANSWER = [
    *_fields(("status", pa.string())),  # success, failed_to_download, failed_to_resize
    pa.field("reason", pa.string()),  # null on success, else the rejection's reason
    pa.field("http_status", pa.int32()),
    *_IMAGE_FACTS,
    pa.field("tar_offset", pa.int64()),  # of the image's bytes in the staging tar
    pa.field("num_bytes", pa.int64()),  # of the image as stored
    pa.field("stored_xxh3", _ID),  # xxh3-128 of these bytes; null where an earlier version stored them
]

_RSL = pa.field("rsl_license", pa.string())
"""Terms that the host's robots.txt named when the picture was requested (`License:`, RSL 1.0); null for none."""
_CONSENT = pa.field("consent", pa.string())
"""`statements` of FACTS, a line each: empty for nothing, null where nobody noted them."""

_LOOK = pa.field("thumbnail", pa.binary(288))  # see `pictures/thumbnail.py`; null in facts of before there was one

FACTS = pa.schema(
    [
        *_fields(("url_id", _ID)),
        pa.field("stage", pa.string()),  # null on success, else the stage that turned the picture away
        pa.field("detail", pa.string()),  # for people, with `reason`
        pa.field(
            "redirects", pa.list_(pa.string())
        ),  # URLs that followed the first one, as they were asked for; null for none
        *_ANSWER,
        _LOOK,
        # What the answer says of its use, `name: value` each (`consent/answers.py`): header lines, redirects' among
        # them, and what stands in the picture. Empty for nothing; null where an earlier version asked, or none.
        pa.field("statements", pa.list_(pa.string())),
        _RSL,
        # Of the body, beside `sha256`, for lists of hashes that come later; null in facts of before there were any, and
        # where there is no picture.
        pa.field("md5", pa.binary(16)),
        pa.field("sha1", pa.binary(20)),
        pa.field("pdq", pa.binary()),  # `pictures/pdq.py`; null unless privacy.pdq_lists asked for it
        pa.field("pdq_quality", pa.int32()),
    ]
)
"""What came of requesting one URL: kept for good, and used by every later plan that holds the URL."""

FETCHED = pa.schema(
    [
        *SELECTED,
        *_ANSWER,
        _LOOK,
        _CONSENT,
        _RSL,
        pa.field("staging_tar", pa.string()),  # the file under work/fetch that holds the image
    ]
)
"""What came of a planned pair: facts about its picture, or why there is none."""

SAMPLES = pa.schema(
    [
        # img2dataset's columns first, in its order, so that its users' tools read the file as it is.
        *_fields(("url", pa.string()), ("key", pa.string()), ("caption", pa.string())),
        *_fields(("status", pa.string())),
        pa.field("error_message", pa.string()),
        *_fields(
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("original_width", pa.int32()),
            ("original_height", pa.int32()),
        ),
        pa.field("exif", pa.string()),
        pa.field("sha256", pa.string()),  # never null; but img2dataset's verify_hash fails unless it might be
        *_fields(
            ("uid", _ID),
            ("url_id", _ID),
            ("alt_text", pa.string()),
            ("text_source", pa.string()),
        ),
        pa.field("page_url", pa.string()),
        pa.field("license", pa.string()),
        _RSL,  # sets published by earlier versions lack the column
        _CONSENT,  # and this one
        pa.field("extra", pa.string()),
        *_WHERE_FOUND,
        *_fields(("lang", pa.string()), ("p_en", pa.float32())),
        pa.field("lang_by", pa.string()),  # sets published by earlier versions lack the column
        _PII,  # and this one
        pa.field("query_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("selected_by", pa.list_(pa.int32()), nullable=False),
        *_fields(
            ("original_format", pa.string()),
            ("original_bytes", pa.int64()),
            ("phash", pa.uint64()),
            ("order", pa.uint64()),
            ("shard", pa.int32()),
            ("tar_offset", pa.int64()),  # of the image's bytes in the shard's tar
            ("num_bytes", pa.int64()),
        ),
        pa.field("stored_xxh3", _ID),  # xxh3-128 of these bytes; sets published by earlier versions lack the column
    ]
)
"""A published sample: one row beside its tar member, same order."""

CAPTIONED = pa.schema(
    [
        *SAMPLES,
        pa.field("caption_source", pa.string()),  # web: what the page said; else what the captioner is called
        pa.field("caption_score", pa.float32()),  # how well the caption fits the picture, by the model that judged
        pa.field("alt_text_score", pa.float32()),  # how well the page's text does, by the same model
    ]
)
"""A sample whose caption was chosen among what the page said and what models wrote (`sets/captions.py`): `alt_text`
stays what the page said. Scores are null where nobody judged."""

CAPTIONS = pa.schema(
    [
        *_fields(("uid", _ID)),
        pa.field("captions", pa.list_(pa.string()), nullable=False),  # empty where there is no whole picture
    ]
)
"""What a captioner wrote of one picture."""

SCORED_CAPTIONS = pa.schema(
    [
        *CAPTIONS,
        pa.field("scores", pa.list_(pa.float32()), nullable=False),  # of each of the captions
        pa.field("alt_text_score", pa.float32()),  # of what the page said; null without a text or a whole picture
    ]
)
"""The same with how well each fits the picture."""

CAPTIONS_MADE_BY = "openwit.captions"
"""Key in the metadata of such files, JSON: `source`, what the captions' source is called, and `judge`, the fingerprint
of the model that scored them."""

REJECTIONS = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("record", pa.int64()),
        pa.field("link", pa.int32()),  # null where the whole record, or source, is rejected
        pa.field("uid", _ID),  # null before there is one
        *_fields(("stage", pa.string()), ("reason", pa.string())),
        pa.field("detail", pa.string()),  # for people: the offending value, shortened
    ]
)
"""One thing that a stage turned away, and why."""

QUERIES = pa.schema(
    [
        *_fields(("query_id", pa.int32()), ("query", pa.string()), ("source", pa.string())),
        pa.field("count", pa.int64()),  # occurrences in the corpus (unigrams, bigrams)
        pa.field("views", pa.int64()),  # page views (titles)
        pa.field("pmi", pa.float64()),  # pointwise mutual information, log2 (bigrams)
        *_fields(("rank", pa.int32())),  # within its source, from 0
    ]
)
"""The query list; file metadata `openwit.fingerprint` covers the content."""

QUERY_COUNTS = pa.schema(
    _fields(
        ("query_id", pa.int32()),
        ("matched", pa.int64()),  # distinct pairs that contain the query, after dedup
        ("threshold", pa.uint64()),  # largest selected hash; all ones where nothing is cut
        ("selected", pa.int64()),  # pairs that this query selects, at most t
        ("contained", pa.int64()),  # selected pairs that contain the query, whoever chose them
    )
)
"""Per query: counts before and after balancing."""

FINAL_COUNTS = pa.schema(
    _fields(
        ("query_id", pa.int32()),
        ("planned", pa.int64()),  # pairs that the query selected in the plan, its reserve included
        ("survived", pa.int64()),  # of these, the pairs whose picture arrived and passed every check
        ("selected", pa.int64()),  # of these, the query's share of the set: its smallest hashes, at most t
        ("contained", pa.int64()),  # pairs of the set that contain the query, whoever chose them
        ("short", pa.int64()),  # by how many its reserve fell short of min(t, planned)
    )
)
"""Per query: the balance of what was really fetched."""

ROBOTS = pa.schema(
    [
        *_fields(("url", pa.string())),  # of the robots.txt
        pa.field("captured", pa.timestamp("s", "UTC")),  # null where the archive does not say
        pa.field("http_status", pa.int32()),  # null where there was no answer
        *_fields(("says", pa.string())),  # rules, nothing (is forbidden), redirect, unreachable
        pa.field("license", pa.string()),  # the URL of RSL terms that it names
    ]
)
"""Of each host whose robots.txt is known: what it was when."""
