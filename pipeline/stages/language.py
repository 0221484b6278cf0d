"""Language: which language a caption is in, and how sure that is of the wanted one.

    CLEANED --lid.176 over all captions of a batch--> lang, p_en --rule--> IDENTIFIED, rejections

The rule: the likeliest language is a target, and its probability is at least `min_probability`. The
measurements behind the default are in docs/language.md.
"""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configs.load import ConfigError
from pipeline.outcome import Outcome, reject
from pipeline.schema import IDENTIFIED

__all__ = ["LANGUAGES", "LanguageConfig", "identify"]

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
    """Keep a caption only if its likeliest language has at least this probability. On short English alt
    texts 0.5 would throw away a third of what is right."""
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
        if not 0 <= self.min_probability <= 1:
            raise ConfigError("min_probability must lie between 0 and 1")


def identify(batch: pa.RecordBatch, config: LanguageConfig) -> Outcome:
    """Add `lang` and `p_en` to a batch with a column `caption`; the unit is a candidate.

    Rejects `other_language` and `low_confidence`; the detail is the likeliest language and its
    probability. Raises InputError where the model's file is missing.
    """
    if config.backend == "numba":
        labels, label, p_label, p_first = _run_kernel(batch.column("caption"), config.targets[0])
    else:
        labels, label, p_label, p_first = _run_library(batch.column("caption"), config.targets[0])
    lang = _strings(labels).take(pa.array(label))
    wanted = np.isin(label, [labels.index(target) for target in config.targets])
    sure = p_label >= np.float32(config.min_probability)
    reason_index = np.where(wanted, 1, 0)
    reasons = _strings(("other_language", "low_confidence")).take(
        pa.array(reason_index, pa.int32(), mask=wanted & sure)
    )
    hundredths = np.floor(p_label * 100).astype(np.int32)
    details = _details(labels).take(pa.array(label * _HUNDREDTHS + hundredths, mask=wanted & sure))
    identified = pa.RecordBatch.from_arrays(
        [*batch.columns, lang, pa.array(p_first)],
        schema=pa.schema([*batch.schema, IDENTIFIED.field("lang"), IDENTIFIED.field("p_en")]),
    )
    return reject(identified, stage="language", reasons=reasons, details=details)


@functools.cache
def _strings(values: tuple[str, ...]) -> pa.StringArray:
    return pa.array(values, pa.string())


@functools.cache
def _details(labels: tuple[str, ...]) -> pa.StringArray:
    """ "en 0.00" to "en 1.00" for every label: the ledger's words, made once."""
    return pa.array([f"{label} {i / 100:.2f}" for label in labels for i in range(_HUNDREDTHS)], pa.string())


_Predictions = tuple[tuple[str, ...], npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Labels; index of the likeliest int32[N]; its probability and the first target's, float32[N]."""


def _run_kernel(captions: pa.StringArray, first_target: str) -> _Predictions:
    from pipeline.stages.language_model import load_model  # numba takes half a second to import

    model = load_model()
    return (model.labels, *model.predict(captions, first_target))


def _run_library(captions: pa.StringArray, first_target: str) -> _Predictions:
    import fasttext

    from pipeline.stages.language_model import model_path

    model = fasttext.load_model(str(model_path()))
    labels = tuple(sorted(LANGUAGES))
    texts = [text.replace("\n", " ") for text in captions.to_pylist()]
    label = np.empty(len(texts), np.int32)
    p_label = np.empty(len(texts), np.float32)
    p_first = np.empty(len(texts), np.float32)
    for i, text in enumerate(texts):
        found, probabilities = model.predict(text, k=-1)
        names = [name.removeprefix("__label__") for name in found]
        label[i] = labels.index(names[0])
        p_label[i] = probabilities[0]
        p_first[i] = probabilities[names.index(first_target)] if first_target in names else 0
    # The library adds 1e-5 inside its logarithms, so that a sure text comes out a little above 1.
    return labels, label, np.minimum(p_label, 1), np.minimum(p_first, 1)
