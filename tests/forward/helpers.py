"""Questions, and replies to them as upstreams make them: by dnspython, which knows all types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from zkdns.dns.message import Query, parse_query

from zkdns.forward.message import read_reply
from zkdns.forward.question import Question
from zkdns.forward.reply import Reply

NAME = "www.example.com."
TTL = 300

# One of each type that dnspython knows the data of, and of some that nobody does.
DATA = {
    "A": "192.0.2.1",
    "NS": "ns1.example.com.",
    "CNAME": "web.example.com.",
    "SOA": "ns1.example.com. host.example.com. 7 7200 3600 1209600 900",
    "PTR": "host.example.com.",
    "HINFO": '"RFC8482" ""',
    "MX": "10 mail.example.com.",
    "TXT": '"v=spf1 -all" "and \\"more\\""',
    "RP": "host.example.com. txt.example.com.",
    "AFSDB": "1 afs.example.com.",
    "X25": '"311061700956"',
    "RT": "10 relay.example.com.",
    "PX": "10 map822.example.com. mapx400.example.com.",
    "AAAA": "2001:db8::1",
    "LOC": "52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m",
    "SRV": "0 5 443 m1.example.com.",
    "NAPTR": '10 20 "S" "SIP+D2U" "" _sip._udp.example.com.',
    "KX": "10 kx.example.com.",
    "CERT": "PKIX 1 RSASHA256 aGVsbG8=",
    "DNAME": "example.net.",
    "APL": "1:192.168.38.0/28",
    "DS": "60485 5 1 2bb183af5f22588179a53b0a98631fad1a292118",
    "SSHFP": "1 1 2bb183af5f22588179a53b0a98631fad1a292118",
    "IPSECKEY": "10 1 2 192.0.2.38 aGVsbG8=",
    "RRSIG": "A 8 3 300 20300101000000 20200101000000 12345 example.com. aGVsbG8=",
    "NSEC": "zzz.example.com. A AAAA RRSIG NSEC",
    "DNSKEY": "257 3 8 aGVsbG8=",
    "DHCID": "aGVsbG8=",
    "NSEC3": "1 1 12 aabbccdd 2t7b4g4vsa5smi47k61mv5bv1a22bojr A RRSIG",
    "NSEC3PARAM": "1 0 12 aabbccdd",
    "TLSA": "3 1 1 " + 32 * "2b",
    "SMIMEA": "3 1 1 " + 32 * "2b",
    "CDS": "60485 5 1 2bb183af5f22588179a53b0a98631fad1a292118",
    "CDNSKEY": "257 3 8 aGVsbG8=",
    "OPENPGPKEY": "aGVsbG8=",
    "CSYNC": "66 3 A NS AAAA",
    "SVCB": "1 svc.example.com. alpn=h2 port=8443",
    "HTTPS": "1 . alpn=h2,h3 ipv4hint=192.0.2.1",
    "SPF": '"v=spf1 -all"',
    "EUI48": "00-00-5e-00-53-2a",
    "EUI64": "00-00-5e-ef-10-00-00-2a",
    "URI": '10 1 "https://www.example.com/"',
    "CAA": '0 issue "ca.example.net"',
    "TYPE731": "\\# 6 abcdef012345",
    "TYPE65400": "\\# 0",
}


def rrset(qtype: str, name: str = NAME, *data: str, ttl: int = TTL) -> dns.rrset.RRset:
    """Records of a type, with data of that type where none are given."""
    return dns.rrset.from_text(name, ttl, "IN", qtype, *(data or (DATA[qtype],)))


def soa(minimum: int = 900, ttl: int = 900) -> dns.rrset.RRset:
    """The SOA record of the zone that the names are in."""
    fields = f"ns1.example.com. host.example.com. 7 7200 3600 1209600 {minimum}"
    return dns.rrset.from_text("example.com.", ttl, "IN", "SOA", fields)


def question(qtype: str = "A", name: str = NAME, *, do: bool = False, cd: bool = False) -> Question:
    """A question as the forwarder has it."""
    wire = dns.name.from_text(name).to_wire()
    assert wire is not None
    return Question(wire.lower(), int(dns.rdatatype.from_text(qtype)), do, cd)


def option(number: int, data: bytes) -> dns.edns.Option:
    """An EDNS option with any data."""
    return dns.edns.GenericOption(dns.edns.OptionType.make(number), data)


def extended_error(code: int, text: str | None = None) -> dns.edns.Option:
    """An EDNS option with an extended error."""
    return dns.edns.EDEOption(dns.edns.EDECode.make(code), text)


def message(
    qtype: str = "A",
    answer: Iterable[dns.rrset.RRset] = (),
    authority: Iterable[dns.rrset.RRset] = (),
    additional: Iterable[dns.rrset.RRset] = (),
    *,
    name: str = NAME,
    rcode: str = "NOERROR",
    flags: int = 0,
    edns: bool = True,
    options: Sequence[dns.edns.Option] = (),
) -> dns.message.Message:
    """A reply as an upstream makes it, compressed when it is written."""
    asked = dns.message.make_query(name, qtype, id=4711)
    made = dns.message.make_response(asked)
    made.flags |= dns.flags.RA | flags
    if edns:
        made.use_edns(0, 0, 1232, options=list(options))
    made.set_rcode(dns.rcode.from_text(rcode))
    made.answer.extend(answer)
    made.authority.extend(authority)
    made.additional.extend(additional)
    return made


def reply(qtype: str = "A", *sections: Iterable[dns.rrset.RRset], **how: Any) -> Reply:
    """Such a reply, read."""
    asked = question(qtype, how.get("name", NAME))
    return read_reply(to_wire(message(qtype, *sections, **how)), asked)


def to_wire(made: dns.message.Message) -> bytes:
    """Such a reply as it comes over TCP, where there is room for all of it."""
    return made.to_wire(max_size=65535)


def query(
    qtype: str = "A",
    name: str = NAME,
    *,
    edns: bool = True,
    do: bool = False,
    flags: int = dns.flags.RD,
    ident: int = 99,
) -> Query:
    """What somebody asks us, read."""
    made = dns.message.make_query(name, qtype, id=ident, flags=flags)
    if edns:
        made.use_edns(0, dns.flags.DO if do else 0, 1232)
    return parse_query(made.to_wire())


def sections(parsed: dns.message.Message) -> list[list[str]]:
    """The records of each section in their order, as text."""
    return [
        [record.to_text() for record in section]
        for section in (parsed.answer, parsed.authority, parsed.additional)
    ]


def read(wire: bytes) -> dns.message.Message:
    """Read a message strictly, each record on its own."""
    return dns.message.from_wire(wire, one_rr_per_rrset=True)
