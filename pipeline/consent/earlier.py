"""Options of earlier versions that the section `consent` has taken over: configs and data sets that give them are read.

fetch.respect_x_robots_tag                    consent.x_robots_directives; an empty list: x_robots_tag: false
fetch.respect_tdm_reservation, extract.       consent.tdm_reservation
extract.respect_page_robots                   consent.page_robots
extract.robots_directives                     consent.page_directives
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.consent.config import ConsentConfig

__all__ = ["moved"]

_DEFAULT = ConsentConfig()


def moved(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """`mapping` with these options where they are now. What was said there already, and what is the default, stays."""
    sections = {name: _section(mapping, name) for name in ("extract", "fetch", "consent")}
    if any(section is None for section in sections.values()):
        return dict(mapping)  # whoever reads it says what is wrong with it
    extract, fetch, consent = (dict(section or {}) for section in sections.values())
    reserves = [
        section.pop("respect_tdm_reservation") for section in (extract, fetch) if "respect_tdm_reservation" in section
    ]
    if reserves and not any(reserves):  # one that reserves was enough
        consent.setdefault("tdm_reservation", False)
    if extract.pop("respect_page_robots", True) is False:
        consent.setdefault("page_robots", False)
    directives = {"page_directives": extract.pop("robots_directives", None)}
    directives["x_robots_directives"] = fetch.pop("respect_x_robots_tag", None)
    for name, said in directives.items():
        if said == []:
            consent.setdefault("page_robots" if name == "page_directives" else "x_robots_tag", False)
        elif said is not None and said != list(getattr(_DEFAULT, name)):
            consent.setdefault(name, said)
    held = {"extract": extract, "fetch": fetch, "consent": consent}
    return {**mapping, **{name: section for name, section in held.items() if section or name in mapping}}


def _section(mapping: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Empty where it is not given; None where it is something else."""
    section = mapping.get(name)
    if section is None:
        return {}
    return section if isinstance(section, Mapping) else None
