"""Protection against DNS rebinding: private addresses in the answers of public names.

A web page of an attacker can read from servers in the local network if its own name first has a public and
then a private address. Records with such an address are left out (as by `private-address` of unbound and
`stop-dns-rebind` of dnsmasq). No I/O, no clock.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec

from zkdns.dns.edns import Ede, pack_ede
from zkdns.dns.message import CLASS_IN, HEADER_SIZE, TYPE_CLASS, Type
from zkdns.forward.message import Question
from zkdns.forward.records import Records, walk
from zkdns.forward.reply import Reply
from zkdns.forward.rewriting import rewrite
from zkdns.names import Labels

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

PRIVATE: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # connects to this machine (RFC 1122 §3.2.1.3)
            "10.0.0.0/8",  # RFC 1918
            "100.64.0.0/10",  # RFC 6598
            "127.0.0.0/8",
            "169.254.0.0/16",  # RFC 3927
            "172.16.0.0/12",
            "192.168.0.0/16",
            "255.255.255.255/32",
            "::/128",
            "::1/128",
            "fc00::/7",  # RFC 4193
            "fe80::/10",
        ),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1
_ADDRESS_TYPES = frozenset({int(Type.A), int(Type.AAAA)})
_SVCB_TYPES = frozenset({64, 65})  # SVCB and HTTPS (RFC 9460)
_HINT_SIZES: Final = {4: 4, 6: 16}  # ipv4hint and ipv6hint (RFC 9460 §7.3)
_TEXT = "private addresses of a public name were left out"


class RebindProtection:
    """Removes private addresses from replies.

    Args:
        exempt: domains whose names may have private addresses, in lower case.
    """

    def __init__(self, exempt: Iterable[Labels]) -> None:
        self._exempt = frozenset(exempt)

    def is_exempt(self, name: Labels) -> bool:
        """Return whether a name in lower case may have private addresses."""
        return any(name[start:] in self._exempt for start in range(len(name)))

    @staticmethod
    def filter(reply: Reply, question: Question) -> tuple[Reply, str | None]:
        """Return a reply without records that have private addresses, and the first of these addresses.

        Without any such record, the reply is returned itself, and None.
        """
        head = bytes(HEADER_SIZE) + question.name + TYPE_CLASS.pack(question.qtype, CLASS_IN)
        message = head + reply.records
        records = walk(message, len(head), sum(reply.counts))
        found: dict[int, _Address] = {}
        for index in range(len(records.types)):
            for address in _addresses_in(message, records, index):
                if is_private(address):
                    found.setdefault(index, address)
        if not found:
            return reply, None
        message, kept, counts = rewrite(message, len(head), records, reply.counts, found)
        ttls = [ttl for index, ttl in enumerate(reply.ttls) if index not in found]
        filtered = msgspec.structs.replace(
            reply,
            records=message[len(head) :],
            counts=(counts[0], counts[1], counts[2]),
            ends=tuple(kept.ends),
            ttls=tuple(ttls),
            ttls_at=tuple(kept.ttls_at),
            is_negative=reply.is_negative or question.qtype not in kept.types[: counts[0]],
            ede=pack_ede(Ede.BLOCKED, _TEXT) + reply.ede,
            kind=b"",
        )
        return filtered, str(next(iter(found.values())))


def is_private(address: _Address) -> bool:
    """Return whether an address is of this machine or of a local network, also IPv4 addresses within IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_private(address.ipv4_mapped)
        if address in _NAT64:
            return is_private(ipaddress.IPv4Address(address.packed[-4:]))
    return any(address in network for network in PRIVATE if network.version == address.version)


def _addresses_in(message: bytes, records: Records, index: int) -> Iterable[_Address]:
    """Return the addresses in the data of a record."""
    rtype = records.types[index]
    data_at = records.start + records.ttls_at[index] + 6
    data = message[data_at : records.start + records.ends[index]]
    if message[data_at - 8 : data_at - 6] != CLASS_IN.to_bytes(2):
        return []
    if rtype in _ADDRESS_TYPES:
        return [ipaddress.ip_address(data)]
    return _hints_in(data) if rtype in _SVCB_TYPES else []


def _hints_in(data: bytes) -> list[_Address]:
    """Return the address hints of a SVCB or HTTPS record; those before an error if it is malformed."""
    at = 2  # after the priority
    while at < len(data) and data[at]:
        at += 1 + data[at]
    at += 1
    found: list[_Address] = []
    while at + 4 <= len(data):
        key, size = int.from_bytes(data[at : at + 2]), int.from_bytes(data[at + 2 : at + 4])
        value = data[at + 4 : at + 4 + size]
        step = _HINT_SIZES.get(key)
        if step is not None:
            parts = (value[start : start + step] for start in range(0, len(value), step))
            found += (ipaddress.ip_address(part) for part in parts if len(part) == step)
        at += 4 + size
    return found
