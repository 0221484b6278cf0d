"""balance: each query selects at most t of the pairs that contain it; a pair is kept if some query selects it.

    counts --find_windows--> gather (a sliver of each head query's edges) --solve--> thresholds --> balance

An edge is one (pair, query) with the query in the pair's caption. Every edge has a 64-bit keyed hash; a query
selects the edges at or under its threshold. Modes (`modes/`, a file each) differ in the hash, in the threshold, and
in whether each query selects for itself or one nameless query for the whole set.

config.py      BalanceConfig
modes/         what is a mode's own: CLIP's rule, MetaCLIP's, ...
limit.py       t from the counts, and its reserve
windows.py     where a query's threshold must lie
edges.py       edges and their hashes; gathering those in the windows
thresholds.py  the threshold of every query, exactly
selection.py   balance(): who is selected
kernel.py      the compiled loops over edges
hashes.py      the 64 bits that hashes are drawn from

The algorithm is exact, whatever the partitions and their order:

1. A query with count <= t selects all its edges: its threshold is the largest (hash, uid) there is.
2. For a head query the t-th smallest of `count` uniform hashes lies near t / count. Only edges in a window
   around it are gathered; of those below the window a partition sends the number. If fewer than t edges lie
   below the window and at least t at or below its upper end, the t-th smallest edge of all is the
   (t - below)-th smallest of the window: nothing else could stand before it. Sums and the union of slivers do
   not depend on who computed which part, and (hash, uid) is a total order, so ties cannot exceed t.
3. The window's ends are t -+ 6 sqrt(t) (+ 36 above) expected edges. The number below an end with m expected
   edges is binomial with variance under m, and the ends are chosen so that t is at least six times sqrt(m)
   away: each fails about once in 10^9 queries. `find_thresholds` names the queries for which it failed; `solve`
   gathers those again with no bound. So the result is exact in every case, and luck costs time only.

Monotone in t: thresholds grow with t, so what a smaller t selects a larger one selects too. Mergeable: the
t smallest of a union are among the t smallest of its parts, which is why a set can grow by another crawl.

The final balance is the same on other edges: those that the plan selected and whose picture survived
(`column="selected_by"`). Their hashes are uniform below the plan's threshold, so a query's sample of the
survivors is as fair as the plan's; no pair that was fetched for another query may fill its gap.

This package and what it names here load no NumPy: `--help` reads them.
"""

from __future__ import annotations

from pipeline.stages.balance.config import BalanceConfig
from pipeline.stages.balance.modes import MODES, mode_of
from pipeline.stages.balance.modes.mode import Mode

__all__ = ["MODES", "BalanceConfig", "Mode", "mode_of"]
