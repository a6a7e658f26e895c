"""Styled output: tables, coloured lines, live displays and progress bars. rich draws them.

All texts of rich in the commands are made with `styled`, which escapes them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from zkdns.cli.streams import is_terminal, write_out
from zkdns.escape import printable

_BAR_DELAY = 1.0  # seconds before a progress bar appears

Part: TypeAlias = str | tuple[str, str]
"""A text, or a text with its style."""


def styled(text: str, style: str = "", *, is_shortened: bool = False) -> Text:
    """Return a text for rich with a style, without markup, and escaped.

    Args:
        text: the text.
        style: a style of rich.
        is_shortened: in a narrow column, shorten the text instead of wrapping it.
    """
    if is_shortened:
        return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")
    return Text(printable(text), style=style)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console for standard output or standard error that colours nothing by itself."""
    return Console(highlight=False, stderr=stderr)


class StyledLines:
    """Lines on standard output, with styles in a terminal. Long lines are not wrapped."""

    def __init__(self) -> None:
        self._console = make_console()

    def write(self, *parts: Part, style: str = "") -> None:
        """Write a line of these parts, each escaped. `style` is that of parts without one."""
        pairs = [part if isinstance(part, tuple) else (part, style) for part in parts]
        line = Text.assemble(*(styled(*pair) for pair in pairs))
        self._console.print(line, soft_wrap=True)


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
            table.add_row(*(styled(cell, (styles or {}).get(cell, "")) for cell in row))
        make_console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for row in (head, *cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        write_out(line.rstrip() + "\n")


class ProgressBar:
    """A progress bar on standard error, if that is a terminal and the work takes longer than a second.

    Args:
        description: the work, such as `counting members`.
    """

    def __init__(self, description: str) -> None:
        self.progress = Progress(
            console=make_console(stderr=True), transient=True, disable=not is_terminal(sys.stderr)
        )
        self._task = self.progress.add_task(description, visible=False)
        self._started_at = time.monotonic()

    def update(self, done: int, total: int) -> None:
        """Show how many of the steps are done."""
        is_visible = time.monotonic() - self._started_at > _BAR_DELAY
        self.progress.update(self._task, completed=done, total=total, visible=is_visible)
