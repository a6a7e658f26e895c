"""Access control: an allowlist of client networks, and response rate limiting over UDP.

    query ──▶ allowed? ──no──▶ refused
                │
                └──▶ (UDP) within the rate limit, or with a valid cookie? ──no──▶ rate_limited: retry over TCP
                                 │
                                 └──▶ the usual responses

Over UDP an attacker can forge the source address, so that responses go to a victim. A query over the rate
limit therefore gets an empty truncated response, hardly longer than the query; a real client then repeats the
query over TCP. The address of a query with a valid server cookie is not forged, so it is never rate-limited.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from zkdns.transport.contract import ResponseLookup
from zkdns.transport.sockets import packed_address

LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
PRIVATE: Final = (  # the networks that may query by default
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),  # RFC 1918
    "100.64.0.0/10",  # RFC 6598
    "fc00::/7",  # RFC 4193
    *("169.254.0.0/16", "fe80::/10"),  # RFC 3927, RFC 4291 §2.5.6
)

MAX_CACHED_ADDRESSES: Final = 1 << 16
"""Maximum number of results that are cached; an IPv6 network has an unlimited number of addresses."""
_IPV4, _IPV6 = 4, 16
_PREFIX = {_IPV4: 3, _IPV6: 7}  # bytes of a network for rate limiting: a /24, a /56
_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 §2.5.5.2


class Allowlist(dict[bytes, bool]):
    """Whether a client may query, by its address of 4 or 16 bytes.

    Args:
        networks: allowed networks, such as `10.0.0.0/8`; loopback is always allowed.
        max_cached: maximum number of results that are cached.
    """

    def __init__(self, networks: Iterable[str], *, max_cached: int = MAX_CACHED_ADDRESSES) -> None:
        super().__init__()
        self._max_cached = max_cached
        self._networks = tuple(map(ipaddress.ip_network, (*LOOPBACK, *networks)))

    def __missing__(self, packed: bytes) -> bool:
        if len(self) >= self._max_cached:
            self.clear()
        address = ipaddress.ip_address(packed)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        self[packed] = any(address in network for network in self._networks)
        return self[packed]


class AccessControl(msgspec.Struct, frozen=True):
    """The clients that a socket answers, and the responses for all others.

    Attributes:
        allowed: the clients that may query.
        refused: the responses to all other clients.
        rate_limited: the responses to queries over the rate limit.
        has_valid_cookie: whether a query (by its key) has a valid server cookie for an address; called only
            above the rate limit.
        rate_limit: queries a second for one network (a /24, or a /56 of IPv6); 0: no limit.
        counters: numbers of refused and rate-limited queries.
    """

    allowed: Allowlist
    refused: ResponseLookup
    rate_limited: ResponseLookup
    has_valid_cookie: Callable[[bytes, bytes], bool]
    rate_limit: int
    counters: AccessCounters

    def check_datagrams(
        self, addresses: Sequence[bytes], query_at: Callable[[int], bytes], now: float
    ) -> list[ResponseLookup | None] | None:
        """Check the clients of a batch.

        Args:
            addresses: the clients' addresses, in 4 or 16 bytes each.
            query_at: returns the query at a position of the batch.
            now: seconds on a monotonic clock.

        Returns:
            None: all clients get the usual responses. Otherwise, for each client, the lookup to use in place
            of the usual one, or None.
        """
        all_allowed = all(map(self.allowed.__getitem__, addresses))
        over_limit = self._over_limit(addresses, now) if self.rate_limit else frozenset()
        if all_allowed and not over_limit:
            return None
        return [
            self._check_datagram(address, over_limit, query_at, at) for at, address in enumerate(addresses)
        ]

    def _check_datagram(
        self, address: bytes, over_limit: frozenset[bytes], query_at: Callable[[int], bytes], at: int
    ) -> ResponseLookup | None:
        if not self.allowed[address]:
            self.counters.refused += 1
            return self.refused
        if _network_of(address) in over_limit and not self.has_valid_cookie(query_at(at), address):
            self.counters.rate_limited += 1
            return self.rate_limited
        return None

    def _over_limit(self, addresses: Sequence[bytes], now: float) -> frozenset[bytes]:
        """Count these queries; return the networks among them that are over the limit in this second."""
        queries = self.counters.queries
        if int(now) != self.counters.second:
            self.counters.second = int(now)
            queries.clear()
        networks = list(map(_network_of, addresses))
        queries.update(networks)
        if max(map(queries.__getitem__, networks)) <= self.rate_limit:
            return frozenset()
        return frozenset(network for network in networks if queries[network] > self.rate_limit)

    def check_stream(self, host: str) -> ResponseLookup | None:
        """The lookup to use in place of the usual one for a connection from this address.

        None: the usual one.
        """
        if self.allowed[packed_address(host)]:
            return None
        self.counters.refused += 1
        return self.refused


class AccessCounters:
    """Counters of access control, shared by the sockets of a process.

    Attributes:
        refused: queries over UDP, and connections, from networks that are not allowed.
        rate_limited: queries from networks over the rate limit.
        queries: number of queries in the present second, by network.
        second: the present second.
    """

    def __init__(self) -> None:
        self.refused = self.rate_limited = 0
        self.queries: Counter[bytes] = Counter()
        self.second = int(time.monotonic())


def _network_of(address: bytes) -> bytes:
    if address.startswith(_MAPPED):  # an IPv4 client at a dual-stack socket
        return address[: len(_MAPPED) + _PREFIX[_IPV4]]
    return address[: _PREFIX[len(address)]]
