"""Parsers of setting values, and the location that each error is reported with.

A parser takes the value that a layer holds and returns the value for `Config`, or raises `BadValueError`.
In TOML, values have types: `ttl = "5"` is an error. Variables and flags hold text. The first half of the
file has parsers for kinds of values, the second half parsers for single settings.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from zkdns.address import DNS_PORT, DNS_TLS_PORT, HostPort, UpstreamAddress, parse_listen, parse_upstream
from zkdns.config.model import NotifyTarget, UpstreamsSetting
from zkdns.durations import format_duration, parse_duration
from zkdns.errors import BadValueError
from zkdns.names import lower, parse_name, to_text

if TYPE_CHECKING:
    from zkdns.names import Labels

DEMO_PORT = 5300  # needs no privileges
ADMIN_PORT = 9153  # the usual port for the metrics of DNS servers
MAX_IDENTITY = 64  # bytes; together with the longest name and a cookie it fits into the smallest message

_T = TypeVar("_T")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_DIGITS = re.compile(r"[0-9]{1,18}")
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})
_ZONE_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
_COOKIE_SECRET = re.compile(r"[0-9A-Fa-f]{32}")
_MINUTE = 60  # seconds
_MAX_SOCKET_PATH = 107  # bytes; sun_path holds 108 with the zero byte (unix(7))
_MAX_SHOWN = 80  # characters of a wrong value in an error
_MAX_SHOWN_BITS = 64  # TOML's own limit; Python is slow to print longer numbers, or refuses to


@dataclass(frozen=True)
class Location:
    """Where a value is written, and the properties of its layer."""

    file: str
    """The file's name; empty for variables and flags, which the key alone identifies (`--ttl`)."""
    typed: bool
    """Whether the layer distinguishes numbers and booleans from text."""
    directory: str
    """The base of relative paths; empty: the working directory."""
    errors: list[str]
    """One sentence for each error; all locations of a load share the list."""
    key: str = ""

    @property
    def name(self) -> str:
        """The file and the key, such as `zkdns.toml: cache.entries`."""
        return ": ".join(filter(None, (self.file, self.key)))

    def child(self, key: str) -> Location:
        """The location of a key in the table at this location."""
        written = key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)
        return replace(self, key=f"{self.key}.{written}" if self.key else written)

    def item(self, index: int) -> Location:
        """The location of an item in the list at this location, counted from 0."""
        return replace(self, key=f"{self.key}[{index}]")

    def add_error(self, sentence: str) -> None:
        """Report an error at this location."""
        self.errors.append(f"{self.name}: {sentence}")

    def parse(self, parse: Parser[_T], value: object) -> _T | None:
        """Parse a value; on an error, report it and return None."""
        try:
            return parse(value, self)
        except BadValueError as error:
            self.add_error(str(error))
            return None


Parser: TypeAlias = Callable[[object, Location], _T]


def check_table(value: object) -> Mapping[str, object]:
    """Return the value if it is a table.

    Raises:
        BadValueError: it is something else.
    """
    if not isinstance(value, dict):
        raise BadValueError(f"is {shown(value)}; write a table")
    return value


def integer(lowest: int, highest: int) -> Parser[int]:
    """Return a parser of integers from `lowest` to `highest`, both included."""
    return _integer(lowest, highest, f"an integer from {lowest} to {highest}")


def seconds(lowest: int, highest: int) -> Parser[int]:
    """Return a parser of whole seconds from `lowest` to `highest`, both included."""
    longest = f" ({format_duration(highest)})" if highest >= _MINUTE else ""
    parse_number = _integer(lowest, highest, f"a whole number of seconds from {lowest} to {highest}{longest}")

    def parse(value: object, location: Location) -> int:
        try:
            return parse_number(value, location)
        except BadValueError:
            number = _duration(value)
            if number is None or not lowest <= number <= highest or number != int(number):
                raise
            raise BadValueError(f"is {shown(value)}; write the number of seconds: {int(number)}") from None

    return parse


def _duration(value: object) -> float | None:
    """The seconds of a duration with units, such as `5m`. None: it is something else."""
    if isinstance(value, str) and not value.isdigit():
        with contextlib.suppress(BadValueError):
            return parse_duration(value.strip())
    return None


