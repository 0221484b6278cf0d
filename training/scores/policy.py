"""Moderation by prompts: how near a sample is to what a policy's rules tell of.

    rule --text tower--> prompts [P, D], contrast [C, D]      sample --cosines--> a score; flagged from the threshold on

With contrast the score is zero-shot classification's probability (CLIP, arXiv 2103.00020, section 3.1.2): the share of
a softmax over all of the rule's texts, at the model's logit scale, that falls to the prompts. Without, it is the
highest cosine with a prompt, by which LAION-400M was searched for what must not be in it (arXiv 2111.02114, section 2);
it hangs on the model, so its threshold has to be found on one's own samples. Neither knows more than the CLIP: both are
a first sieve, for people to look behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.scores.cosine import Floats, unit_rows
from training.scores.policy_config import Rule

__all__ = ["RuleFeatures", "flags_of", "rule_score"]


@dataclass(frozen=True, kw_only=True)
class RuleFeatures:
    """A rule, and the features of its texts."""

    rule: Rule
    texts: Floats
    """float32[T, D] of length 1: the prompts, then the contrast."""


def rule_score(found: RuleFeatures, image_ND: Floats, text_ND: Floats, logit_scale: float) -> Floats:
    """float32[N]: the rule's score of each sample; NaN where what it looks at has no features (NaN, or zero)."""
    judged = found.rule.looks_at
    looked_at = [rows for what, rows in (("image", image_ND), ("text", text_ND)) if judged in (what, "either")]
    scores = [_score(found, rows, logit_scale) for rows in looked_at]
    return scores[0] if len(scores) == 1 else np.fmax(scores[0], scores[1])  # of which one may be NaN


def _score(found: RuleFeatures, rows_ND: Floats, logit_scale: float) -> Floats:
    cosine_NT = unit_rows(rows_ND) @ found.texts.T
    prompts = len(found.rule.prompts)
    if not found.rule.contrast:
        return np.asarray(np.clip(cosine_NT.max(axis=1), -1, 1), np.float32)
    logits_NT = np.asarray(cosine_NT, np.float64) * logit_scale
    shares_NT = np.exp(logits_NT - logits_NT.max(axis=1, keepdims=True))
    return np.asarray(shares_NT[:, :prompts].sum(axis=1) / shares_NT.sum(axis=1), np.float32)


def flags_of(rules: Mapping[str, Rule], scores: Mapping[str, Floats]) -> list[list[str]]:
    """Of each sample the names of the rules that flag it, in the policy's order."""
    flagged: dict[str, npt.NDArray[np.bool_]] = {name: scores[name] >= rule.threshold for name, rule in rules.items()}
    count = len(next(iter(scores.values())))
    lists: list[list[str]] = [[] for _ in range(count)]
    for name, which in flagged.items():
        for row in np.flatnonzero(which):
            lists[row].append(name)
    return lists
