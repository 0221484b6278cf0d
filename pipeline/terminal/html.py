"""HTML pages from templates of ours, with values that are other people's: escaped for HTML and for the eye."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.terminal.printable import printable

__all__ = ["page_environment"]


def page_environment(templates: Path) -> jinja2.Environment:
    """What renders the templates in a directory. A name that is not given is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """What a template prints, before it is escaped. What is marked as HTML was made of values that came by here."""
    if isinstance(value, Markup):
        return value
    return "" if value is None else printable(str(value))
