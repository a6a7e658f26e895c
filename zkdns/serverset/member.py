"""A member of a server set, and the JSON that go.serversets, Finagle and Aurora write for it.

Reading is generous (a port may be "80", additionalEndpoints may be null, a byte-order mark may lead, old
twitter commons' thrift is understood), since a member that somebody else registered has to be found; what
cannot be used is refused member by member, so that the rest of its set stands. Writing is strict: compact,
in the order that the old readers expect.

What is written as those three write it is read by a typed decoder, in a fifth of the time: at the start a
hundred thousand members are. It knows exactly their fields and types; anything else, however slight, goes to
the generous reader, so that the two never disagree.
"""

from __future__ import annotations

import enum
import ipaddress
import re
import socket
from collections.abc import Collection, Mapping
from typing import Annotated, Final, Never, NoReturn, TypeAlias

import msgspec

from zkdns.address import MAX_PORT
from zkdns.errors import BadMemberError, BadValueError
from zkdns.names import MAX_NAME, parse_name
from zkdns.serverset.thrift import STRUCT, read_instance

MEMBER_PREFIX: Final = "member_"

_BOM = b"\xef\xbb\xbf"
# encoding/json's default; outside of strings none of them occurs in JSON
_ESCAPED_BY_GO = tuple((chr(code).encode(), f"\\u{code:04x}".encode()) for code in (*b"<>&", 0x2028, 0x2029))
_SEQUENCE = re.compile(r"-?[0-9]{1,10}")  # an int32, as ZooKeeper writes it: %010d
_MIN_SHARD, _MAX_SHARD = -(2**31), 2**31 - 1

# What is a host name without further thought: no escapes, its last label no number (RFC 1123 §2.1).
_PLAIN_NAME = re.compile(r"(?=.{1,253}\Z)(?:[A-Za-z0-9_-]{1,63}\.)*(?![0-9]+\Z)[A-Za-z0-9_-]{1,63}")


class Status(enum.StrEnum):
    """What a member says of itself; the order is thrift's enumeration in old twitter commons."""

    DEAD = "DEAD"
    STARTING = "STARTING"
    ALIVE = "ALIVE"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    WARNING = "WARNING"
    UNKNOWN = "UNKNOWN"


_STATUS_BY_NUMBER = dict(enumerate(Status))


class _Nothing(dict[str, Never]):
    """An empty dictionary that stays empty, so that all members may have the same one: it takes 64 bytes."""

    def __setitem__(self, key: str, value: Never) -> NoReturn:
        raise TypeError("what members share cannot be changed")

    setdefault = update = __ior__ = __setitem__  # type: ignore[assignment]


_NOTHING: Final = _Nothing()


# Neither of the two can be part of a cycle, so the collector of cycles need not look at them: a hundred
# thousand members would cost it 0.1 s each time.
class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Where something listens.

    `host` is an IP address in canonical form or a host name; `inet` and `inet6` are addresses that
    twitter.common's Python writes beside a host name.
    """

    host: str
    port: int
    inet: str | None = None
    inet6: str | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The IP addresses that are known without resolving anything."""
        if is_ip(self.host):
            return (self.host,)
        return tuple(address for address in (self.inet, self.inet6) if address)


