"""A server without sockets: members in, dnspython queries in, dnspython responses out."""

from __future__ import annotations

import functools
import gc
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest

from zkdns.address import parse_host_port
from zkdns.config import Config
from zkdns.dns.authority import Authority
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.forward_form import ForwardForm
from zkdns.dns.query_form import QueryForm
from zkdns.dns.responder import Absence, CacheableAnswer, EncodeResponse
from zkdns.names import Labels, parse_name, to_wire
from zkdns.namespace import Namespace, parse_namespace, split_name
from zkdns.serverset.changes import Change, HostResolved, SetChanged, SetDropped, SetPut
from zkdns.serverset.member import Endpoint, Member, Status, canonical_host
from zkdns.table import Table
from zkdns.transport.codecs import TcpCodec, UdpCodec
from zkdns.transport.contract import PerClientResponse

NAMESPACE = parse_namespace("/discovery/{environment}/{service}")
OPT_SIZE = 1232
LONGEST = 65535
CLIENT_ADDRESS = bytes((192, 0, 2, 1))


def endpoint(text: str, **addresses: str) -> Endpoint:
    """An endpoint from `host:port`; `inet` and `inet6` as twitter.common for Python writes them."""
    host_port = parse_host_port(text)
    return Endpoint(canonical_host(host_port.host), host_port.port, **addresses)


def member(number: int | str, service: str | Endpoint | None = None, **fields: Any) -> Member:
    """A member; `number` is its sequence number or its whole name, `additional` may hold `host:port`."""
    name = number if isinstance(number, str) else f"member_{number:010d}"
    additional = {
        key: endpoint(value) if isinstance(value, str) else value
        for key, value in fields.pop("additional", {}).items()
    }
    own = endpoint(service) if isinstance(service, str) else service
    return Member(name, own, additional=additional, status=Status(fields.pop("status", "ALIVE")), **fields)


def origin_of(name: str) -> str:
    """The znode path of the service with this name."""
    parsed = NAMESPACE.split_name(name)
    return NAMESPACE.path_of({"environment": parsed.scope, "service": parsed.service})


def put(
    name: str,
    members: Iterable[str | Member],
    origin: str | None = None,
    namespaces: Sequence[Namespace] = (NAMESPACE,),
) -> SetPut:
    """The change that sets a service's members; `host:port` becomes `m0`, `m1` … by its position."""
    made = [entry if isinstance(entry, Member) else member(at, entry) for at, entry in enumerate(members)]
    return SetPut(origin or origin_of(name), split_name(namespaces, name), tuple(made))


def many(count: int) -> list[str]:
    """This many endpoints on different hosts."""
    hosts = (f"10.{at >> 16 & 255}.{at >> 8 & 255}.{at & 255}" for at in range(1, count + 1))
    return [f"{host}:8080" for host in hosts]


def _raise(_query: bytes, error: Exception) -> None:
    raise error


class FailingResponder:
    """Raises an internal error for each query."""

    edns_options = EdnsOptions()

    def is_absent(self, name: Labels, like: Absence) -> bool:
        raise NotImplementedError

    def count_absent_labels(self, name: Labels, limit: int) -> int | None:
        raise NotImplementedError

    def with_serial(self, before: bytes, after: bytes) -> Iterator[bytes]:
        raise NotImplementedError

    def forward_name(self, form: ForwardForm, name: bytes) -> bytes | None:
        raise NotImplementedError

    def answer_member(self, form: QueryForm, name: bytes) -> tuple[Labels, bytes] | None:
        raise NotImplementedError

    def answer(self, query: bytes, *, stream: bool, encode: EncodeResponse) -> CacheableAnswer:  # noqa: ARG002 - the protocol's signature
        raise ZeroDivisionError(query)


