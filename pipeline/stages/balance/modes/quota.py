"""quota: CLIP's rule."""

from __future__ import annotations

from pipeline.stages.balance.modes.mode import Mode

__all__ = ["Quota"]


class Quota(Mode):
    """Each query selects exactly min(t, count) pairs: those with the smallest hash of (seed, uid, query text).

    The rule of CLIP (Radford et al. 2021, section 2.2: "up to 20,000 (image, text) pairs per query").
    """

    name = "quota"
    says = "exactly its t smallest keyed hashes, as in CLIP"
