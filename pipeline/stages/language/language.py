"""Language: which language a caption is in, and how sure that is of the wanted one.

    CLEANED --lower case, lid.176, word lists--> lang, p_en, lang_by --rule--> IDENTIFIED, rejections

A caption is kept as a target language where the model or the words say so:

    model     the target is the likeliest language (or, with `rule: probability`, whichever is), with a probability of
              at least `min_probability`; of at least `short_min_probability` for up to `short_words` words
    lexicon   all its words are in the target's lexicon, and the probability is at least `known_min_probability`

Without a lexicon, short captions are judged like others. Where the model knows nothing of a caption, it answers as
to an empty text, and that is no verdict: only a lexicon can keep such a caption. The measurements behind the defaults
are in docs/language.md.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.records.outcome import Outcome, reject
from pipeline.records.schema import IDENTIFIED
from pipeline.stages.language.config import LANGUAGES, LanguageConfig
from pipeline.stages.language.words import (
    Lexicon,
    count_words,
    lexicon_fingerprint,
    load_lexicon,
)
from pipeline.stages.stage import Stage

if TYPE_CHECKING:
    from pipeline.stages.language.model import Predictions

__all__ = ["Language", "identify", "lexicon_fingerprints"]

_HUNDREDTHS = 101


def lexicon_fingerprints(config: LanguageConfig) -> dict[str, str]:
    """Target -> fingerprint of its lexicon's content, for the targets that have one.

    Raises InputError for a list that is missing or cannot be read.
    """
    return {
        target: lexicon_fingerprint(target, sources)
        for target in config.targets
        if (sources := config.lexicon_of(target))
    }


def identify(batch: pa.RecordBatch, config: LanguageConfig) -> Outcome:
    """Add `lang`, `p_en` and `lang_by` to a batch with a column `caption`; the unit is a candidate.

    Rejects `other_language`, `low_confidence` and `unknown_language`; the detail is the likeliest language and its
    probability. Raises InputError where the model's file or a word list is missing.
    """
    captions = batch.column("caption")
    predict = _run_kernel if config.backend == "numba" else _run_library
    lexicons = {target: _lexicon(config, target) for target in config.targets}
    first = config.targets[0]
    labels, found = predict(captions, first, lexicons[first])
    # Where the model knows no word and no n-gram, it answers to the bit as it does to an empty text.
    _, empty = predict(pa.array([""], pa.string()), first, lexicons[first])
    abstained = np.logical_and.reduce(
        [getattr(found, name) == getattr(empty, name) for name in ("label", "p_label", "p_target")]
    )
    is_short = found.words <= config.short_words
    wanted = np.isin(found.label, [labels.index(target) for target in config.targets])
    has_lexicon = np.isin(found.label, [labels.index(target) for target in config.targets if lexicons[target]])
    least = _least(config, is_short & has_lexicon)

    # Each row is kept as the likeliest language, else as the first target that takes it.
    by_model = wanted & (found.p_label >= least) & ~abstained
    kept_as = np.where(by_model, found.label, -1)
    for target in config.targets:
        open_rows = np.flatnonzero(kept_as < 0)
        lexicon = lexicons[target]
        if config.rule == "likeliest" and lexicon is None:
            continue
        if target == first:
            p_target, known = found.p_target[open_rows], found.known[open_rows]
        else:
            _, again = predict(captions.take(pa.array(open_rows)), target, lexicon)
            p_target, known = again.p_target, again.known
        taken = known & (p_target >= np.float32(config.known_min_probability))
        if config.rule == "probability":
            enough = p_target >= _least(config, is_short[open_rows] & (lexicon is not None))
            by_model[open_rows] = sure = enough & ~abstained[open_rows]
            taken |= sure
        kept_as[open_rows[taken]] = labels.index(target)

    kept = kept_as >= 0
    lang = _strings(labels).take(pa.array(np.where(kept, kept_as, found.label)))
    lang_by = _strings(("lexicon", "model")).take(pa.array(by_model.astype(np.int8)))
    reason_index = np.where(abstained, 2, np.where(wanted, 1, 0))
    reasons = _strings(("other_language", "low_confidence", "unknown_language")).take(
        pa.array(reason_index, pa.int32(), mask=kept)
    )
    hundredths = np.floor(found.p_label * 100).astype(np.int32)
    details = _details(labels).take(pa.array(found.label * _HUNDREDTHS + hundredths, mask=kept))
    identified = pa.RecordBatch.from_arrays(
        [*batch.columns, lang, pa.array(found.p_target), lang_by],
        schema=pa.schema([*batch.schema, *(IDENTIFIED.field(name) for name in ("lang", "p_en", "lang_by"))]),
    )
    return reject(identified, stage="language", reasons=reasons, details=details)


def _lexicon(config: LanguageConfig, target: str) -> Lexicon | None:
    sources = config.lexicon_of(target)
    return load_lexicon(target, sources) if sources else None


def _least(config: LanguageConfig, is_short: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """The least probability for the model alone, float32[N]; `is_short` where the bar for short captions stands."""
    least, short = np.float32(config.min_probability), np.float32(config.short_min_probability)
    return np.where(is_short, max(least, short), least)


@functools.cache
def _strings(values: tuple[str, ...]) -> pa.StringArray:
    return pa.array(values, pa.string())


@functools.cache
def _details(labels: tuple[str, ...]) -> pa.StringArray:
    """ "en 0.00" to "en 1.00" for every label: the ledger's words, made once."""
    return pa.array([f"{label} {i / 100:.2f}" for label in labels for i in range(_HUNDREDTHS)], pa.string())


