"""What is said of each row by itself: a task a part of the features.

PART.parquet of FEATURES --CLIP score, aesthetic head, rules of a policy--> PART.scores.parquet, row for row
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.engine import Info, Task, apart, output
from pipeline.errors import DamagedFileError
from pipeline.storage.checked import check, load_vector, read_table
from pipeline.storage.location import Location
from pipeline.storage.parquet import save_vector, write_parquet
from pipeline.watching import counting
from training.embedding.feature_files import image_matrix, text_matrix
from training.errors import FeaturesError, ModelError
from training.scores.aesthetic import Head, load_head
from training.scores.cosine import Floats, clip_score
from training.scores.policy import RuleFeatures, flags_of, rule_score
from training.scores.policy_config import Rule

__all__ = ["EmbedPrompts", "PartScores", "Prompts", "ScorePart", "features_of_part", "score_fields"]


def score_fields(name: str | None, *, aesthetic: bool, rules: Sequence[str]) -> list[pa.Field]:
    """The columns of a part's scores after `uid`. `name`: of the CLIP score, null where it is not asked for."""
    numbers = [] if name is None else [f"{name}_score"]
    numbers += ["aesthetic"] * aesthetic + [f"policy_{rule}" for rule in rules]
    fields = [pa.field(number, pa.float32()) for number in numbers]
    return [*fields, pa.field("policy_flags", pa.list_(pa.string()))] if rules else fields


def features_of_part(part: Location, columns: Sequence[str]) -> pa.Table:
    """Columns of one part, which is held against its digest. Raises FeaturesError."""
    try:
        return read_table(part, columns)
    except DamagedFileError as error:
        remedy = "run the same `python -m training embed` again"
        raise FeaturesError(f"{part.path}: damaged, or not of these features ({error.what}); {remedy}") from error


# --- the prompts of a policy ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The features of all texts of a policy, rule after rule, of each the prompts before the contrast."""

    texts: Location = output("prompts.npy")


@dataclass(frozen=True, kw_only=True)
class EmbedPrompts(Task[Prompts]):
    """The texts of a policy by the model that made the features."""

    rules: Mapping[str, Rule]
    model_fingerprint: str
    model: str = apart()
    device: str = apart()

    def work(self, out: Prompts) -> Info:
        from training.learning.features import text_features
        from training.learning.pretrained import fingerprint_of, load_model

        device: Any = self.device
        try:
            model = load_model(self.model, device=device, precision="fp32")  # a few texts
        except ModelError as error:
            raise ModelError(f"policy: {error}; the model that made the features is needed, see --model") from error
        if fingerprint_of(model) != self.model_fingerprint:
            raise ModelError(
                f"{self.model}: is not the model that made the features, or has learnt more since; give that one with "
                "--model, or embed again"
            )
        texts = [text for rule in self.rules.values() for text in (*rule.prompts, *rule.contrast)]
        save_vector(out.texts.local, text_features(model, texts).float().cpu().numpy())
        return {"rows": len(texts)}


def _by_rule(rules: Mapping[str, Rule], texts_TD: Floats) -> Iterator[tuple[str, RuleFeatures]]:
    first = 0
    for name, rule in rules.items():
        last = first + len(rule.prompts) + len(rule.contrast)
        yield name, RuleFeatures(rule=rule, texts=texts_TD[first:last])
        first = last


# --- the scores of a part -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PartScores:
    """`uid` and `score_fields`, in the part's order."""

    scores: Location = output("scores.parquet")


@dataclass(frozen=True, kw_only=True)
class ScorePart(Task[PartScores]):
    """The scores of one part's rows."""

    part: Location
    name: str | None
    """Of the CLIP score; null where it is not asked for."""
    head: Location | None = None
    rules: Mapping[str, Rule]
    prompts: Location | None = None
    logit_scale: float

    def work(self, out: PartScores) -> Info:
        table = features_of_part(self.part, ("uid", "image", "text"))
        tally = counting("row", total=len(table))
        image_ND, text_ND = (_or_nan(matrix(table)) for matrix in (image_matrix, text_matrix))
        columns: dict[str, pa.Array] = {}
        if self.name is not None:
            columns[f"{self.name}_score"] = _numbers(clip_score(image_ND, text_ND))
        if self.head is not None:
            columns["aesthetic"] = _numbers(_head(self.head).score(image_ND))
        if self.prompts is not None:
            rules = dict(_by_rule(self.rules, np.asarray(load_vector(self.prompts))))
            scores = {name: rule_score(rule, image_ND, text_ND, self.logit_scale) for name, rule in rules.items()}
            columns |= {f"policy_{name}": _numbers(score) for name, score in scores.items()}
            columns["policy_flags"] = pa.array(flags_of(self.rules, scores), pa.list_(pa.string()))
        fields = score_fields(self.name, aesthetic=self.head is not None, rules=list(self.rules))
        schema = pa.schema([pa.field("uid", pa.binary(16), nullable=False), *fields])
        write_parquet(out.scores.local, pa.table({"uid": table["uid"], **columns}, schema=schema), schema)
        tally.done = len(table)
        return {"rows": len(table)}


@lru_cache(maxsize=1)
def _head(file: Location) -> Head:
    """Read once a process."""
    return load_head(check(file))


def _or_nan(found: tuple[Floats, npt.NDArray[np.bool_]]) -> Floats:
    rows_ND, there_N = found
    rows_ND[~there_N] = np.nan
    return rows_ND


def _numbers(values: Floats) -> pa.Array:
    """A column in which what is not a number is null."""
    return pa.array(values, pa.float32(), mask=np.isnan(values))
