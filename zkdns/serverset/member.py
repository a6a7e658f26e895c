"""Members of a server set, and their encoding as JSON, as go.serversets, Finagle and Aurora write it.

Reading is tolerant, because other programs write members differently: a port may be "80",
additionalEndpoints may be null, a byte-order mark may come first, and the thrift encoding of old twitter
commons is accepted. An invalid optional field is ignored alone. An invalid required field rejects the member
alone, and the rest of its set stays. Writing is strict: compact, with the fields in the order that old
readers expect.

There are two decoders. The strict one accepts exactly the fields and types that those three write, and takes
a fifth of the time, which matters because a server may read a hundred thousand members when it starts. If it
fails, or the member exceeds a limit, the tolerant one decodes the member again. The two agree on every member
that the strict one accepts.
"""

from __future__ import annotations

import enum
import ipaddress
import itertools
import re
import socket
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Final, Never, NoReturn, TypeAlias

import msgspec

from zkdns.address import MAX_PORT, HostPort, unusable_address
from zkdns.errors import BadMemberError, BadValueError
from zkdns.namespace import MEMBER_PREFIX
from zkdns.serverset.thrift import STRUCT, read_instance

_FIRST_MULTICAST = 224  # the first byte of IPv4 multicast addresses; reserved addresses follow
_BOM = b"\xef\xbb\xbf"
# The characters that Go's encoding/json escapes. In JSON they occur in strings only.
_ESCAPED_BY_GO = tuple((chr(code).encode(), f"\\u{code:04x}".encode()) for code in (*b"<>&", 0x2028, 0x2029))
_SEQUENCE = re.compile(r"-?[0-9]{1,10}")  # an int32, as ZooKeeper writes it: %010d
_SEQUENCE_AT_END = re.compile(r"(?<=.)[0-9]{10}\Z", re.DOTALL)  # after a prefix
_MIN_SHARD, _MAX_SHARD = -(2**31), 2**31 - 1

MAX_ADDITIONAL = 100
"""Maximum number of additional endpoints of a member; readers ignore any others.

Programs have a handful. Each one may be a host with names of its own, which a name server must keep.
"""
MAX_DATA = 64 << 10
"""Maximum bytes of a member's data. Of larger JSON, readers use no metadata and no long endpoint names.

Most members have some hundred bytes. All members of all services are kept in memory, in each worker too, and
ZooKeeper itself accepts 1 MB.
"""
_MAX_ENDPOINT_NAME = 255  # in data above `MAX_DATA`; no longer name can be part of a domain name

# RFC 1123 §2.1, and underscores. The last label is not a number, also not a hexadecimal one: inet_aton, and
# with it most resolvers, would read such a name as an IPv4 address.
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[A-Za-z0-9_-]{1,63}\.)*(?!(?:[0-9]+|0[xX][0-9A-Fa-f]*)\Z)[A-Za-z0-9_-]{1,63}"
)


class Status(enum.StrEnum):
    """A member's status. The order is that of thrift's enumeration in old twitter commons."""

    DEAD = "DEAD"
    STARTING = "STARTING"
    ALIVE = "ALIVE"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    WARNING = "WARNING"
    UNKNOWN = "UNKNOWN"


_STATUS_BY_NUMBER = dict(enumerate(Status))


class _EmptyDict(dict[str, Never]):
    """An immutable empty dictionary. All members share it, which saves 64 bytes for each."""

    def __setitem__(self, key: str, value: Never) -> NoReturn:
        raise TypeError("this dictionary is shared by all members and cannot be changed")

    setdefault = update = __ior__ = __setitem__  # type: ignore[assignment]


_EMPTY: Final = _EmptyDict()


# gc=False: neither struct can be part of a reference cycle. Without it, a hundred thousand members would cost
# 0.1 s at each garbage collection.
class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A host and port, such as `Endpoint("10.0.0.1", 8080)`.

    `host` is an IP address in canonical form, or a host name. `inet` and `inet6` are the addresses that
    twitter.common's Python writes in addition to a host name.
    """

    host: str
    port: int
    inet: str | None = None
    inet6: str | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The IP addresses that are known without a DNS lookup."""
        if is_ip(self.host):
            return (self.host,)
        return tuple(address for address in (self.inet, self.inet6) if address)


