"""A progress bar for what takes its time."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import Progress

from zkdns.cli.options import is_terminal

_PATIENCE = 1.0  # seconds before a bar shows that something is going on


class Bar:
    """A progress bar on standard error, if that is a terminal and it takes long enough to be read.

    Args:
        doing: what goes on.
    """

    def __init__(self, doing: str) -> None:
        self.progress = Progress(
            console=Console(stderr=True), transient=True, disable=not is_terminal(sys.stderr)
        )
        self._task = self.progress.add_task(doing, visible=False)
        self._begun = time.monotonic()

    def advance(self, done: int, total: int) -> None:
        """So much is done."""
        is_shown = time.monotonic() - self._begun > _PATIENCE
        self.progress.update(self._task, completed=done, total=total, visible=is_shown)