class Member(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One member, as its znode's data says.

    `name` is the znode's name (`member_0000000318`, in a fixed set `m0`). `service` is None where the member
    registered port 0, so that only its additional endpoints can be reached.
    """

    name: str
    service: Endpoint | None
    additional: Mapping[str, Endpoint] = _NOTHING
    status: Status = Status.ALIVE
    shard: int | None = None
    metadata: Mapping[str, str] = _NOTHING
    weight: float = 1.0
    """What the set's `vector_` znodes say: the share of requests, relative to the other members'.

    0 drains the member: it is not answered with while there is another. Below 0 it is not answered with at
    all, as though it were not there.
    """

    def is_served(self, statuses: Collection[str]) -> bool:
        """Whether it is answered with where members with these statuses are."""
        return self.status in statuses and self.weight >= 0

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints, the service's own first."""
        own = (self.service,) if self.service else ()
        return (*own, *self.additional.values()) if self.additional else own

    @property
    def addresses(self) -> tuple[str, ...]:
        """The IP addresses of its own host that are known without resolving anything."""
        own = self.service or next(iter(self.additional.values()), None)
        return own.addresses if own else ()

    @property
    def sequence(self) -> int | None:
        """The number that ZooKeeper gave the znode; None where the name has none."""
        digits = self.name.removeprefix(MEMBER_PREFIX)
        if self.name.startswith(MEMBER_PREFIX) and _SEQUENCE.fullmatch(digits):
            return int(digits)
        return None


def is_ip(host: str) -> bool:
    """Whether a host, as `canonical_host` returns it, is an IP address rather than a name.

    It shows in the spelling, since no host name has a colon, or a number for its last label.
    """
    return ":" in host or host.rpartition(".")[2].isdigit()


def canonical_host(text: str) -> str:
    """An IP address in canonical form (brackets dropped, a mapped IPv4 unwrapped), or a host name.

    Raises:
        BadValueError: neither of the two. What is numeric and no address (`10.0.0`) is refused: it cannot
            be a host name (RFC 1123 §2.1), and resolvers read it as something nobody meant.
    """
    if (text[-1:].isdigit() and _is_ipv4(text)) or _PLAIN_NAME.fullmatch(text):
        return text
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return _host_name(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            raise BadValueError(f"host {text!r} has a scope, which no record can carry")
        return str(address.ipv4_mapped or address)
    return str(address)


def _is_ipv4(text: str) -> bool:
    """Whether it is an IPv4 address; leading zeros, which would make two spellings, are none."""
    try:
        socket.inet_pton(socket.AF_INET, text)  # a sixth of what the module ipaddress takes
    except (OSError, ValueError):  # the latter: a NUL, half a surrogate
        return False
    return True


def _host_name(text: str) -> str:
    labels = parse_name(text)
    if not labels or len(text) >= MAX_NAME or not text.isascii() or not text.isprintable() or " " in text:
        raise BadValueError(f"host {text!r} is neither an IP address nor a host name")
    if labels[-1].isdigit() or set(text) & set("[]:/\\"):
        raise BadValueError(f"host {text!r} is neither an IP address nor a host name")
    return text.removesuffix(".")


_Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_PORT)]
_Shard: TypeAlias = Annotated[int, msgspec.Meta(ge=_MIN_SHARD, le=_MAX_SHARD)]


