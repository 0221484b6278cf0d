"""metaclip: MetaCLIP's rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.stages.balance.modes.mode import Mode

if TYPE_CHECKING:
    from pipeline.stages.balance.hashes import Longs, Shares

__all__ = ["Metaclip"]


class Metaclip(Mode):
    """Independent draws: a query selects each of its pairs with probability t / max(count, t).

    The rule of MetaCLIP (Xu et al. 2023, "Demystifying CLIP Data", section 3.2).
    """

    name = "metaclip"
    says = "independent draws, t expected, as in MetaCLIP"

    def share(self, counts: Longs, limit: int) -> Shares:
        """t / count: MetaCLIP's probability of a head query; the others select all of their edges."""
        return limit / counts
