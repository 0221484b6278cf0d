"""The options of `language`, and the languages that there are."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from pipeline.stages.language.words import BUILTIN, BUILTIN_LANGUAGES

__all__ = ["LANGUAGES", "LanguageConfig"]

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


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Which languages are kept."""

    targets: tuple[str, ...] = ("en",)
    """Languages to keep, as lid.176 names them. The probability of the first is stored as `p_en`."""
    min_probability: Annotated[float, Bounds(least=0, most=1)] = 0.2
    """Keep a caption only if the target language has at least this probability. On short English alt texts 0.5 would
    throw away a third of what is right."""
    rule: Literal["likeliest", "probability"] = "likeliest"
    """`likeliest`: a target must also be the likeliest of the 176 languages. `probability`: it need not; with
    `min_probability: 0.1` that keeps a little more of the target and two to four times as much of the others."""
    lexicons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Word lists by target: `builtin`, and files of one word or phrase a line (UTF-8, may be .gz) that every worker
    can read; [] for none. Targets that are not named have [builtin] if there is one (ar, de, en, es, eu, fa, fr, it,
    lv, nl, pt, ru), else none."""
    known_min_probability: Annotated[float, Bounds(least=0, most=1)] = 0.01
    """Keep a caption whose words are all in the target's lexicon at this probability already."""
    short_min_probability: Annotated[float, Bounds(least=0, most=1)] = 0.3
    """With a lexicon: least probability of a caption of at most `short_words` words that are not all in it."""
    short_words: Annotated[int, Bounds(least=0)] = 3
    """How many words, as white space separates them, make a caption short; those without letters do not count."""
    backend: Literal["numba", "fasttext"] = "numba"
    """`numba`: our kernel over the same model file. `fasttext`: the compiled library, for machines on
    which numba does not run; the same labels, much slower."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.targets:
            raise ConfigError("targets is empty; name at least one language, for example en")
        for target in self.targets:
            if target not in LANGUAGES:
                near = difflib.get_close_matches(target, sorted(LANGUAGES), 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"targets: lid.176 does not know the language {target!r}{hint}")
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
