"""Zones as text and as messages of a transfer, and the tables that a secondary builds from them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence

import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from zkdns.config import Config
from zkdns.dns.message import Type
from zkdns.dns.zone import Zone
from zkdns.dns.zonefile import service_records, zone_header
from zkdns.names import Labels, to_text
from zkdns.namespace import Namespace
from zkdns.secondary.inbound import Inbound
from zkdns.secondary.members import ZoneService
from zkdns.secondary.records import read_message
from zkdns.secondary.zone_copy import ZoneCopy
from zkdns.serverset.changes import HostResolved, MembersHeld, SetPut
from zkdns.table import Table

IDENT = 4711
Line = tuple[dns.name.Name, int, dns.rdata.Rdata]
"""Owner, TTL and data of a record."""


def zone_text(table: Table, config: Config, apex: Labels) -> str:
    """The zone file of a table, as `zkdns dump` writes it."""
    zone = Zone(table, config)
    services = sorted(zone.services)
    return zone_header(zone, apex) + "".join(service_records(zone, apex, key) for key in services)


def lines(text: str) -> list[Line]:
    """The records of a zone file, in its order."""
    found: list[Line] = []
    for line in text.splitlines():
        if line.startswith(";"):
            continue
        owner, ttl, _, qtype, data = line.split("\t") if line.count("\t") == 4 else _fields(line)
        rdata = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(qtype), data)
        found.append((dns.name.from_text(owner), int(ttl), rdata))
    return found


def _fields(line: str) -> list[str]:
    owner, ttl, rest = line.split("\t")
    kind, qtype, data = rest.split(" ", 2) if " " in rest else rest.split("\t", 2)
    return [owner, ttl, kind, qtype, data]


def with_soa_last(records: Sequence[Line]) -> list[Line]:
    """The records of a full transfer: those of a zone file, and the SOA record again."""
    return [*records, records[0]]


def messages(
    records: Iterable[Line],
    qtype: Type = Type.AXFR,
    ident: int = IDENT,
    *,
    per_message: int = 100,
    apex: str = "discovery.",
) -> Iterator[bytes]:
    """The messages of a transfer with these records, in this order."""
    rest = list(records)
    while rest:
        message = dns.message.Message(ident)
        message.flags |= dns.flags.QR | dns.flags.AA
        message.question.append(
            dns.rrset.RRset(dns.name.from_text(apex), dns.rdataclass.IN, dns.rdatatype.RdataType(int(qtype)))
        )
        for owner, ttl, rdata in rest[:per_message]:
            message.answer.append(dns.rrset.from_rdata(owner, ttl, rdata))
        del rest[:per_message]
        yield message.to_wire(max_size=65535)


def read(transfer: Inbound, parts: Iterable[bytes]) -> Inbound:
    """Feed all messages; the last one completes the transfer."""
    done = [transfer.feed(read_message(part)) for part in parts]
    assert done == [False] * (len(done) - 1) + [True]
    return transfer


def drain(copy: ZoneCopy, transfer: Inbound) -> tuple[ZoneCopy, dict[Labels, ZoneService | None]]:
    """The next version, and the services that it may have changed."""
    steps = copy.next_version(transfer)
    changed: dict[Labels, ZoneService | None] = {}
    while True:
        try:
            changed |= dict(next(steps))
        except StopIteration as end:
            return end.value, changed


def full_copy(
    text: str, apex: Labels, namespaces: Sequence[Namespace]
) -> tuple[ZoneCopy, dict[Labels, ZoneService | None]]:
    """Transfer a whole zone."""
    name = to_text(apex) + "."
    transfer = Inbound(apex, Type.AXFR, IDENT)
    read(transfer, messages(with_soa_last(lines(text)), apex=name))
    return drain(ZoneCopy(apex, namespaces), transfer)


def apply_services(table: Table, services: dict[Labels, ZoneService | None]) -> None:
    """Put services into a table as a secondary does."""
    for content in services.values():
        assert content is not None
        for one in content.sets:
            table.apply(SetPut(one.origin, one.name, one.members))
            if one.held:
                table.apply(MembersHeld(one.origin, tuple(sorted(one.held))))
        for host, addresses in content.hosts.items():
            table.apply(HostResolved(host, addresses))


def sorted_lines(text: str) -> list[str]:
    """The records of a zone file, sorted, since a transfer does not keep their order."""
    return sorted(line for line in text.splitlines() if not line.startswith(";"))


def raw_header(ident: int = IDENT, flags: int = 0x8400, *counts: int) -> bytes:
    """A header of a message."""
    return struct.pack("!6H", ident, flags, *counts)


def without_serial(text: str) -> str:
    """A zone file with the serial 0."""
    return re.sub(r"(SOA\t?\s*\S+ \S+ )\d+", r"\g<1>0", text)
