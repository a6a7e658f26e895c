"""Parses messages with two independent libraries, dnspython and dnslib, and compares the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import dns.message
import dnslib

from tests.dns.helpers import assert_records_once
from zkdns.dns.message import HEADER_SIZE

Labels = tuple[bytes, ...]
Record = tuple[Labels, int, int, int, object]
"""Owner, type, class, TTL, and the data in a form that both parsers share."""

_OPT = 41


def parse_with_both(wire: bytes, *, strictly: bool = True) -> Any:
    """Parse a message with both libraries, assert equal results, and return that of dnspython.

    Args:
        wire: the message.
        strictly: also assert that no record is repeated and that each RRset has one TTL. Upstream replies may
            violate this; responses from the zone may not.
    """
    message = dns.message.from_wire(wire, one_rr_per_rrset=True)
    if strictly:
        assert_records_once(message)
    if not _is_text(message):  # dnslib accepts only UTF-8 labels, but any byte is legal (RFC 2181 §11)
        return message
    other = dnslib.DNSRecord.parse(wire)
    counts = [int.from_bytes(wire[at : at + 2]) for at in range(4, HEADER_SIZE, 2)]
    sections = [message.answer, message.authority, message.additional]
    others = [other.rr, other.auth, other.ar]
    has_opt = message.edns >= 0
    assert [len(message.question), *map(len, sections)] == [*counts[:3], counts[3] - has_opt]
    assert [len(other.questions), *map(len, others)] == counts
    assert _questions(message) == [
        (entry.qname.label, entry.qtype, entry.qclass) for entry in other.questions
    ]
    for own, its in zip(sections, others, strict=True):
        assert _dnspython_records(own) == _dnslib_records(its)
    assert sum(entry.rtype == _OPT for entry in other.ar) == has_opt
    return message


def _is_text(message: dns.message.Message) -> bool:
    try:
        for entry in message.question:
            b".".join(entry.name.labels).decode()
    except UnicodeDecodeError:
        return False
    return True


def _questions(message: dns.message.Message) -> list[tuple[Labels, int, int]]:
    return [(_labels(entry.name), int(entry.rdtype), int(entry.rdclass)) for entry in message.question]


def _labels(name: Any) -> Labels:
    labels: Labels = name.labels[:-1]
    return labels


def _dnspython_records(section: Iterable[Any]) -> list[Record]:
    return [
        (_labels(entry.name), int(entry.rdtype), int(entry.rdclass), entry.ttl, _dnspython_data(entry[0]))
        for entry in section
    ]


def _dnslib_records(section: Iterable[Any]) -> list[Record]:
    return [
        (entry.rname.label, entry.rtype, entry.rclass, entry.ttl, _dnslib_data(entry.rtype, entry.rdata))
        for entry in section
        if entry.rtype != _OPT
    ]


_DATA: dict[int, tuple[Callable[[Any], object], Callable[[Any], object]]] = {
    1: (lambda data: data.address, str),
    2: (lambda data: _labels(data.target), lambda data: data.label.label),
    6: (
        lambda data: (_labels(data.mname), _labels(data.rname), data.serial, data.minimum),
        lambda data: (data.mname.label, data.rname.label, data.times[0], data.times[4]),
    ),
    16: (lambda data: list(data.strings), lambda data: data.data),
    33: (
        lambda data: (data.priority, data.weight, data.port, _labels(data.target)),
        lambda data: (data.priority, data.weight, data.port, data.target.label),
    ),
}
"""By type: functions that extract comparable data from dnspython's and dnslib's objects."""


def _dnspython_data(data: Any) -> object:
    own, _ = _DATA.get(int(data.rdtype), (lambda _: None, None))
    return own(data)


def _dnslib_data(rtype: int, data: Any) -> object:
    return _DATA[rtype][1](data) if rtype in _DATA else None
