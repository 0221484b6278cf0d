"""A card as HTML: card.html with charts.html and card.css, all of them beside this file.

Every value that a template prints is escaped for HTML, and for the eye (`terminal/printable.py`): captions, hosts and
names are other people's. The same card gives the same bytes: no clock, no random ids.
"""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from pipeline.catalog.catalog import named_query
from pipeline.questions.card.gather import Card
from pipeline.questions.card.words import explained_figure, explained_stage
from pipeline.terminal.html import page_environment

__all__ = ["render"]

_TEMPLATES = Path(__file__).parent


def render(card: Card) -> str:
    """The HTML of a card."""
    return _environment().get_template("card.html").render(card=card)


def _environment() -> jinja2.Environment:
    environment = page_environment(_TEMPLATES)
    environment.filters |= {"bytes": _bytes, "number": _number, "percent": _percent}
    environment.globals |= {
        "figure_in_words": explained_figure,
        "query": lambda name: named_query(name).strip(),
        "stage_in_words": explained_stage,
        "style": Markup((_TEMPLATES / "card.css").read_text(encoding="utf-8")),  # ours
    }
    return environment


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    """A no-break space stands before the sign."""
    return "-" if value is None else f"{value:,.{digits}f}\u00a0%"


def _bytes(value: int) -> str:
    for size, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if value >= size:
            return f"{value / size:,.1f}\u00a0{unit}"
    return f"{value}\u00a0bytes"
