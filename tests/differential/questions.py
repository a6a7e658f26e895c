"""What is asked: of all that there is and of what there is not, in every way that a query may have."""

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
_LONGEST_NAME = 255
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
"""What may stand below a name; the last one is for whatever bytes."""


class Asked(msgspec.Struct, frozen=True):
    """One query, and how it goes."""

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
        """How long a response may be (RFC 6891 §6.2.3), where 1232 is the most over UDP."""
        if self.over_tcp:
            return 65535
        return min(max(512, self.message.payload), 1232) if self.message.edns >= 0 else 512

    def __str__(self) -> str:
        edns = f"EDNS {self.message.payload}" if self.message.edns >= 0 else "no EDNS"
        how = "TCP" if self.over_tcp else "UDP"
        return f"{self.message.question[0].to_text()} ({how}, {edns}, id {self.message.id})"


def make_questions(
    count: int, seed: int, known: Sequence[dns.name.Name], apexes: Sequence[dns.name.Name]
) -> list[Asked]:
    """So many queries with ids from 0 on.

    Args:
        count: how many, at most 65,536.
        seed: of all dice.
        known: the names that have records.
        apexes: the zones' names.
    """
    dice = random.Random(seed)
    named = _every_name_and_type(dice, known)
    asked = []
    for ident in range(count):
        name, qtype = (
            named[ident] if ident < count // 2 and ident < len(named) else _drawn(dice, known, apexes)
        )
        asked.append(_query(dice, ident, _spelled(dice, name), qtype))
    return asked


def _every_name_and_type(
    dice: random.Random, known: Sequence[dns.name.Name]
) -> list[tuple[dns.name.Name, str]]:
    """Each known name with each type that may be there; those that lead to others first, which are few."""
    pairs = [(name, qtype) for name in known for qtype in TYPES[:5]]
    dice.shuffle(pairs)
    return sorted(pairs, key=lambda pair: not (pair[1] == "PTR" and _may_lead_to_others(pair[0])))


def _may_lead_to_others(name: dns.name.Name) -> bool:
    return name.labels[1].lower() in (b"_tcp", b"_dns-sd")


def _drawn(
    dice: random.Random, known: Sequence[dns.name.Name], apexes: Sequence[dns.name.Name]
) -> tuple[dns.name.Name, str]:
    name = dice.choice(known) if dice.random() < 0.9 else dice.choice(apexes)
    kind = dice.random()
    if kind < 0.2:  # above it: often an empty non-terminal
        name = name.split(dice.randrange(1, len(name.labels) + 1))[1]
    elif kind < 0.4:  # below it
        name = _below(dice, name)
    elif kind < 0.55:  # beside it
        parent = name.parent() if len(name.labels) > 1 else name
        name = _below(dice, parent)
    elif kind < 0.6:
        name = dns.name.from_text(
            dice.choice(("example.com.", ".", "discovery.example.", "xdiscovery.", "arpa."))
        )
    qtype = dice.choice(TYPES) if dice.random() < 0.7 else dice.choice(OTHER_TYPES)
    return name, qtype


def _below(dice: random.Random, name: dns.name.Name) -> dns.name.Name:
    label = dice.choice(_LABELS)
    label = label or bytes(dice.randrange(256) for _ in range(dice.randrange(1, 12)))
    longer = (label, *name.labels)
    return dns.name.Name(longer) if sum(map(len, longer)) + len(longer) <= _LONGEST_NAME else name


def _spelled(dice: random.Random, name: dns.name.Name) -> dns.name.Name:
    """The name as it is, or each letter in upper or lower case (0x20)."""
    if dice.random() < 0.6:
        return name
    return dns.name.Name(
        bytes(byte ^ 0x20 if 0x41 <= byte & 0xDF <= 0x5A and dice.random() < 0.5 else byte for byte in label)
        for label in name.labels
    )


def _query(dice: random.Random, ident: int, name: dns.name.Name, qtype: str) -> Asked:
    flags = dns.flags.RD if dice.random() < 0.7 else 0
    if dice.random() < 0.15:
        flags |= dice.choice(_FLAGS)
    qclass = "IN" if dice.random() < 0.99 else dice.choice(("CH", "HS", "CLASS77"))
    message = dns.message.make_query(name, qtype, qclass, id=ident, flags=flags)
    if dice.random() < 0.6:
        version = 1 if dice.random() < 0.01 else 0
        options = [dice.choice(OPTIONS)] if dice.random() < 0.2 else []
        bits = dns.flags.DO if dice.random() < 0.3 else 0
        message.use_edns(version, bits, dice.choice(SIZES), options=options)
    return Asked(message, message.to_wire(), dice.random() < 0.3)
