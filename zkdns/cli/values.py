"""Options and arguments with values that are no settings: a parser of settings converts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zkdns.config.parsers import Location, Parser, text
from zkdns.durations import duration_parser
from zkdns.errors import BadValueError

F = TypeVar("F", bound=Callable[..., Any])


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # click before 8.2 has no generic one
    _ParamType = click.ParamType


class ValueType(_ParamType):
    """The type of a parameter: a parser of settings converts its text.

    Args:
        parse: the parser.
        name: of the type.
    """

    def __init__(self, parse: Parser[Any], name: str = "value") -> None:
        self._parse = parse
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        """Convert a text; any other value is a default that needs no conversion."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value, Location("", typed=False, directory="", errors=[]))
        except BadValueError as error:
            self.fail(str(error), param, ctx)


def duration_option(
    flag: str,
    lowest: float,
    highest: float,
    *,
    help: str,  # noqa: A002 - as in click
    default: str | None = None,
) -> Callable[[F], F]:
    """Make an option for a duration. The command gets seconds, or None without option and default."""
    return click.option(
        flag,
        type=ValueType(text(duration_parser(lowest, highest), "a duration")),
        metavar="DURATION",
        default=default,
        show_default=default is not None,
        help=help,
    )
