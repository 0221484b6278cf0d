"""What `extract` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds

__all__ = ["ExtractConfig", "MissingPictures", "TextSource"]

MissingPictures = Literal["reject", "request"]
TextSource = Literal["alt", "title", "figcaption"]


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """How links and their texts are read from archives and tables."""

    text_sources: tuple[TextSource, ...] = ("alt",)
    """Where a link's text may come from, in order; the first that is not blank is taken. `figcaption`
    exists only where the HTML itself is read (WARC)."""
    max_record_bytes: Annotated[int, Bounds(least=1, most=1 << 29)] = 33_554_432
    """A larger record, line or row is rejected without being parsed."""
    max_url_chars: Annotated[int, Bounds(least=1)] = 8_192
    """A longer URL is rejected."""
    batch_rows: Annotated[int, Bounds(least=1)] = 16_384
    """About how many links make one batch."""
    url_columns: tuple[str, ...] = ("url", "URL", "image_url")
    """Tables: names of the column with the image's URL; the first that the table has is read."""
    text_columns: tuple[str, ...] = ("alt_text", "alt", "caption", "text", "TEXT")
    """Tables: names of the column with the text; the first that the table has is read."""
    page_url_columns: tuple[str, ...] = ("page_url",)
    """Tables: names of the column with the page's URL; a table may do without."""
    license_columns: tuple[str, ...] = ("license", "LICENSE")
    """Tables: names of the column with a licence; a table may do without."""
    text_source_columns: tuple[str, ...] = ("text_source",)
    """Parquet tables: names of the column that says where the text was read (alt, title, figcaption), which the
    uid depends on; alt where a table has none or it says something else."""
    extra_columns: tuple[str, ...] = ()
    """Tables: other columns to carry through to the shards' metadata, as one JSON object a row in the column
    `extra`; "*" stands for all that are not read otherwise."""
    column_names: tuple[str, ...] = ()
    """CSV and TSV without a header row: the names of its columns, in order."""
    tsv_quoting: bool = False
    """TSV: read double quotes as CSV does. Off, a quote is a character like any other."""
    csv_escape: Literal["", "\\"] = ""
    """CSV: what makes a quote inside quotes an ordinary one, beside doubling it; a backslash in files that Spark wrote.
    Without it such a row is rejected."""
    missing_pictures: MissingPictures = "reject"
    """img2dataset directories: what becomes of a row whose picture is not stored. reject: it is counted, and nothing
    is ever requested; request: its URL is fetched like any other."""

    def __post_init__(self) -> None:
        if not self.text_sources:
            raise ConfigError("text_sources is empty; name at least one of alt, title, figcaption")
        if len(set(self.text_sources)) != len(self.text_sources):
            raise ConfigError("text_sources names a source twice")
        check_bounds(self)
        if not self.url_columns or not self.text_columns:
            raise ConfigError("url_columns and text_columns need at least one name each")
