"""Generated queries: existing and nonexistent names, all types, flags, EDNS options and transports."""

from __future__ import annotations

import random
from collections.abc import Sequence

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import msgspec

TYPES = ("A", "AAAA", "SRV", "TXT", "PTR", "SOA", "NS", "ANY")
OTHER_TYPES = (
    *("CNAME", "MX", "HINFO", "HTTPS", "SVCB", "DS", "DNSKEY", "NSEC", "NSEC3PARAM", "RRSIG", "CAA"),
    *("NAPTR", "TLSA", "DNAME", "CDS", "NULL", "SPF", "TYPE1000", "TYPE32768", "TYPE65280", "TYPE65534"),
    *("AXFR", "IXFR", "MAILA", "MAILB", "TYPE0", "OPT", "TKEY", "TSIG"),
)
SIZES = (0, 400, 511, 512, 513, 600, 800, 1000, 1220, 1232, 1233, 1400, 4096, 65535)
OPTIONS: tuple[dns.edns.Option, ...] = (
    dns.edns.GenericOption(dns.edns.OptionType.NSID, b""),
    dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678"),
    dns.edns.GenericOption(dns.edns.OptionType.PADDING, bytes(20)),
    dns.edns.GenericOption(dns.edns.OptionType.KEEPALIVE, b""),
    dns.edns.ECSOption("192.0.2.0", 24),
    dns.edns.GenericOption(dns.edns.OptionType.make(65001), b"whatever"),
)
_FLAGS = (dns.flags.AA, dns.flags.AD, dns.flags.CD, dns.flags.RA, dns.flags.TC, 0x0040)
_MAX_NAME = 255
_LABELS = (
    *(b"m0", b"m1", b"m99999", b"s0", b"s1", b"s-1", b"s00", b"member_0000000000", b"member_0", b"web"),
    *(
        b"_services",
        b"_dns-sd",
        b"lb",
        b"_web",
        b"_admin",
        b"_tcp",
        b"_udp",
        b"_sctp",
        b"*",
        b"\xc3\xa8",
        b"a.b",
        b"x" * 63,
        b"nowhere",
        b"",
    ),
)
"""Labels to put below a name; the empty one stands for random bytes."""


class Query(msgspec.Struct, frozen=True):
    """A query and its transport."""

    message: dns.message.QueryMessage
    wire: bytes
    over_tcp: bool

    @property
    def name(self) -> dns.name.Name:
        return self.message.question[0].name

    @property
    def qtype(self) -> str:
        return dns.rdatatype.to_text(self.message.question[0].rdtype)

    @property
    def qclass(self) -> str:
        return dns.rdataclass.to_text(self.message.question[0].rdclass)

    @property
    def limit(self) -> int:
        """Maximum size of a response (RFC 6891 §6.2.3); at most 1232 bytes over UDP."""
        if self.over_tcp:
            return 65535
        return min(max(512, self.message.payload), 1232) if self.message.edns >= 0 else 512

    def __str__(self) -> str:
        edns = f"EDNS {self.message.payload}" if self.message.edns >= 0 else "no EDNS"
        transport = "TCP" if self.over_tcp else "UDP"
        return f"{self.message.question[0].to_text()} ({transport}, {edns}, id {self.message.id})"


def make_queries(
    count: int, seed: int, names: Sequence[dns.name.Name], apexes: Sequence[dns.name.Name]
) -> list[Query]:
    """Generate queries with ids from 0 on.

    Args:
        count: number of queries, at most 65,536.
        seed: of the random numbers.
        names: the existing names.
        apexes: the apexes of the zones.
    """
    rng = random.Random(seed)
    pairs = _every_name_and_type(rng, names)
    queries = []
    for ident in range(count):
        name, qtype = (
            pairs[ident]
            if ident < count // 2 and ident < len(pairs)
            else _random_name_and_type(rng, names, apexes)
        )
        queries.append(_query(rng, ident, _random_case(rng, name), qtype))
    return queries


def _every_name_and_type(
    rng: random.Random, names: Sequence[dns.name.Name]
) -> list[tuple[dns.name.Name, str]]:
    """Each existing name with each type that zkdns serves; the few PTR records of DNS-SD first."""
    pairs = [(name, qtype) for name in names for qtype in TYPES[:5]]
    rng.shuffle(pairs)
    return sorted(pairs, key=lambda pair: not (pair[1] == "PTR" and _may_have_ptr(pair[0])))


def _may_have_ptr(name: dns.name.Name) -> bool:
    return name.labels[1].lower() in (b"_tcp", b"_dns-sd")


def _random_name_and_type(
    rng: random.Random, names: Sequence[dns.name.Name], apexes: Sequence[dns.name.Name]
) -> tuple[dns.name.Name, str]:
    name = rng.choice(names) if rng.random() < 0.9 else rng.choice(apexes)
    kind = rng.random()
    if kind < 0.2:  # an ancestor: often an empty non-terminal
        name = name.split(rng.randrange(1, len(name.labels) + 1))[1]
    elif kind < 0.4:  # a descendant
        name = _below(rng, name)
    elif kind < 0.55:  # a sibling
        parent = name.parent() if len(name.labels) > 1 else name
        name = _below(rng, parent)
    elif kind < 0.6:
        name = dns.name.from_text(
            rng.choice(("example.com.", ".", "discovery.example.", "xdiscovery.", "arpa."))
        )
    qtype = rng.choice(TYPES) if rng.random() < 0.7 else rng.choice(OTHER_TYPES)
    return name, qtype


def _below(rng: random.Random, name: dns.name.Name) -> dns.name.Name:
    label = rng.choice(_LABELS)
    label = label or bytes(rng.randrange(256) for _ in range(rng.randrange(1, 12)))
    labels = (label, *name.labels)
    return dns.name.Name(labels) if sum(map(len, labels)) + len(labels) <= _MAX_NAME else name


def _random_case(rng: random.Random, name: dns.name.Name) -> dns.name.Name:
    """The unchanged name, or the name with random upper and lower case (0x20)."""
    if rng.random() < 0.6:
        return name
    return dns.name.Name(
        bytes(byte ^ 0x20 if 0x41 <= byte & 0xDF <= 0x5A and rng.random() < 0.5 else byte for byte in label)
        for label in name.labels
    )


def _query(rng: random.Random, ident: int, name: dns.name.Name, qtype: str) -> Query:
    flags = dns.flags.RD if rng.random() < 0.7 else 0
    if rng.random() < 0.15:
        flags |= rng.choice(_FLAGS)
    qclass = "IN" if rng.random() < 0.99 else rng.choice(("CH", "HS", "CLASS77"))
    message = dns.message.make_query(name, qtype, qclass, id=ident, flags=flags)
    if rng.random() < 0.6:
        version = 1 if rng.random() < 0.01 else 0
        options = [rng.choice(OPTIONS)] if rng.random() < 0.2 else []
        bits = dns.flags.DO if rng.random() < 0.3 else 0
        message.use_edns(version, bits, rng.choice(SIZES), options=options)
    return Query(message, message.to_wire(), rng.random() < 0.3)
