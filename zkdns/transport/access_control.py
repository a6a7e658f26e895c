"""Who is answered at a socket: askers of allowed networks, and over UDP no more of them than may be real.

    asker ──▶ allowed? ──no──▶ refusals
                │
                └──▶ (UDP) within its network's limit, or proven? ──no──▶ truncations: ask again over TCP
                                 │
                                 └──▶ answers

Over UDP anybody can write anybody's address on a query, so that the answer goes to a victim. A truncated
answer is hardly longer than its query, and whoever has really asked gets the whole one over TCP. A query that
proves by itself where it was asked needs none of that.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import msgspec

from zkdns.transport.contract import ResponseLookup
from zkdns.transport.sockets import packed_address

LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
PRIVATE: Final = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),  # RFC 1918
    "100.64.0.0/10",  # RFC 6598
    "fc00::/7",  # RFC 4193
    *("169.254.0.0/16", "fe80::/10"),  # RFC 3927, RFC 4291 §2.5.6
)

_MAX_ADDRESSES = 1 << 16  # addresses; a network of IPv6 has no end of them
_IPV4, _IPV6 = 4, 16
_PREFIX = {_IPV4: 3, _IPV6: 7}  # bytes of what counts as one network: a /24, a /56
_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 §2.5.5.2


class Allowlist(dict[bytes, bool]):
    """Whether askers are answered, by their addresses in 4 or 16 bytes.

    Args:
        networks: whose askers are, as `10.0.0.0/8`; those of this machine itself are in any case.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        super().__init__()
        self._networks = tuple(map(ipaddress.ip_network, (*LOOPBACK, *networks)))

    def __missing__(self, packed: bytes) -> bool:
        if len(self) >= _MAX_ADDRESSES:
            self.clear()
        address = ipaddress.ip_address(packed)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        self[packed] = any(address in network for network in self._networks)
        return self[packed]


class AccessControl(msgspec.Struct, frozen=True):
    """Who is answered at sockets, and what others get.

    Attributes:
        allowed: whether an address is answered.
        refusals: what answers those that are not.
        truncations: what answers those of networks that ask too often over UDP.
        is_proven: whether a query proves that it was asked from an address; not called below the limit.
        most: how many queries a second one network (a /24, of IPv6 a /56) may ask; 0: as many as it likes.
        counts: what was counted.
    """

    allowed: Allowlist
    refused: ResponseLookup
    rate_limited: ResponseLookup
    has_valid_cookie: Callable[[bytes, bytes], bool]
    most: int
    counts: AccessCounters

    def check_datagrams(
        self, addresses: Sequence[bytes], query_at: Callable[[int], bytes], now: float
    ) -> list[ResponseLookup | None] | None:
        """What answers each of these askers where it is not the usual; None: it is for all of them.

        Args:
            addresses: of one batch, in 4 or in 16 bytes each.
            query_at: tells the query of the asker in that place.
            now: seconds on a clock that never goes back.
        """
        are_allowed = all(map(self.allowed.__getitem__, addresses))
        often = self._too_often(addresses, now) if self.most else frozenset()
        if are_allowed and not often:
            return None
        return [
            self._check_datagram(address, often, partial(query_at, at))
            for at, address in enumerate(addresses)
        ]

    def _check_datagram(
        self, address: bytes, often: frozenset[bytes], query: Callable[[], bytes]
    ) -> ResponseLookup | None:
        if not self.allowed[address]:
            self.counts.refused += 1
            return self.refused
        if _network_of(address) in often and not self.has_valid_cookie(query(), address):
            self.counts.truncated += 1
            return self.rate_limited
        return None

    def _too_often(self, addresses: Sequence[bytes], now: float) -> frozenset[bytes]:
        """The networks among theirs that have asked more than they may in this second."""
        asked = self.counts.asked
        if int(now) != self.counts.second:
            self.counts.second = int(now)
            asked.clear()
        networks = list(map(_network_of, addresses))
        asked.update(networks)
        if max(map(asked.__getitem__, networks)) <= self.most:
            return frozenset()
        return frozenset(network for network in networks if asked[network] > self.most)

    def check_stream(self, host: str) -> ResponseLookup | None:
        """What answers a connection from that address where it is not the usual."""
        if self.allowed[packed_address(host)]:
            return None
        self.counts.refused += 1
        return self.refused


class AccessCounters:
    """What was counted at a door.

    Attributes:
        refused: queries over UDP, and connections, of who is not allowed.
        truncated: queries of networks that asked too often.
        asked: by network, how many queries came in the present second.
        second: which that is.
    """

    def __init__(self) -> None:
        self.refused = self.truncated = 0
        self.asked: Counter[bytes] = Counter()
        self.second = int(time.monotonic())


def _network_of(address: bytes) -> bytes:
    if address.startswith(_MAPPED):  # who asks over IPv4 at a socket of both families
        return address[: len(_MAPPED) + _PREFIX[_IPV4]]
    return address[: _PREFIX[len(address)]]
