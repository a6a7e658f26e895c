"""Tables and progress bars: styled on a terminal, plain text otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from zkdns.cli.options import is_terminal, write_out

_BAR_DELAY = 1.0  # seconds before a progress bar appears


def write_columns(
    names: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[str, str] | None = None
) -> None:
    """Write a table to standard output. Columns with only empty cells are left out.

    Args:
        names: the column headings.
        rows: a text for each column.
        styles: rich styles by the text of a cell.
    """
    used = [index for index in range(len(names)) if any(row[index] for row in rows)]
    head = [names[index] for index in used]
    cells = [[printable(row[index]) for index in used] for row in rows]
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
    """Escape control characters: a member's data may contain sequences that a terminal would execute."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class ProgressBar:
    """A progress bar on standard error, if that is a terminal and the work takes longer than a second.

    Args:
        description: the work, such as `counting members`.
    """

    def __init__(self, description: str) -> None:
        self.progress = Progress(
            console=Console(stderr=True), transient=True, disable=not is_terminal(sys.stderr)
        )
        self._task = self.progress.add_task(description, visible=False)
        self._started_at = time.monotonic()

    def update(self, done: int, total: int) -> None:
        """Show how many of the steps are done."""
        is_visible = time.monotonic() - self._started_at > _BAR_DELAY
        self.progress.update(self._task, completed=done, total=total, visible=is_visible)
