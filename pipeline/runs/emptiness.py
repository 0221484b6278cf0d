"""What becomes of a run that has no sample left: what is published, and what is said.

samples?  some --> published
          none --did a list of what must go take pictures?--> no: nothing is published, what was before stays
                                                              yes: an empty version
               --it took all?--> yes: that is what was asked for; no: EmptyError, which says who took them
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import EmptyError
from pipeline.records.ledger import Line, last_reached
from pipeline.storage.place import Place

__all__ = ["is_to_be_published", "refuse_emptiness"]

_BLOCKED = {"block_list": "the block list", "hash_list": "a list of hashes", "removed": "what was removed"}
"""Reasons for which what was published must go, and who gives them."""
_SHOWN_REASONS = 3


def is_to_be_published(samples: int, lines: Sequence[Line]) -> bool:
    """Whether a version of so many `samples` replaces the one before; `lines` are the ledger's."""
    return samples > 0 or bool(_blocked_by(lines))


def refuse_emptiness(output: Place, lines: Sequence[Line]) -> None:
    """For a run without samples: raise EmptyError, unless lists of what must go took all that were planned."""
    last = last_reached(lines)
    if last is not None and last.rejected and last.rejected.keys() <= _BLOCKED.keys():
        return
    top = [] if last is None else sorted(last.rejected.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_REASONS]
    if last is None:
        went = "the sources hold nothing"
    elif last.kept:
        went = f"nothing was found in the {last.kept:,} {last.unit}s that stage {last.stage} kept"
    else:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in top)
        went = f"stage {last.stage} took the last {last.rows_in:,} {last.unit}s ({reasons})"
    remedy = f"`python -m pipeline sql {output} failures` says more"
    if top and top[0][0] == "address_not_allowed":
        remedy = "name addresses that are not public in fetch.allow_addresses"
    published = ""
    if is_to_be_published(0, lines):
        who = " and ".join(_blocked_by(lines))
        published = f"; the published version is empty now, since {who} names some of them"
    elif (output / "shards").exists():
        published = "; the version that was published before stays"
    raise EmptyError(f"{output}: no sample is left, {went}; {remedy}{published}")


def _blocked_by(lines: Sequence[Line]) -> list[str]:
    """Whose word took pictures."""
    said = {reason for line in lines if line.stage == "fetch" for reason, count in line.rejected.items() if count}
    return [who for reason, who in _BLOCKED.items() if reason in said]
