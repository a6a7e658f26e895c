"""Access control: an allowlist of client networks, and response rate limiting over UDP.

    query ──▶ of this machine? ──yes──▶ the usual responses
                │
                ├──▶ allowed? ──no──▶ refused
                │
                └──▶ (UDP) within the rate limit, or with a valid cookie? ──no──▶ rate_limited: retry over TCP
                                 │
                                 └──▶ the usual responses

Over UDP an attacker can forge the source address, so that responses go to a victim. A query over the rate
limit therefore gets an empty truncated response, hardly longer than the query; a real client then repeats the
query over TCP. The address of a query with a valid server cookie is not forged, so it is never rate-limited.

This machine has no limits. Another host cannot forge an IPv4 address of it, since the kernel drops such
packets. If another host forges an IPv6 address of it, the responses go to this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from zkdns.transport.contract import ResponseLookup
from zkdns.transport.local_addresses import LocalAddresses, unmapped
from zkdns.transport.rate_counters import EXEMPT, RateCounters
from zkdns.transport.sockets import packed_address

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


class Allowlist(dict[bytes, bool]):
    """Whether a client may query, by its address of 4 or 16 bytes.

    Args:
        networks: allowed networks, such as `10.0.0.0/8`; this machine is always allowed.
        local: the addresses of this machine. When they have changed, call `clear`.
        max_cached: maximum number of results that are cached.
    """

    def __init__(
        self, networks: Iterable[str], local: LocalAddresses, *, max_cached: int = MAX_CACHED_ADDRESSES
    ) -> None:
        super().__init__()
        self._max_cached = max_cached
        self._local = local
        self._networks = tuple(map(ipaddress.ip_network, networks))

    def __missing__(self, packed: bytes) -> bool:
        if len(self) >= self._max_cached:
            self.clear()
        address = ipaddress.ip_address(unmapped(packed))
        self[packed] = packed in self._local or any(address in network for network in self._networks)
        return self[packed]


class RateLimit(dict[bytes, int]):
    """The slot in the rate counters of a client's network, by its address of 4 or 16 bytes.

    All sockets of a worker share it.

    Args:
        limit: queries a second for one network (a /24, or a /56 of IPv6); 0: no limit.
        counters: count the queries.
        local: the addresses of this machine, which has no limit. When they have changed, call `clear`.
        max_cached: maximum number of slots that are cached.
    """

    def __init__(
        self,
        limit: int,
        counters: RateCounters,
        local: LocalAddresses,
        *,
        max_cached: int = MAX_CACHED_ADDRESSES,
    ) -> None:
        super().__init__()
        self.limit = limit
        self._counters = counters
        self._local = local
        self._max_cached = max_cached

    def __missing__(self, packed: bytes) -> int:
        if len(self) >= self._max_cached:
            self.clear()
        is_local = packed in self._local
        self[packed] = EXEMPT if is_local else self._counters.slot_of(_network_of(packed))
        return self[packed]

    def over_limit(self, addresses: Sequence[bytes], now: float) -> frozenset[int]:
        """Count queries of these clients; return the slots over the limit in this second."""
        return self._counters.count(list(map(self.__getitem__, addresses)), int(now), self.limit)


class AccessControl(msgspec.Struct, frozen=True):
    """The clients that a socket answers, and the responses for all others.

    Attributes:
        allowed: the clients that may query.
        refused: the responses to all other clients.
        rate_limited: the responses to queries over the rate limit.
        has_valid_cookie: whether a query (by its key) has a valid server cookie for an address; called only
            above the rate limit.
        rate_limit: the limit for each network. None: no limit.
        counters: numbers of refused and rate-limited queries.
    """

    allowed: Allowlist
    refused: ResponseLookup
    rate_limited: ResponseLookup
    has_valid_cookie: Callable[[bytes, bytes], bool]
    rate_limit: RateLimit | None
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
        limit = self.rate_limit
        over_limit = limit.over_limit(addresses, now) if limit is not None else frozenset()
        if all_allowed and not over_limit:
            return None
        return [
            self._check_datagram(address, over_limit, query_at, at) for at, address in enumerate(addresses)
        ]

    def _check_datagram(
        self, address: bytes, over_limit: frozenset[int], query_at: Callable[[int], bytes], at: int
    ) -> ResponseLookup | None:
        if not self.allowed[address]:
            self.counters.refused += 1
            return self.refused
        if self.rate_limit is None or self.rate_limit[address] not in over_limit:
            return None
        if self.has_valid_cookie(query_at(at), address):
            return None
        self.counters.rate_limited += 1
        return self.rate_limited

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
    """

    def __init__(self) -> None:
        self.refused = self.rate_limited = 0


def _network_of(address: bytes) -> bytes:
    address = unmapped(address)
    return address[: _PREFIX[len(address)]]