def _integer(lowest: int, highest: int, wanted: str) -> Parser[int]:
    def parse(value: object, location: Location) -> int:
        number = value
        if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
            number = int(value)
        if not isinstance(number, int) or isinstance(number, bool) or not lowest <= number <= highest:
            raise BadValueError(f"is {shown(value)}; write {wanted}")
        if location.typed and isinstance(value, str):
            raise BadValueError(f"is the text {shown(value)}; write {number} without quotes")
        return number

    return parse


def fraction(value: object, location: Location) -> float:
    """Parse a number between 0 and 1, both excluded."""
    number = _number(value, location)
    if number is None or not 0 < number < 1:
        raise BadValueError(f"is {shown(value)}; write a number between 0 and 1, such as 0.5")
    return number


def share(value: object, location: Location) -> float:
    """Parse a number from 0 to 1, both included."""
    number = _number(value, location)
    if number is None or not 0 <= number <= 1:
        raise BadValueError(f"is {shown(value)}; write a number from 0 to 1, such as 0.01")
    return number


def _number(value: object, location: Location) -> float | None:
    if isinstance(value, str) and not location.typed:
        with contextlib.suppress(ValueError):
            return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class OneOf:
    """Parser of one of several words.

    Args:
        names: the words.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._wanted = f"one of {', '.join(names)}" if len(names) > 1 else names[0]

    def __call__(self, value: object, _location: Location) -> str:
        """Return the word."""
        word = _string(value, self._wanted)
        if word not in self.names:
            raise BadValueError(f"is {shown(value)}; write {self._wanted}")
        return word


def one_of(*names: str) -> Parser[str]:
    """Return a parser of one of these words."""
    return OneOf(names)


def text(parse_text: Callable[[str], _T], wanted: str) -> Parser[_T]:
    """Return a parser of text.

    Args:
        parse_text: converts the text, or raises `BadValueError`.
        wanted: the expected form, for errors.
    """

    def parse(value: object, _location: Location) -> _T:
        return parse_text(_string(value, wanted))

    return parse


def path(value: object, location: Location) -> str:
    """Parse a file's path and make it absolute. The file need not exist."""
    written = _string(value, "the path of a file")
    try:
        absolute = str(Path(location.directory, written).absolute())
    except OSError:
        raise BadValueError(f"{shown(value)} is relative, and the working directory does not exist") from None
    return _string(absolute, "the path of a file")


def path_or_none(value: object, location: Location) -> str | None:
    """Parse a file's path, or `none`; write `./none` for a file with that name."""
    return None if value == "none" else path(value, location)


def socket_path_or_none(value: object, location: Location) -> str | None:
    """Parse the path of a Unix socket, or `none`."""
    parsed = path_or_none(value, location)
    if parsed is not None and (length := len(os.fsencode(parsed))) > _MAX_SOCKET_PATH:
        raise BadValueError(
            f"is {shown(parsed)}, which has {length} bytes; write the path of a socket, of at most "
            f"{_MAX_SOCKET_PATH} bytes"
        )
    return parsed


def boolean(value: object, location: Location) -> bool:
    """Parse a boolean; in text it is 1, true, yes, on, 0, false, no or off."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) and not location.typed else None
    if word not in _YES | _NO:
        raise BadValueError(
            f"is {shown(value)}; write true or false{', without quotes' if location.typed else ''}"
        )
    return word in _YES


def shown(value: object) -> str:
    """Return a wrong value as errors show it, shortened to a bounded length."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case int() if value.bit_length() > _MAX_SHOWN_BITS:
            return "a very large number"
        case str():
            return repr(value if len(value) <= _MAX_SHOWN else value[:_MAX_SHOWN] + "…")
        case _:
            return str(value)


def _string(value: object, wanted: str) -> str:
    if not isinstance(value, str):
        raise BadValueError(f"is {shown(value)}; write {wanted} in quotes")
    if not value.strip():
        raise BadValueError(f"is empty; write {wanted}")
    # Python represents bytes of an argument that are not UTF-8 as lone surrogates (PEP 383).
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise BadValueError(f"is {shown(value)}; it has a zero byte or is not UTF-8")
    return value.strip()


