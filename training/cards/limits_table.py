"""The limits of a model as two tables on a terminal."""

from __future__ import annotations

import sys

from rich.table import Table

from pipeline.terminal.console import PrintableConsole
from training.cards.limits import Limits

__all__ = ["show_limits"]


def show_limits(limits: Limits, *, title: str) -> None:
    """Print each probe beside guessing, then the wordings."""
    console = PrintableConsole(file=sys.stdout)
    for shares, name in (
        (limits.probes, title),
        (limits.wordings, f"wording: {limits.spread:.1%} from worst to best"),
    ):
        table = Table(title=name)
        table.add_column("probe" if shares is limits.probes else "wording")
        for column in ("right", "95 %", "chance"):
            table.add_column(column, justify="right")
        if shares is limits.probes:
            table.add_column("what it asks")
        for share in shares:
            row = [share.name, f"{share.right:.1%}", f"{share.low:.1%} to {share.high:.1%}", f"{share.chance:.1%}"]
            table.add_row(*row, *([share.says] if shares is limits.probes else []))
        console.print(table)
