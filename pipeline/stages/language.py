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

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configs.load import ConfigError
from pipeline.outcome import Outcome, reject
from pipeline.schema import IDENTIFIED
from pipeline.stages.language_words import (
    BUILTIN,
    BUILTIN_LANGUAGES,
    Lexicon,
    count_words,
    lexicon_fingerprint,
    load_lexicon,
)

if TYPE_CHECKING:
    from pipeline.stages.language_model import Predictions

__all__ = ["LANGUAGES", "LanguageConfig", "identify", "lexicon_fingerprints"]

_LABELS = (
    "af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv"
    " cy da de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht"
    " hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai"
    " mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms"
    " pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv"
    " ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh"
)
LANGUAGES = frozenset(_LABELS.split())
"""The 176 labels of lid.176, mostly ISO 639-1, else 639-3."""

_HUNDREDTHS = 101


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Which languages are kept."""

    targets: tuple[str, ...] = ("en",)
    """Languages to keep, as lid.176 names them. The probability of the first is stored as `p_en`."""
    min_probability: float = 0.2
    """Keep a caption only if the target language has at least this probability. On short English alt texts 0.5 would
    throw away a third of what is right."""
    rule: Literal["likeliest", "probability"] = "likeliest"
    """`likeliest`: a target must also be the likeliest of the 176 languages. `probability`: it need not; with
    `min_probability: 0.1` that keeps a little more of the target and two to four times as much of the others."""
    lexicons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Word lists by target: `builtin`, and files of one word or phrase a line (UTF-8, may be .gz) that every worker
    can read; [] for none. Targets that are not named have [builtin] if there is one (ar, de, en, es, eu, fa, fr, it,
    lv, nl, pt, ru), else none."""
    known_min_probability: float = 0.01
    """Keep a caption whose words are all in the target's lexicon at this probability already."""
    short_min_probability: float = 0.3
    """With a lexicon: least probability of a caption of at most `short_words` words that are not all in it."""
    short_words: int = 3
    """How many words, as white space separates them, make a caption short; those without letters do not count."""
    backend: Literal["numba", "fasttext"] = "numba"
    """`numba`: our kernel over the same model file. `fasttext`: the compiled library, for machines on
    which numba does not run; the same labels, much slower."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigError("targets is empty; name at least one language, for example en")
        for target in self.targets:
            if target not in LANGUAGES:
                near = difflib.get_close_matches(target, sorted(LANGUAGES), 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"targets: lid.176 does not know the language {target!r}{hint}")
        for name in ("min_probability", "known_min_probability", "short_min_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie between 0 and 1")
        if self.short_words < 0:
            raise ConfigError("short_words must be at least 0")
        for language, sources in self.lexicons.items():
            if language not in self.targets:
                raise ConfigError(f"lexicons: {language} is no target; targets are {', '.join(self.targets)}")
            if BUILTIN in sources and language not in BUILTIN_LANGUAGES:
                raise ConfigError(
                    f"lexicons: there is no built-in list for {language}, only for {', '.join(BUILTIN_LANGUAGES)}; "
                    "name a file of words, or leave it out"
                )

    def lexicon_of(self, target: str) -> tuple[str, ...]:
        """The sources of a target's lexicon; none where it has no lexicon."""
        builtin = (BUILTIN,) if target in BUILTIN_LANGUAGES else ()
        return tuple(self.lexicons.get(target, builtin))


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
    from pipeline.stages.language_model import load_model  # numba takes half a second to import

    model = load_model()
    return model.labels, model.predict(captions, target, lexicon)


def _run_library(captions: pa.StringArray, target: str, lexicon: Lexicon | None) -> tuple[tuple[str, ...], Predictions]:
    import fasttext

    from pipeline.stages.language_model import Predictions, model_path

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
