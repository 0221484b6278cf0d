"""W3C's TDM Reservation Protocol (Community Group Final Report of 2024-05-10): its header. `pages.py` reads its meta,
`tdmrep.py` its file.
"""

from __future__ import annotations

__all__ = ["reserves_tdm"]


def reserves_tdm(value: str) -> bool:
    """Whether a `tdm-reservation` header reserves the rights to text and data mining.

    Of several values, as repeated headers give them, one that reserves is enough.
    """
    return any(each.strip() == "1" for each in value.split(","))
