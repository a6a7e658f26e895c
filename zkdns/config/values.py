"""How the values of settings are read, and how every mistake is kept with the place where it was made.

A reader takes what a layer holds and returns what `Config` holds, or raises `BadValueError`. TOML has types
of its own and they are kept to: `ttl = "5"` is a mistake. Environment and flags hold text.

Never here: which settings there are.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from zkdns.errors import BadValueError

PREFIX = "ZKDNS_"
"""What the names of all variables begin with."""

_T = TypeVar("_T")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_DIGITS = re.compile(r"[0-9]{1,18}")
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})
_SHOWN = 80  # characters of a wrong value that still help to find it
_SHOWN_BITS = 64  # TOML's own limit; Python would print a longer number, or refuse to, at its leisure


@dataclass(frozen=True)
class Place:
    """Where a value stands, and how it is taken there."""

    origin: str
    """What leads to the key: `zkdns.toml: `, or nothing where the key says it all (`--ttl`)."""
    typed: bool
    """Whether the layer tells numbers and booleans from text."""
    directory: str
    """What relative paths are relative to; empty: the working directory."""
    mistakes: list[str]
    """Shared by all places of one reading: one sentence for each mistake."""
    key: str = ""

    @property
    def name(self) -> str:
        """The origin with the key, as people would look for it."""
        return self.origin + self.key

    def inside(self, key: str) -> Place:
        """The place of a key in the table that stands here."""
        written = key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)
        return replace(self, key=f"{self.key}.{written}" if self.key else written)

    def at(self, index: int) -> Place:
        """The place of an item in the list that stands here, counted from 0."""
        return replace(self, key=f"{self.key}[{index}]")

    def refuse(self, sentence: str) -> None:
        """Keep a mistake made here."""
        self.mistakes.append(f"{self.name}: {sentence}")

    def attempt(self, read: Reader[_T], value: object) -> _T | None:
        """Read the value; where it is wrong, keep the mistake and return None."""
        try:
            return read(value, self)
        except BadValueError as mistake:
            self.refuse(str(mistake))
            return None


Reader: TypeAlias = Callable[[object, Place], _T]


def flag_of(key: str) -> str:
    """What a setting is called on the command line."""
    return "--" + key.replace("_", "-")


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings."""

    key: str
    """Its name in the file and in `Config`."""
    read: Reader[object]
    form: str
    """What to write, as a command's help shows it: `SECONDS`."""
    meaning: str
    """One line for people."""
    many: bool = False
    """A list in the file, separated by commas in the environment, a flag to be repeated."""
    join: Callable[[tuple[Any, ...]], object] | None = None
    """Of many: makes one value of them all, or raises `BadValueError` where they do not go together."""
    in_environment: bool = True
    in_flags: bool = True
    suggested: tuple[str, ...] = ()
    """Values that a shell may propose, beside those that `words` finds by itself."""

    @property
    def words(self) -> tuple[str, ...]:
        """What may stand there word by word: one of a few, or what `form` has in small letters."""
        known = self.read.names if isinstance(self.read, OneOf) else ()
        return (*known, *(word for word in self.form.split("|") if word.islower()), *self.suggested)

    @property
    def is_file(self) -> bool:
        """Whether its value is the path of a file."""
        return self.form.split("|")[0] == "FILE"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return PREFIX + self.key.upper()

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return flag_of(self.key)

    @property
    def is_switch(self) -> bool:
        """Whether the flag says all and takes no value."""
        return self.read is switch

    def take(self, value: object, place: Place) -> object:
        """Read the value of one layer: a tuple, or what `join` makes of it, where there may be many.

        Raises:
            BadValueError: what was found and what is accepted.
        """
        if not self.many:
            return self.read(value, place)
        items = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, str) and not place.typed:
            items = value.split(",")
        if not items:
            raise BadValueError(f"is an empty list; write at least one {self.form}")
        taken = tuple(place.attempt(self.read, item) for item in items)
        for index, item in enumerate(taken):
            if item is not None and item in taken[:index]:
                place.refuse(f"{item!s} is given twice")
        return taken if self.join is None or None in taken else self.join(taken)


def read_table(given: Mapping[str, object], rows: Mapping[str, Setting], place: Place) -> dict[str, Any]:
    """Read a table by its rows, which are found under the names that this layer calls them.

    Returns:
        The values by `Setting.key`; None where a value was wrong, and the mistake is kept.
    """
    taken: dict[str, Any] = {}
    by_key = {row.key: name for name, row in rows.items()}
    for name, value in given.items():
        here = place.inside(name)
        if name in rows:
            taken[rows[name].key] = here.attempt(rows[name].take, value)
        elif place.key and isinstance(value, dict):
            here.refuse("is a table inside a table; a name that holds dots stands in quotes")
        elif near := get_close_matches(_as_key(name), by_key, n=1):
            here.refuse(f"is unknown; did you mean {by_key[near[0]]}?")
        else:
            here.refuse(f"is unknown; there are {', '.join(rows)}")
    return taken


def tables(rows: tuple[Setting, ...], make: Callable[..., _T]) -> Reader[dict[str, _T]]:
    """Make a reader of tables with names of the user's own, as `[service."web.staging"]`."""
    by_key = {row.key: row for row in rows}

    def read_one(value: object, place: Place) -> _T:
        return make(**read_table(_table(value), by_key, place))

    def read(value: object, place: Place) -> dict[str, _T]:
        read_all = {name: place.inside(name).attempt(read_one, one) for name, one in _table(value).items()}
        return {name: one for name, one in read_all.items() if one is not None}

    return read