class _PlainEndpoint(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    host: str
    port: _Port


class _PlainMember(msgspec.Struct, gc=False, forbid_unknown_fields=True, rename="camel"):
    """A member as it is usually written.

    A field that is not known here sends the member to the other reader, which looks into it: a decoder that
    only skips it would take what is no JSON at all.
    """

    service_endpoint: _PlainEndpoint
    status: Status
    additional_endpoints: dict[str, _PlainEndpoint] | None = None
    shard: _Shard | None = None
    metadata: dict[str, str] | None = None


_PLAIN = msgspec.json.Decoder(_PlainMember)


def decode_member(name: str, data: bytes) -> Member:
    """Read a member's znode.

    Args:
        name: the znode's name.
        data: its data: JSON of whatever dialect, or thrift.

    Raises:
        BadMemberError: its reason is `empty`, `thrift`, `json`, `host`, `port`, `status`, `shard` or `field`.
    """
    try:
        plain = _PLAIN.decode(data)
        service, additional = plain.service_endpoint, plain.additional_endpoints
        return Member(
            name,
            Endpoint(canonical_host(service.host), service.port),
            _plain_endpoints(additional) if additional else _NOTHING,
            plain.status,
            plain.shard,
            plain.metadata or _NOTHING,
        )
    except (msgspec.DecodeError, UnicodeDecodeError, BadValueError):
        return _decode_generously(name, data)


def _plain_endpoints(written: dict[str, _PlainEndpoint]) -> dict[str, Endpoint]:
    return {name: Endpoint(canonical_host(each.host), each.port) for name, each in written.items()}


def _decode_generously(name: str, data: bytes) -> Member:
    payload = data.removeprefix(_BOM)
    if not payload.strip():
        raise BadMemberError("empty", "it has no data")
    fields = read_instance(payload) if payload[0] == STRUCT else _json_object(payload)
    return Member(
        name=name,
        service=_service_endpoint(fields.get("serviceEndpoint")),
        additional=_additional(fields.get("additionalEndpoints")) or _NOTHING,
        status=_status(fields.get("status")),
        shard=_shard(fields.get("shard")),
        metadata=_metadata(fields.get("metadata")) or _NOTHING,
    )


def _json_object(payload: bytes) -> dict[str, object]:
    try:
        fields = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMemberError("json", f"its data is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadMemberError("json", "its data is not a JSON object")
    return fields


def encode_member(member: Member) -> bytes:
    """The member's JSON, byte for byte as go.serversets and Finagle write it.

    As Go writes it, that is: keys of maps in order, and escaped what HTML or JavaScript could mistake.
    """
    record: dict[str, object] = {
        "serviceEndpoint": _plain(member.service),
        "additionalEndpoints": {
            name: _plain(endpoint) for name, endpoint in sorted(member.additional.items())
        },
        "status": member.status.value,
    }
    if member.shard is not None:
        record["shard"] = member.shard
    if member.metadata:
        record["metadata"] = dict(sorted(member.metadata.items()))
    data = msgspec.json.encode(record)
    for raw, escaped in _ESCAPED_BY_GO:
        data = data.replace(raw, escaped)
    return data


def _plain(endpoint: Endpoint | None) -> dict[str, object]:
    return {"host": endpoint.host, "port": endpoint.port} if endpoint else {"host": "", "port": 0}


def _service_endpoint(value: object) -> Endpoint | None:
    """The service's own endpoint; None for port 0, with which a member says that it has none."""
    if not isinstance(value, dict):
        raise BadMemberError("host", "it has no serviceEndpoint")
    if _integer(value.get("port")) == 0:
        return None
    return _endpoint("serviceEndpoint", value)


def _endpoint(where: str, value: object) -> Endpoint:
    if not isinstance(value, dict):
        raise BadMemberError("host", f"{where} is not an object with host and port")
    host, port = value.get("host"), _integer(value.get("port"))
    if not isinstance(host, str) or not host:
        raise BadMemberError("host", f"{where} has no host")
    if port is None or not 1 <= port <= MAX_PORT:
        raise BadMemberError("port", f"{where} has the port {value.get('port')!r}; a port is 1 to {MAX_PORT}")
    try:
        return Endpoint(
            canonical_host(host), port, _address(value.get("inet"), 4), _address(value.get("inet6"), 6)
        )
    except BadValueError as error:
        raise BadMemberError("host", f"{where}: {error}") from None


def _address(value: object, version: int) -> str | None:
    """An `inet` or `inet6` field; what is no address of that family is as good as absent."""
    try:
        address = ipaddress.ip_address(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return str(address) if address and address.version == version else None


def _additional(value: object) -> dict[str, Endpoint]:
    """The named endpoints; null counts as none, and one that cannot be used costs the member."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadMemberError("field", "additionalEndpoints is not an object")
    return {
        name: _endpoint(f"additionalEndpoints.{name}", endpoint)
        for name, endpoint in value.items()
        if not (isinstance(endpoint, dict) and _integer(endpoint.get("port")) == 0)
    }


def _status(value: object) -> Status:
    if isinstance(value, str) and value.upper() in Status.__members__:
        return Status(value.upper())
    number = _integer(value) if not isinstance(value, str) else None
    if number is not None and number in _STATUS_BY_NUMBER:
        return _STATUS_BY_NUMBER[number]
    raise BadMemberError("status", f"it has the status {value!r}; one of {', '.join(Status)}")


def _shard(value: object) -> int | None:
    if value is None:
        return None
    number = _integer(value)
    if number is None or not _MIN_SHARD <= number <= _MAX_SHARD:
        raise BadMemberError("shard", f"it has the shard {value!r}; a shard is a 32-bit integer")
    return number


def _metadata(value: object) -> dict[str, str]:
    """What callers attached; only text is kept, since nothing that is served depends on it."""
    if not isinstance(value, dict):
        return {}
    return {key: text for key, text in value.items() if isinstance(text, str)}


def _integer(value: object) -> int | None:
    """An integer, also as a string of digits or a float without a fraction; else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) <= len("-2147483648") and _SEQUENCE.fullmatch(value):
        return int(value)
    return None