def _run_kernel(captions: pa.StringArray, target: str, lexicon: Lexicon | None) -> tuple[tuple[str, ...], Predictions]:
    from pipeline.stages.language.model import load_model  # numba takes half a second to import

    model = load_model()
    return model.labels, model.predict(captions, target, lexicon)


def _run_library(captions: pa.StringArray, target: str, lexicon: Lexicon | None) -> tuple[tuple[str, ...], Predictions]:
    import fasttext

    from pipeline.stages.language.model import Predictions, model_path

    model = fasttext.load_model(str(model_path()))
    labels = tuple(sorted(LANGUAGES))
    texts = [text.lower().replace("\n", " ") for text in captions.to_pylist()]
    rows = []
    for text in texts:
        names, probabilities = model.predict(text, k=-1)
        found = dict(zip((name.removeprefix("__label__") for name in names), probabilities, strict=True))
        likeliest = next(iter(found))
        words = count_words(text, lexicon.words if lexicon is not None else ())
        rows.append((labels.index(likeliest), found[likeliest], found.get(target, 0.0), *words))
    label, p_label, p_target, num_words, known = zip(*rows, strict=True) if rows else ((),) * 5
    # The library adds 1e-5 inside its logarithms, so that a sure text comes out a little above 1.
    return labels, Predictions(
        label=np.array(label, np.int32),
        p_label=np.minimum(np.array(p_label, np.float32), 1),
        p_target=np.minimum(np.array(p_target, np.float32), 1),
        words=np.array(num_words, np.int32),
        known=np.array(known, np.bool_),
    )


@dataclass(frozen=True, kw_only=True)
class Language(Stage):
    """`identify` as a stage of the page."""

    config: LanguageConfig

    name: ClassVar[str] = "language"
    reads: ClassVar[tuple[str, ...]] = ("caption",)
    adds: ClassVar[tuple[str, ...]] = ("lang", "p_en", "lang_by")
    reasons: ClassVar[Mapping[str, str]] = {
        "other_language": "the likeliest language is not a target language",
        "low_confidence": "the likeliest language is a target language, below the least probability",
        "unknown_language": "the model knows nothing of the text, nor do the lexicons know all its words",
    }

    def check(self) -> None:
        lexicon_fingerprints(self.config)

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return identify(batch, self.config)

    def key_parts(self) -> Any:
        # What a word is, in which case, depends on these beyond the config.
        return [super().key_parts(), lexicon_fingerprints(self.config), unicodedata.unidata_version]