class Member(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A member of a server set, as in `Watch.members`.

        for member in web.watch().members:
            print(member.name, member.service, member.shard)

    `name` is the znode's name (`member_0000000318`; `m0` in a fixed set or static file). `service` is None if
    the member registered port 0, so that only its additional endpoints can be reached.
    """

    name: str
    service: Endpoint | None
    additional: Mapping[str, Endpoint] = _EMPTY
    status: Status = Status.ALIVE
    shard: int | None = None
    metadata: Mapping[str, str] = _EMPTY
    weight: float = 1.0
    """The share of requests relative to the other members, from the set's `vector_` znodes.

    0 drains the member: it is answered only if there is no other. A member with a negative weight is not
    answered.
    """
    written: str | None = None
    """`host:port` of the service as its writer spelled it, if that differs from `service`. None: it does not.

    Consistent hashing as in go.serversets depends on this spelling.
    """

    def is_served(self, statuses: Collection[str]) -> bool:
        """Whether the member is part of answers. `statuses` are the statuses of members that are served."""
        return self.status in statuses and self.weight >= 0

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints, the service endpoint first."""
        own = (self.service,) if self.service else ()
        return (*own, *self.additional.values()) if self.additional else own

    @property
    def addresses(self) -> tuple[str, ...]:
        """The IP addresses of the member's own host that are known without a DNS lookup."""
        own = self.service or next(iter(self.additional.values()), None)
        return own.addresses if own else ()

    @property
    def sequence(self) -> int | None:
        """The znode's sequence number. None: the name has none.

        With another prefix than `member_`, these are the last ten digits of the name.
        """
        if self.name.startswith(MEMBER_PREFIX):
            found = _SEQUENCE.fullmatch(self.name, len(MEMBER_PREFIX))
        else:
            found = _SEQUENCE_AT_END.search(self.name)
        return int(found[0]) if found else None


def is_ip(host: str) -> bool:
    """Whether a host, in the form that `canonical_host` returns, is an IP address.

    The spelling shows it: a host name has no colon, and its last label is not a number.
    """
    return ":" in host or host.rpartition(".")[2].isdigit()


def canonical_host(text: str) -> str:
    """Return an IP address in canonical form (without brackets, mapped IPv4 as IPv4), or a host name.

    Raises:
        BadValueError: the text is neither, or an address that no client can connect to. A numeric text that
            is not an address (`10.0.0`, `0x7f000001`) is rejected: it cannot be a host name (RFC 1123 §2.1),
            and resolvers would read it as an unintended address.
    """
    if (text[-1:].isdigit() and _is_unicast_ipv4(text)) or _HOST_NAME.fullmatch(text):
        return text
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        name = text.removesuffix(".")
        if _HOST_NAME.fullmatch(name):
            return name
        raise BadValueError(f"host {text!r} is neither an IP address nor a host name") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            raise BadValueError(f"host {text!r} has a scope, which no DNS record can carry")
        address = address.ipv4_mapped or address
    if (reason := unusable_address(address)) is not None:
        raise BadValueError(f"host {text!r} is {reason}, which no client can connect to")
    return str(address)


def _is_unicast_ipv4(text: str) -> bool:
    """Whether the text is an IPv4 address of classes A to C, without leading zeros (two spellings)."""
    try:
        packed = socket.inet_pton(socket.AF_INET, text)  # six times faster than the module ipaddress
    except (OSError, ValueError):  # ValueError: a NUL or a lone surrogate
        return False
    return 0 < packed[0] < _FIRST_MULTICAST


_Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_PORT)]
_Shard: TypeAlias = Annotated[int, msgspec.Meta(ge=_MIN_SHARD, le=_MAX_SHARD)]


