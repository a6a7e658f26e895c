"""Rows in columns: coloured in a terminal, else plain text of any width."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zkdns.cli.options import is_terminal, write_out


def write_columns(
    names: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[str, str] | None = None
) -> None:
    """Write a table; columns without anything in them are left out.

    Args:
        names: of the columns.
        rows: each with a text for each column.
        styles: rich's, by the text of a cell.
    """
    used = [at for at in range(len(names)) if any(row[at] for row in rows)]
    head = [names[at] for at in used]
    cells = [[printable(row[at]) for at in used] for row in rows]
    if is_terminal(sys.stdout):
        table = Table(*head, box=None, pad_edge=False, header_style="bold")
        for row in cells:
            table.add_row(*(Text(cell, style=(styles or {}).get(cell, "")) for cell in row))
        Console(highlight=False).print(table)
        return
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for row in (head, *cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        write_out(line.rstrip() + "\n")


def printable(text: str) -> str:
    """The text without what would move a terminal's cursor or colour it: anybody may write a member."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
