"""coordinated: CLIP's quota, without its favour for long texts."""

from __future__ import annotations

from pipeline.stages.balance.modes.mode import Mode

__all__ = ["Coordinated"]


class Coordinated(Mode):
    """Exactly min(t, count) pairs, as in `quota`, but over one hash of (seed, uid) for all queries.

    A text with many queries has many chances where each query draws for itself. Here it has one: a pair that is
    early in the order of one query is early in that of the others. The rule is ours; samples coordinated by one
    random number a unit are known to surveys (Brewer, Early and Joyce 1972).
    """

    name = "coordinated"
    says = "the same over one hash a pair, without favour for texts with many queries"
    one_hash_a_pair = True
