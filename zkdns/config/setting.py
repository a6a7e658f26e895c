"""`Setting`, a row of the schema, and parsers of tables of settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias, TypeVar

from zkdns.config.parsers import Location, OneOf, Parser, boolean, check_table, shown
from zkdns.errors import BadValueError

Process: TypeAlias = Literal["supervisor", "watcher", "worker", "transfer"]

PREFIX = "ZKDNS_"
"""The prefix of all variables."""
ALL_PROCESSES: frozenset[Process] = frozenset({"supervisor", "watcher", "worker", "transfer"})

_FEW = 8  # accepted names that an error lists if none of them is similar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Setting:
    """One row of the schema."""

    key: str
    """Its key in the TOML file, with its section: `cache.entries`."""
    parse: Parser[object]
    metavar: str
    """The form of a value in help texts: `SECONDS`."""
    help: str
    """One line for the command line's help and the reference."""
    many: bool = False
    """A list in the file, a comma-separated variable, a repeatable flag."""
    join: Callable[[tuple[Any, ...]], object] | None = None
    """With `many`: converts all values to one, or raises `BadValueError` if they do not fit together."""
    used_by: frozenset[Process] = ALL_PROCESSES
    """The processes that use it. When it changes, a reload replaces these, except the supervisor."""
    name: str = ""
    """Its name as flag and variable if that is not the key: `zookeeper` for `zookeeper.hosts`."""
    field: str = ""
    """The path of its field in `Config` if that is not the key: `forward.zones` for `forward.zone`."""
    in_environment: bool = True
    in_flags: bool = True
    suggestions: tuple[str, ...] = ()
    """Values for shell completion, in addition to `words`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.key.replace(".", "_"))
        object.__setattr__(self, "field", self.field or self.key)

    @property
    def words(self) -> tuple[str, ...]:
        """The words that shell completion offers: the accepted ones, and those in lower case in `metavar`."""
        known = self.parse.names if isinstance(self.parse, OneOf) else ()
        return (*known, *(word for word in self.metavar.split("|") if word.islower()), *self.suggestions)

    @property
    def is_file(self) -> bool:
        """Whether its value is the path of a file."""
        return self.metavar.split("|")[0] == "FILE"

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """Its flag."""
        return flag_of(self.name)

    @property
    def is_boolean(self) -> bool:
        """Whether its flag takes no value."""
        return self.parse is boolean

    def parse_all(self, value: object, location: Location) -> object:
        """Parse the value of one layer: with `many` to a tuple, or to the result of `join`.

        Raises:
            BadValueError: the value found, and the accepted ones.
        """
        if not self.many:
            return self.parse(value, location)
        items = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, str) and not location.typed:
            items = value.split(",")
        if not items:
            raise BadValueError(f"is an empty list; write at least one {self.metavar}")
        parsed = tuple(location.parse(self.parse, item) for item in items)
        for index, item in enumerate(parsed):
            if item is not None and item in parsed[:index]:
                location.add_error(f"{item!s} is given twice")
        return parsed if self.join is None or None in parsed else self.join(parsed)


def flag_of(name: str) -> str:
    """The flag with this name."""
    return "--" + name.replace("_", "-")


def parse_table(
    given: Mapping[str, object],
    rows: Mapping[str, Setting],
    location: Location,
    elsewhere: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Parse one table, or all variables, or all flags.

    Args:
        given: the values by name.
        rows: the settings by their names in this layer.
        location: of the table.
        elsewhere: as in `add_unknown`.

    Returns:
        The values by `Setting.key`; None for a value with an error, which is reported.
    """
    parsed: dict[str, Any] = {}
    for name, value in given.items():
        if name in rows:
            parsed[rows[name].key] = location.child(name).parse(rows[name].parse_all, value)
        else:
            add_unknown(name, rows, location, elsewhere)
    return parsed


def add_unknown(
    name: str, accepted: Iterable[str], location: Location, elsewhere: Mapping[str, str] | None = None
) -> None:
    """Report an unknown name with the most similar accepted one. Without one, list them if they are few.

    Args:
        name: as written.
        accepted: the names that may be used.
        location: of the table.
        elsewhere: names that are accepted in another table, with a description of each.
    """
    names = list(accepted)
    similar = {**(elsewhere or {}), **{_normalized(one): one for one in names}}
    word = name if elsewhere and name in elsewhere else _normalized(name)
    if near := get_close_matches(word, similar, n=1):
        hint = f"did you mean {similar[near[0]]}?"
    elif len(names) <= _FEW:
        hint = f"accepted: {', '.join(names)}"
    else:
        hint = "'zkdns help settings' lists all"
    if location.typed:
        location.add_error(f"unknown key {shown(name)}; {hint}")
    else:
        location.child(name).add_error(f"is unknown; {hint}")


def named_tables(rows: tuple[Setting, ...], make: Callable[..., _T]) -> Parser[dict[str, _T]]:
    """Return a parser of tables with names that the user chooses, such as `[service."web.staging"]`."""
    by_key = {row.key: row for row in rows}

    def parse_one(value: object, location: Location) -> _T:
        table = check_table(value)
        for key in [key for key, inner in table.items() if key not in by_key and isinstance(inner, dict)]:
            location.child(key).add_error("is a table inside a table; put a name with dots in quotes")
            table = {name: inner for name, inner in table.items() if name != key}
        return make(**parse_table(table, by_key, location))

    def parse(value: object, location: Location) -> dict[str, _T]:
        tables = {
            name: location.child(name).parse(parse_one, one) for name, one in check_table(value).items()
        }
        return {name: one for name, one in tables.items() if one is not None}

    return parse


def table(
    rows: tuple[Setting, ...], make: Callable[[dict[str, Any], Location], _T | None]
) -> Parser[_T | None]:
    """Return a parser of a table, such as `[primary.key]`.

    `make` gets its values and its location. A table with an error becomes None.
    """
    by_key = {row.key: row for row in rows}

    def parse(value: object, location: Location) -> _T | None:
        return make(parse_table(check_table(value), by_key, location), location)

    return parse


def list_of_tables(
    rows: tuple[Setting, ...], make: Callable[[dict[str, Any], Location], _T | None]
) -> Parser[list[_T | None]]:
    """Return a parser of a list of tables, such as `[[namespace]]`.

    `make` gets the values and the location of each table. A table with an error becomes None.
    """
    parse_one = table(rows, make)

    def parse(value: object, location: Location) -> list[_T | None]:
        if not isinstance(value, list) or not value:
            raise BadValueError(f"is {'an empty list' if value == [] else shown(value)}; write tables")
        return [location.item(index).parse(parse_one, one) for index, one in enumerate(value)]

    return parse


def _normalized(name: str) -> str:
    """A name without the prefix of its layer, so that similar prefixes do not make names similar."""
    return name.removeprefix(PREFIX).removeprefix("--").replace("-", "_").lower()