# -- single settings ------------------------------------------------------------------------------------


def parse_listen_address(written: str) -> HostPort:
    """Parse a DNS address."""
    return parse_listen(written, default_port=DNS_PORT)


def parse_tls_address(written: str) -> HostPort:
    """Parse an address for DNS over TLS."""
    return parse_listen(written, default_port=DNS_TLS_PORT)


def parse_admin_address(written: str) -> HostPort | None:
    """Parse an HTTP address; `none` becomes None."""
    return None if written == "none" else parse_listen(written, default_port=ADMIN_PORT)


def parse_admin_name(written: str) -> str:
    """Parse a host name and return it in lower case."""
    name = to_text(lower(parse_name(written)))
    if not name:
        raise BadValueError(f"{written!r} is the root; write a host name, such as dns1.example.com")
    return name


def parse_domain(written: str) -> str:
    """Parse a domain and return it in lower case."""
    name = to_text(lower(parse_name(written)))
    if not name:
        raise BadValueError(f"{written!r} is the root; write a domain, such as corp.example")
    return name


def parse_zone(written: str) -> Labels:
    """Parse a zone. Other bytes are legal in names, but in the name of a zone they are a typing error."""
    zone = lower(parse_name(written))
    if not zone:
        raise BadValueError(f"{written!r} is the root; a zone has at least one label, such as discovery")
    if not all(_ZONE_BYTES.issuperset(label) for label in zone):
        raise BadValueError(
            f"{written!r} is not a zone; write letters, digits, hyphens and underscores between dots"
        )
    return zone


def parse_upstream_or_word(written: str) -> UpstreamAddress | str:
    """Parse an upstream, or one of the words `auto` and `none`."""
    return written if written in {"auto", "none"} else parse_upstream(written)


def parse_zone_upstream(written: str) -> UpstreamAddress | str:
    """Parse an upstream of a forward zone, or `none`."""
    if written == "auto":
        raise BadValueError("is 'auto', which only forward.upstreams accepts; write addresses or none")
    return parse_upstream_or_word(written)


def join_upstreams(given: tuple[UpstreamAddress | str, ...]) -> UpstreamsSetting:
    """Return the addresses, or the value of `auto` or `none`."""
    addresses = tuple(one for one in given if isinstance(one, UpstreamAddress))
    if len(addresses) == len(given):
        return addresses
    (word, *_) = (one for one in given if isinstance(one, str))
    if len(given) > 1:
        raise BadValueError(f"has {word} together with other values; write {word} alone")
    return "auto" if word == "auto" else ()


def parse_cookie_secret(value: object, location: Location) -> bytes:
    """Parse 16 bytes; the error does not show the value."""
    if isinstance(value, str) and _COOKIE_SECRET.fullmatch(value.strip()):
        return bytes.fromhex(value)
    quotes = " in quotes" if location.typed else ""
    raise BadValueError(f"is not a secret; write 32 hexadecimal digits{quotes} (the value is not shown)")


def parse_tsig_secret(value: object, location: Location) -> bytes:
    """Parse the secret of a TSIG key in base64; the error does not show the value."""
    with contextlib.suppress(ValueError):
        if isinstance(value, str) and (secret := base64.b64decode(value.strip(), validate=True)):
            return secret
    quotes = " in quotes" if location.typed else ""
    raise BadValueError(
        f"is not a secret; write base64{quotes}, such as the output of `openssl rand -base64 32` "
        "(the value is not shown)"
    )


def parse_notify_target(written: str) -> NotifyTarget:
    """Parse the address of a secondary: `ADDRESS[:PORT][#KEY]`."""
    before, has_key, key = written.partition("#")
    address = parse_upstream(before)
    if address.is_stream:
        raise BadValueError(f"{written!r} has a scheme; NOTIFY is sent over UDP: write ADDRESS[:PORT][#KEY]")
    return NotifyTarget(HostPort(address.host, address.port), parse_domain(key) if has_key else None)


def parse_identity(written: str) -> str:
    """Parse the server's name."""
    if len(written.encode()) > MAX_IDENTITY or not written.isprintable():
        raise BadValueError(f"is {shown(written)}; write a name of up to {MAX_IDENTITY} bytes in one line")
    return written