class _StrictEndpoint(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    host: str
    port: _Port


class _StrictMember(msgspec.Struct, gc=False, forbid_unknown_fields=True, rename="camel"):
    """A member with exactly the usual fields.

    Unknown fields are an error, so that the tolerant decoder decides. If this decoder skipped them, it would
    also accept invalid JSON in them.
    """

    service_endpoint: _StrictEndpoint
    status: Status
    additional_endpoints: dict[str, _StrictEndpoint] | None = None
    shard: _Shard | None = None
    metadata: dict[str, str] | None = None


_STRICT_DECODER = msgspec.json.Decoder(_StrictMember)


OnIgnored: TypeAlias = Callable[[str, str], object]
"""Called with the name of an optional field that is ignored, and why.

For what exceeds a limit, the name is `too_many_endpoints` or `too_large`.
"""


def decode_member(name: str, data: bytes, on_ignored: OnIgnored = lambda _field, _why: None) -> Member:
    """Decode the data of a member's znode.

    Args:
        name: the znode's name.
        data: JSON in any known dialect, or thrift.
        on_ignored: called for each optional field that is invalid or exceeds `MAX_ADDITIONAL` or `MAX_DATA`,
            which does not affect the rest of the member.

    Raises:
        BadMemberError: its reason is `empty`, `thrift`, `too_large`, `json`, `host`, `port` or `status`.
    """
    try:
        strict = _STRICT_DECODER.decode(data)
        service, additional = strict.service_endpoint, strict.additional_endpoints
        if len(data) > MAX_DATA or (additional and len(additional) > MAX_ADDITIONAL):
            return decode_tolerantly(name, data, on_ignored)
        host = canonical_host(service.host)
        return Member(
            name,
            Endpoint(host, service.port),
            _strict_endpoints(additional) if additional else _EMPTY,
            strict.status,
            strict.shard,
            strict.metadata or _EMPTY,
            written=None if host == service.host else str(HostPort(service.host, service.port)),
        )
    except (msgspec.DecodeError, UnicodeDecodeError, BadValueError):
        return decode_tolerantly(name, data, on_ignored)


def _strict_endpoints(written: dict[str, _StrictEndpoint]) -> dict[str, Endpoint]:
    return {name: Endpoint(canonical_host(each.host), each.port) for name, each in written.items()}


def decode_tolerantly(name: str, data: bytes, on_ignored: OnIgnored = lambda _field, _why: None) -> Member:
    """Decode as `decode_member`, without its fast path for members with exactly the usual fields.

    Raises:
        BadMemberError: as in `decode_member`.
    """
    payload = data.removeprefix(_BOM)
    if not payload.strip():
        raise BadMemberError("empty", "it has no data")
    is_too_large = len(data) > MAX_DATA
    fields = _thrift_fields(payload) if payload[0] == STRUCT else _json_object(payload)
    max_name = _MAX_ENDPOINT_NAME if is_too_large else MAX_DATA
    additional = _additional(fields.get("additionalEndpoints"), max_name, on_ignored)
    if is_too_large and fields.pop("metadata", None):
        on_ignored(
            "too_large", f"its data has {len(data)} bytes; metadata is ignored if there are over {MAX_DATA}"
        )
    service = _service_endpoint(fields.get("serviceEndpoint"), on_ignored, is_optional=bool(additional))
    return Member(
        name=name,
        service=service,
        additional=additional or _EMPTY,
        status=_status(fields.get("status")),
        shard=_shard(fields.get("shard"), on_ignored),
        metadata=_metadata(fields.get("metadata"), on_ignored) or _EMPTY,
        written=_written(fields.get("serviceEndpoint"), service),
    )


def _thrift_fields(payload: bytes) -> dict[str, object]:
    if len(payload) > MAX_DATA:  # unlike JSON, it is decoded in Python, which takes long
        raise BadMemberError("too_large", f"it has {len(payload)} bytes of thrift; {MAX_DATA} are accepted")
    return read_instance(payload)


def _json_object(payload: bytes) -> dict[str, object]:
    try:
        fields = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMemberError("json", f"its data is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadMemberError("json", "its data is not a JSON object")
    return fields


def encode_member(member: Member) -> bytes:
    """Encode a member as JSON, byte for byte as go.serversets and Finagle write it.

    As in Go, map keys are sorted, and characters with a meaning in HTML or JavaScript are escaped.
    """
    record: dict[str, object] = {
        "serviceEndpoint": _endpoint_fields(member.service),
        "additionalEndpoints": {
            name: _endpoint_fields(endpoint) for name, endpoint in sorted(member.additional.items())
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


def _endpoint_fields(endpoint: Endpoint | None) -> dict[str, object]:
    return {"host": endpoint.host, "port": endpoint.port} if endpoint else {"host": "", "port": 0}


def _service_endpoint(value: object, on_ignored: OnIgnored, *, is_optional: bool) -> Endpoint | None:
    """The service endpoint. None: port 0, or only additional endpoints."""
    if value is None:
        if is_optional:
            return None
        raise BadMemberError("host", "it has no serviceEndpoint")
    if isinstance(value, dict) and _integer(value.get("port")) == 0:
        return None
    return _endpoint("serviceEndpoint", value, on_ignored)


def _written(value: object, service: Endpoint | None) -> str | None:
    """The spelling of a valid service endpoint in the data. None: that of `service`."""
    host = value.get("host") if isinstance(value, dict) else None
    if service is None or not isinstance(host, str) or host == service.host:
        return None
    return str(HostPort(host, service.port))


def _endpoint(where: str, value: object, on_ignored: OnIgnored) -> Endpoint:
    if not isinstance(value, dict):
        raise BadMemberError("host", f"{where} is not an object with host and port")
    host, port = value.get("host"), _integer(value.get("port"))
    if not isinstance(host, str) or not host:
        raise BadMemberError("host", f"{where} has no host")
    if port is None or not 1 <= port <= MAX_PORT:
        raise BadMemberError("port", f"{where} has the port {value.get('port')!r}; a port is 1 to {MAX_PORT}")
    try:
        return Endpoint(
            canonical_host(host),
            port,
            _address(f"{where}.inet", value.get("inet"), 4, on_ignored),
            _address(f"{where}.inet6", value.get("inet6"), 6, on_ignored),
        )
    except BadValueError as error:
        raise BadMemberError("host", f"{where}: {error}") from None


def _address(where: str, value: object, version: int, on_ignored: OnIgnored) -> str | None:
    """An `inet` or `inet6` field."""
    if value is None:
        return None
    try:
        address = ipaddress.ip_address(value) if isinstance(value, str) else None
    except ValueError:
        address = None
    if address is None or address.version != version or getattr(address, "scope_id", None):
        on_ignored("inet", f"{where} is {value!r}, which is not an IPv{version} address")
        return None
    if (reason := unusable_address(address)) is not None:
        on_ignored("inet", f"{where} is {value!r}, {reason}, which no client can connect to")
        return None
    return str(address)


def _additional(value: object, max_name: int, on_ignored: OnIgnored) -> dict[str, Endpoint]:
    """The first named endpoints, with names of at most `max_name` characters.

    null counts as none, and so does port 0.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        on_ignored("additionalEndpoints", "additionalEndpoints is not an object")
        return {}
    if len(value) > MAX_ADDITIONAL:
        text = f"additionalEndpoints has {len(value)} entries; only the first {MAX_ADDITIONAL} are used"
        on_ignored("too_many_endpoints", text)
    found = {}
    for name, endpoint in itertools.islice(value.items(), MAX_ADDITIONAL):
        if len(name) > max_name:
            text = (
                f"the name of an additional endpoint has {len(name)} characters; at most {max_name} are used"
            )
            on_ignored("too_large", text)
            continue
        if isinstance(endpoint, dict) and _integer(endpoint.get("port")) == 0:
            continue
        try:
            found[name] = _endpoint(f"additionalEndpoints.{name}", endpoint, on_ignored)
        except BadMemberError as error:
            on_ignored("additionalEndpoints", str(error))
    return found


def _status(value: object) -> Status:
    if isinstance(value, str) and value.upper() in Status.__members__:
        return Status(value.upper())
    number = _integer(value) if not isinstance(value, str) else None
    if number is not None and number in _STATUS_BY_NUMBER:
        return _STATUS_BY_NUMBER[number]
    raise BadMemberError("status", f"it has the status {value!r}; one of {', '.join(Status)}")


def _shard(value: object, on_ignored: OnIgnored) -> int | None:
    if value is None:
        return None
    number = _integer(value)
    if number is None or not _MIN_SHARD <= number <= _MAX_SHARD:
        on_ignored("shard", f"it has the shard {value!r}; a shard is a 32-bit integer")
        return None
    return number


def _metadata(value: object, on_ignored: OnIgnored) -> dict[str, str]:
    """The metadata, without values that are not text."""
    if value is None:
        return {}
    texts = (
        {key: text for key, text in value.items() if isinstance(text, str)} if isinstance(value, dict) else {}
    )
    if not isinstance(value, dict) or len(texts) < len(value):
        on_ignored("metadata", "metadata is not an object of texts")
    return texts


def _integer(value: object) -> int | None:
    """An integer, a string of digits or a float without a fraction, as int. None: anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) <= len("-2147483648") and _SEQUENCE.fullmatch(value):
        return int(value)
    return None
