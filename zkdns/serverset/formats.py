"""Recognizes the registration formats of other programs, by the name of a znode or by its data.

zkdns reads server sets only. A child of a service's znode that is no member was often written by a program
that registers in another format; its name tells an operator where to look.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from zkdns.errors import BadValueError
from zkdns.escape import printable
from zkdns.namespace import parse_member_prefix

SERVER_SET: Final = "server set"
"""The data of a member. The name of its znode has another prefix than the namespace's."""

_CURATOR = "Apache Curator x-discovery"
_DUBBO2 = "Dubbo 2.x, interface level"
_HOST_PORT = "host:port"

_MAX_DATA = 1 << 16  # bytes; registrations are much smaller, and the decoding of more would take milliseconds
_MAX_NAMES = 3
_MAX_NAME = 40  # characters of a name in a text for people
_NUMBER = re.compile(r"[0-9]{1,10}\Z")

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?:[0-9]{10})?")
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}")

# Names that only one format has. The patterns are anchored at both ends and take linear time.
_BY_NAME: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[A-Za-z0-9.+-]{1,32}%3[Aa]%2[Ff]%2[Ff].*", re.DOTALL), _DUBBO2),
    (re.compile(r"providers|configurators"), _DUBBO2),  # the level above the registrations
    (re.compile(r"serverUri=.*", re.DOTALL), "HiveServer2"),
    (re.compile(r"[A-Za-z0-9._-]{1,253},[0-9]{1,5},[0-9]{10,16}"), "HBase"),
    (re.compile(r"[0-9a-f]{32}-.*", re.DOTALL), "Pinterest kingpin"),
    (re.compile(r"base64_[0-9]+_[A-Za-z0-9_=-]*_[0-9]{10}"), "nerve"),
    (re.compile(_ADDRESS.pattern + r"_.*", re.DOTALL), "Solr"),
)
# Names that several formats share. The data decides; these are the formats if there is none.
_BY_NAME_ALONE = ((_ADDRESS, _HOST_PORT), (_UUID, _CURATOR))

_THRIFT_MEMBER = b"\x0c\x00\x01\x0b\x00\x01"  # a struct that begins with a struct that begins with a text
_SPRING_PACKAGE = "org.springframework.cloud.zookeeper."
_DUBBO_PACKAGE = "org.apache.dubbo."


def guess_format(name: str, data: bytes | None = None) -> str | None:
    """The format of a znode that is no member, such as `nerve` or `Kafka`. None: it is unknown.

    Args:
        name: the znode's name.
        data: the znode's data. None: unknown, so that the name alone decides.
    """
    for pattern, found in _BY_NAME:
        if pattern.fullmatch(name):
            return found
    if data is not None and (by_data := _guess_by_data(data)) is not None:
        return by_data
    return next((found for pattern, found in _BY_NAME_ALONE if pattern.fullmatch(name)), None)


def guess_common_format(children: Mapping[str, bytes | None]) -> str | None:
    """The first format that is recognized among some children: data by name, as in `guess_format`."""
    return next(filter(None, (guess_format(name, data) for name, data in children.items())), None)


def describe_format(found: str | None, examples: Iterable[str]) -> str:
    """A format as text, with the setting that lets zkdns read it if there is one. Empty: unknown.

    Args:
        found: as returned by `guess_format`.
        examples: names of children in this format.
    """
    if found != SERVER_SET:
        return found or ""
    prefixes = set(filter(None, map(_prefix_of, examples)))
    if len(prefixes) != 1:
        return found
    return f"{found} with member_prefix = {shorten_name(prefixes.pop())!r}"


def _prefix_of(name: str) -> str | None:
    """A member prefix with which a name is that of a member. None: the name has no number, or is unique."""
    number = _NUMBER.search(name)
    if number is None or any(pattern.fullmatch(name) for pattern, _ in _BY_NAME_ALONE):
        return None
    try:
        return parse_member_prefix(name[: number.start()])
    except BadValueError:
        return None


def describe_names(examples: Sequence[str], count: int) -> str:
    """A few names as text: `a, b, c and 7 more`. They are shortened, and unprintable characters are escaped.

    Args:
        examples: some of the names.
        count: the number of all names.
    """
    shown = examples[:_MAX_NAMES]
    if not shown:
        return "names omitted"
    text = ", ".join(map(shorten_name, shown))
    more = count - len(shown)
    return f"{text} and {more} more" if more > 0 else text


def shorten_name(name: str) -> str:
    """A znode's name for a text: unprintable characters are escaped, and the end of a long name is left out.

    Names may contain sequences that a terminal would execute, and those of Dubbo have hundreds of characters.
    """
    text = printable(name[: _MAX_NAME + 1])
    return text if len(text) <= _MAX_NAME else f"{text[: _MAX_NAME - 1]}…"


def _guess_by_data(data: bytes) -> str | None:
    if data.startswith(_THRIFT_MEMBER):  # its first byte counts as white space
        return SERVER_SET
    payload = data.removeprefix(b"\xef\xbb\xbf").strip()
    if not payload or len(payload) > _MAX_DATA:
        return None
    if not payload.startswith(b"{"):
        text = payload.decode("ascii", errors="replace")
        return _HOST_PORT if _ADDRESS.fullmatch(text) else None
    try:
        fields = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return next((found for is_format, found in _BY_FIELDS if is_format(fields)), None)


def _is_server_set(fields: Mapping[str, object]) -> bool:
    return "serviceEndpoint" in fields or "additionalEndpoints" in fields


def _has_payload_of(package: str) -> Callable[[Mapping[str, object]], bool]:
    """A test for instances of Curator with a payload of this Java package."""

    def test(fields: Mapping[str, object]) -> bool:
        payload = fields.get("payload")
        kind = payload.get("@class") if isinstance(payload, dict) else None
        return _is_curator(fields) and isinstance(kind, str) and kind.startswith(package)

    return test


def _is_curator(fields: Mapping[str, object]) -> bool:
    return fields.keys() >= {"name", "id", "address"} and not fields.keys().isdisjoint(
        {"serviceType", "uriSpec", "registrationTimeUTC"}
    )


def _is_kafka(fields: Mapping[str, object]) -> bool:
    return fields.keys() >= {"version", "host", "port"} and not fields.keys().isdisjoint(
        {"jmx_port", "endpoints"}
    )


def _is_registrar(fields: Mapping[str, object]) -> bool:
    kind = fields.get("type")
    return isinstance(kind, str) and isinstance(fields.get(kind), dict)


def _is_grpc(fields: Mapping[str, object]) -> bool:
    return fields.keys() == {"host", "port"} and isinstance(fields["port"], str)


def _is_nerve(fields: Mapping[str, object]) -> bool:
    return fields.keys() >= {"host", "port"}


_BY_FIELDS: tuple[tuple[Callable[[Mapping[str, object]], bool], str], ...] = (
    (_is_server_set, SERVER_SET),
    (_has_payload_of(_SPRING_PACKAGE), "Spring Cloud Zookeeper"),
    (_has_payload_of(_DUBBO_PACKAGE), "Dubbo 3, application level"),
    (_is_curator, _CURATOR),
    (_is_kafka, "Kafka"),
    (_is_registrar, "Triton registrar"),
    (_is_grpc, "grpc"),
    (_is_nerve, "nerve"),
)
"""Tests of JSON objects. The first one that holds decides, so special formats come before general ones."""