class Server:
    """Table, zone and responder as in a worker.

    Args:
        sets: services and their members, as `put` takes them.
        seed: for the start of rotations.
        namespaces: the namespaces to serve; names without a zone belong to the first one.
        settings: settings of `Config`.
    """

    def __init__(
        self,
        sets: Mapping[str, Iterable[str | Member]] | None = None,
        *,
        seed: int = 1,
        namespaces: tuple[Namespace, ...] = (NAMESPACE,),
        **settings: Any,
    ) -> None:
        self.config = Config(listen=(), namespaces=namespaces, **settings)
        self.table = Table(with_addresses=self.config.reverse)
        self.authority = Authority(self.table, self.config, _raise, random.Random(seed))
        self.zone, self.responder = self.authority.zone, self.authority.responder
        self.authority.set_health(ready=True, stale=False)
        self.datagrams = self.authority.make_cache(UdpCodec, stream=False, max_bytes=1 << 25)
        self.streams = self.authority.make_cache(TcpCodec, stream=True, max_bytes=1 << 25)
        for name, members in (sets or {}).items():
            self.apply(put(name, members, namespaces=namespaces))

    def respond(self, message: bytes, *, stream: bool = False) -> bytes | None:
        """The response to a message as its transport would send it; None for no response."""
        if stream:
            response = self.for_address(next(self.streams[message[2:]]))
        else:
            response = self.for_address(next(self.datagrams[UdpCodec.key(message[2:])]))
            return UdpCodec.message(message, response) or None
        return message[:2] + response if response else None

    @staticmethod
    def for_address(response: bytes, address: bytes = CLIENT_ADDRESS) -> bytes:
        """The response for a client, if it is a per-client response."""
        return response.for_address(address) if isinstance(response, PerClientResponse) else response

    def apply(self, change: Change, now: float = 0.0) -> None:
        """Apply a change as a worker does."""
        self.authority.refresh(self.table.apply(change, now))

    def change(
        self, name: str, added: Iterable[Member] = (), removed: Iterable[str] = (), now: float = 0.0
    ) -> None:
        """Add and remove members."""
        self.apply(SetChanged(origin_of(name), tuple(added), tuple(removed)), now)

    def drop(self, name: str, now: float = 0.0) -> None:
        """Delete the service's znode."""
        self.apply(SetDropped(origin_of(name)), now)

    def resolve(self, host: str, *addresses: str) -> None:
        """Set the addresses of a host name."""
        self.apply(HostResolved(host, addresses))

    def expire(self, now: float) -> None:
        """Advance the time."""
        self.authority.refresh(self.table.expire(now))


def query(
    name: str | dns.name.Name,
    qtype: str = "A",
    *,
    qclass: str = "IN",
    edns: int | None = None,
    size: int = OPT_SIZE,
    do: bool = False,
    ednsflags: int = 0,
    options: Sequence[dns.edns.Option] = (),
    flags: int = dns.flags.RD,
    ident: int = 4711,
) -> dns.message.QueryMessage:
    """A query; `edns` is the version, None sends no OPT record."""
    message = dns.message.make_query(name, qtype, qclass, id=ident, flags=flags)
    if edns is not None:
        message.use_edns(edns, ednsflags | (dns.flags.DO if do else 0), size, options=list(options))
    return message


def encode_query(
    name: str | Labels,
    qtype: str = "A",
    *,
    edns: int | None = None,
    size: int = OPT_SIZE,
    do: bool = False,
    options: bytes = b"",
    flags: int = dns.flags.RD,
    ident: int = 4711,
) -> bytes:
    """The bytes of a `query`, with encoded options. Much faster than dnspython, for thousands of queries."""
    numbers = ident, flags, 1, 0, 0, edns is not None
    question = to_wire(parse_name(name) if isinstance(name, str) else name) + _number_of(qtype) + b"\0\1"
    opt = b""
    if edns is not None:
        fields = size, edns, do << 15, len(options)
        opt = b"\0\0\x29" + b"".join(field.to_bytes(2) for field in fields) + options
    return b"".join(number.to_bytes(2) for number in numbers) + question + opt


@functools.cache
def _number_of(qtype: str) -> bytes:
    return dns.rdatatype.from_text(qtype).to_bytes(2)