def list_of_tables(
    rows: tuple[Setting, ...], make: Callable[[dict[str, Any], Place], _T | None]
) -> Reader[list[_T | None]]:
    """Make a reader of tables without names, as `[[namespace]]`.

    `make` gets what was read of one and where it stands. Where a table is wrong, None stands for it.
    """
    by_key = {row.key: row for row in rows}

    def read(value: object, place: Place) -> list[_T | None]:
        if not isinstance(value, list) or not value:
            raise BadValueError(f"is {'an empty list' if value == [] else shown(value)}; write tables")
        made = []
        for index, one in enumerate(value):
            here = place.at(index)
            made.append(here.attempt(lambda given, at: make(read_table(_table(given), by_key, at), at), one))
        return made

    return read


def table(rows: tuple[Setting, ...], make: Callable[..., _T]) -> Reader[_T]:
    """Make a reader of one table, as `[guard]`; what it does not say has the default of what is made."""
    by_key = {row.key: row for row in rows}

    def read(value: object, place: Place) -> _T:
        taken = read_table(_table(value), by_key, place)
        return make(**{key: one for key, one in taken.items() if one is not None})

    return read


def fraction(value: object, _place: Place) -> float:
    """Read a number between 0 and 1, neither of them accepted."""
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if number is None or not 0 < number < 1:
        raise BadValueError(f"is {shown(value)}; write a number between 0 and 1, as 0.5")
    return number


def whole(lowest: int, highest: int) -> Reader[int]:
    """Make a reader of whole numbers between two limits, both accepted."""

    def read(value: object, place: Place) -> int:
        number = value
        if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
            number = int(value)
        if not isinstance(number, int) or isinstance(number, bool) or not lowest <= number <= highest:
            raise BadValueError(f"is {shown(value)}; write a whole number from {lowest} to {highest}")
        if place.typed and isinstance(value, str):
            raise BadValueError(f"is the text {shown(value)}; write {number} without quotes")
        return number

    return read


class OneOf:
    """Reads one of a few words.

    Args:
        names: these words.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._wanted = f"one of {', '.join(names)}" if len(names) > 1 else names[0]

    def __call__(self, value: object, _place: Place) -> str:
        """The word, as a `Reader` returns it."""
        word = _string(value, self._wanted)
        if word not in self.names:
            raise BadValueError(f"is {shown(value)}; write {self._wanted}")
        return word


def one_of(*names: str) -> Reader[str]:
    """Make a reader of one of a few words."""
    return OneOf(names)


def text(parse: Callable[[str], _T], wanted: str) -> Reader[_T]:
    """Make a reader of text that `parse` understands or refuses with `BadValueError`."""

    def read(value: object, _place: Place) -> _T:
        return parse(_string(value, wanted))

    return read


def path(value: object, place: Place) -> str:
    """Read a file's path; it becomes absolute. Whether there is such a file is no question here."""
    written = _string(value, "the path of a file")
    try:
        absolute = str(Path(place.directory, written).absolute())
    except OSError:
        raise BadValueError(f"{shown(value)} is relative to a working directory that is gone") from None
    return _string(absolute, "the path of a file")


def path_or_none(value: object, place: Place) -> str | None:
    """Read a file's path, or `none`; a file of that name is `./none`."""
    return None if value == "none" else path(value, place)


def switch(value: object, place: Place) -> bool:
    """Read yes or no: a boolean where there are booleans, else 1, true, yes, on, 0, false, no, off."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) and not place.typed else None
    if word not in _YES | _NO:
        raise BadValueError(
            f"is {shown(value)}; write true or false{', without quotes' if place.typed else ''}"
        )
    return word in _YES


def share(value: object, place: Place) -> float:
    """Read false (0), true (1), or a number between them."""
    number = value
    if isinstance(value, str) and not place.typed:
        with contextlib.suppress(ValueError):
            number = float(value)
    if isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= 1:
        return float(number)
    try:
        return float(switch(value, place))
    except BadValueError:
        raise BadValueError(
            f"is {shown(value)}; write true, false, or the share of them from 0 to 1, as 0.01"
        ) from None


def shown(value: object) -> str:
    """A wrong value as its mistake shows it: never long, whatever was written."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case int() if value.bit_length() > _SHOWN_BITS:
            return "an immense number"
        case str():
            return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
        case _:
            return str(value)


def _as_key(name: str) -> str:
    """A name as a key would be spelled: what all variables have in common makes none of them alike."""
    return name.removeprefix(PREFIX).removeprefix("--").replace("-", "_").lower()


def _table(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise BadValueError(f"is {shown(value)}; write a table")
    return value


def _string(value: object, wanted: str) -> str:
    if not isinstance(value, str):
        raise BadValueError(f"is {shown(value)}; write {wanted} in quotes")
    if not value.strip():
        raise BadValueError(f"is empty; write {wanted}")
    # Python hands on the bytes of an argument that are not UTF-8 as lone surrogates (PEP 383).
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise BadValueError(f"is {shown(value)}; it holds a zero byte or is not UTF-8")
    return value.strip()
