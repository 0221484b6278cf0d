"""What a picture itself says of its use: its XMP, and its C2PA manifest where that is honoured."""

from __future__ import annotations

from pipeline.consent.answers import C2PA, DATA_MINING, statement_of
from pipeline.consent.c2pa_manifest import training_uses
from pipeline.consent.data_mining import data_mining_terms
from pipeline.consent.signals import AnswerSignals

__all__ = ["statements_in"]


def statements_in(body: bytes, signals: AnswerSignals) -> tuple[str, ...]:
    """The statements of a body, to stand beside those of its headers.

    XMP is always read: it takes some microseconds, and another config may ask for it. A manifest takes a
    millisecond and a library of its own, so it is read only where it is honoured.
    """
    said = [statement_of(DATA_MINING, term) for term in data_mining_terms(body)]
    if signals.c2pa:
        said += [statement_of(C2PA, use) for use in training_uses(body)]
    return tuple(said)
