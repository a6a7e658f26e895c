"""`Command`: a click command with examples. The help, the page cli and the man pages show the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import click


class Example(NamedTuple):
    """A command line that a user can copy."""

    command: str
    meaning: str
    """Its purpose or result: a phrase without a full stop."""


class Command(click.Command):
    """A command whose help shows examples, before the options.

    Args:
        examples: at least two, each as in `Example`; the most useful one first.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - click's arguments
        examples: Sequence[tuple[str, str]],
        **attributes: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **attributes)
        self.examples = tuple(Example(*example) for example in examples)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summary, the description and the examples. Command lines are never wrapped."""
        super().format_help_text(ctx, formatter)
        with formatter.section("Examples"):
            indent = " " * formatter.current_indent
            for command, meaning in self.examples:
                formatter.write(f"{indent}# {meaning}\n{indent}{command}\n")
