"""/.well-known/tdmrep.json: which paths of a host are reserved, by W3C's TDM Reservation Protocol (2024-05-10)."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
from protego import Protego

__all__ = ["MAX_TDMREP_BYTES", "TDMREP_PATH", "TdmRep", "parse_tdmrep"]

TDMREP_PATH = "/.well-known/tdmrep.json"
"""Where a host says which of its paths are reserved (section 6.1 of the report)."""
MAX_TDMREP_BYTES = 500 * 1024
"""What is read of such a file, as of a robots.txt."""
_MAX_RULES = 10_000
_AGENT = "tdm"


class TdmRep:
    """The reservations of one host, path by path."""

    def __init__(self, rules: dict[str, bool]) -> None:
        """`rules`: pattern of paths, as in robots.txt -> whether they are reserved."""
        self.reserves_any = any(rules.values())
        """Whether there is a path that is reserved."""
        lines = (f"{'Disallow' if reserved else 'Allow'}: {pattern}" for pattern, reserved in rules.items())
        self._rules = Protego.parse("\n".join([f"User-agent: {_AGENT}", *lines])) if rules else None

    def reserves(self, url: str) -> bool:
        """Whether `url` is reserved: the longest pattern that matches its path decides."""
        return self._rules is not None and not self._rules.can_fetch(url, _AGENT)


def parse_tdmrep(body: bytes) -> TdmRep:
    """Read a tdmrep.json: a list of objects with `location` and `tdm-reservation` (1 or 0). Never raises.

    What is not of that form says nothing. A location that is given twice is reserved if it is once.
    """
    rules: dict[str, bool] = {}
    try:
        items = msgspec.json.decode(body[:MAX_TDMREP_BYTES].removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, RecursionError):
        items = []
    for item in items if isinstance(items, list) else []:
        location = item.get("location") if isinstance(item, dict) else None
        if not isinstance(location, str) or not location.startswith(("/", "*")) or len(rules) >= _MAX_RULES:
            continue
        reserved = str(item.get("tdm-reservation", "")).strip() == "1"
        pattern = quote(location, safe="!#$%&'()*+,/:;=?@[]~").replace("#", "%23")
        rules[pattern] = rules.get(pattern, False) or reserved
    return TdmRep(rules)