def random_case(name: str, rng: random.Random) -> str:
    """The name, each letter in upper or lower case."""
    return "".join(rng.choice((letter.lower(), letter.upper())) for letter in name)


def read(wire: bytes) -> dns.message.Message:
    """Parse a response strictly, with each record on its own, so that duplicates are found."""
    return dns.message.from_wire(wire, one_rr_per_rrset=True)


def ask(
    server: Server, name: str | dns.name.Name, qtype: str = "A", *, stream: bool = False, **how: Any
) -> Any:
    """Send a query and parse the response; check the rules that hold for every response.

    Returns Any, since a record's attributes depend on its type.
    """
    message = query(name, qtype, **how)
    wire = server.respond(message.to_wire(), stream=stream)
    assert wire is not None
    size = max(512, min(how.get("size", OPT_SIZE), 1232)) if how.get("edns") is not None else 512
    assert len(wire) <= (LONGEST if stream else size)
    response = read(wire)
    assert response.id == message.id
    assert response.flags & dns.flags.QR
    assert not response.flags & (dns.flags.RA | dns.flags.AD | dns.flags.CD | 0x0040)
    assert response.flags & dns.flags.RD == message.flags & dns.flags.RD
    assert list(map(str, response.question)) == list(map(str, message.question))
    assert (response.edns >= 0) == (message.edns >= 0)
    assert_records_once(response)
    return response


def count_answers(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that returns the number of answers that the responder has made from now on."""
    answer, count = server.responder.answer, 0

    def counting(query: bytes, *, stream: bool, encode: EncodeResponse) -> CacheableAnswer:
        nonlocal count
        count += 1
        return answer(query, stream=stream, encode=encode)

    monkeypatch.setattr(server.responder, "answer", counting)
    return lambda: count


def count_alive(kind: type) -> int:
    """The number of objects of this class in memory, and a constant: each has a reference to its class.

    The garbage collector does not list objects that it need not visit.
    """
    gc.collect()
    return sys.getrefcount(kind)


def assert_records_once(response: dns.message.Message) -> None:
    """No record occurs twice in any section, and an RRset has one TTL (RFC 2181 §5)."""
    records = [*response.answer, *response.authority, *response.additional]
    seen = Counter((record.name, record.rdtype, record[0]) for record in records)
    assert [key for key, count in seen.items() if count > 1] == []
    ttls: dict[Any, set[int]] = {}
    for record in records:
        ttls.setdefault((record.name, record.rdtype), set()).add(record.ttl)
    assert all(len(found) == 1 for found in ttls.values())


def rcode(response: Any) -> str:
    """The response code's name."""
    return dns.rcode.to_text(response.rcode())


def data(response: Any) -> list[str]:
    """The data of the answer records, in their order."""
    return [record[0].to_text() for record in response.answer]


def additional_of(response: Any) -> list[str]:
    """Owner and data of the additional records, without OPT."""
    return [f"{record.name} {record[0].to_text()}" for record in response.additional]


def ports(response: Any) -> list[tuple[int, str]]:
    """Port and target of an SRV answer."""
    return [(record[0].port, record[0].target.to_text()) for record in response.answer]


def ede(response: Any) -> list[int]:
    """The codes of the extended errors (RFC 8914)."""
    return [int(option.code) for option in response.options if option.otype == dns.edns.OptionType.EDE]


def truncated(response: Any) -> bool:
    """Whether TC is set."""
    return bool(response.flags & dns.flags.TC)


def authoritative(response: Any) -> bool:
    """Whether AA is set."""
    return bool(response.flags & dns.flags.AA)


def has_soa(response: Any, zone: str = "discovery.") -> bool:
    """Whether the authority section is the zone's SOA, as in a negative response (RFC 2308 §3)."""
    if len(response.authority) != 1:
        return False
    (record,) = response.authority
    at_apex = record.rdtype == dns.rdatatype.SOA and record.name.to_text() == zone
    return bool(at_apex and record.ttl == record[0].minimum)
