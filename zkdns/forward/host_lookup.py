"""Addresses of host names, from the upstreams: unlike those of the system's resolver, they have TTLs.

    /etc/hosts ──▶ upstreams ──▶ None: the caller uses the system's resolver

The system's resolver also uses search lists, mDNS, LDAP and the other sources of nsswitch.conf.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from zkdns.dns.message import Type, parse_query
from zkdns.errors import BadValueError
from zkdns.forward.message import Question, build_query
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import Failure
from zkdns.forward.special_use import special_use_answer
from zkdns.names import Labels, lower, parse_name, to_wire

if TYPE_CHECKING:  # the watcher imports `HostAddresses` even if it has no upstreams
    from zkdns.forward.forward_zones import ForwardZone, ForwardZones

HOSTS_FILE: Final = Path("/etc/hosts")
MIN_SECONDS: Final = 5
"""Minimum number of seconds until a name is resolved again."""
MAX_SECONDS: Final = 300
"""Maximum number of seconds until a name is resolved again."""
_HOSTS_FILE_SECONDS = 30
_MIN_LABELS = 2  # search lists apply to names with one label
_MAX_HOSTS_FILE = 1 << 20  # bytes
_FAMILIES = {Type.A: socket.AF_INET, Type.AAAA: socket.AF_INET6}


class HostAddresses(NamedTuple):
    """The addresses of a host name."""

    addresses: tuple[str, ...]
    """Sorted, in canonical form."""
    seconds: float
    """Seconds until the name should be resolved again."""
    failed: tuple[Type, ...] = ()
    """Types without a response: the addresses of these types are unknown."""
    reason: str = ""
    """Reason of the failure."""

    def merge(self, previous: Iterable[str]) -> tuple[str, ...]:
        """Return the addresses, and the previous ones of the failed types; sorted."""
        kept = {text for text in previous if type_of(text) in self.failed}
        return tuple(sorted(kept.union(self.addresses)))


def type_of(address: str) -> Type:
    """Return the type of the record for an address."""
    return Type.AAAA if ":" in address else Type.A


class HostLookup:
    """Resolves host names, in the running event loop.

    Args:
        forward_zones: the upstreams.
        zones: the zones of this server, which upstreams do not know.
        hosts_file: the file with precedence over DNS (hosts(5)).
    """

    def __init__(
        self, forward_zones: ForwardZones, zones: Sequence[Labels], hosts_file: Path = HOSTS_FILE
    ) -> None:
        self._forward_zones = forward_zones
        self._zones = zones
        self._hosts_file = hosts_file

    async def find(self, host: str) -> HostAddresses | None:
        """Resolve a host name.

        If one of the two address types fails, the result is valid for a short time only.

        Returns:
            None if the system's resolver may know more.

        Raises:
            OSError: the upstreams failed.
        """
        if listed := addresses_in(_content_of(self._hosts_file), host):
            return HostAddresses(listed, _HOSTS_FILE_SECONDS)
        try:
            name = lower(parse_name(host))
        except BadValueError:
            return None
        forward_zone = self._forward_zones.find(name)
        wire = to_wire(name)
        if not forward_zone.servers or not self._is_forwarded(name, wire):
            return None
        outcomes = await asyncio.gather(
            *(_resolve(forward_zone, Question(wire, qtype)) for qtype in _FAMILIES)
        )
        replies = {
            qtype: outcome
            for qtype, outcome in zip(_FAMILIES, outcomes, strict=True)
            if isinstance(outcome, Reply) and outcome.is_conclusive
        }
        reason = next((outcome.text for outcome in outcomes if isinstance(outcome, Failure)), "")
        addresses = {text for qtype, reply in replies.items() for text in addresses_of(reply, qtype)}
        if addresses:
            failed = tuple(qtype for qtype in _FAMILIES if qtype not in replies)
            ttl = 0 if failed else min(reply.ttl for reply in replies.values() if reply.counts[0])
            seconds = min(max(ttl, MIN_SECONDS), MAX_SECONDS)
            return HostAddresses(tuple(sorted(addresses)), seconds, failed, reason)
        if reason:
            raise OSError(reason)
        return None

    def _is_forwarded(self, name: Labels, wire: bytes) -> bool:
        """Return whether upstreams may receive the name: it is not local, and no special-use name."""
        if len(name) < _MIN_LABELS or any(name[-len(zone) :] == zone for zone in self._zones):
            return False
        query = parse_query(build_query(Question(wire, Type.A), 0))
        return special_use_answer(query, self._forward_zones.is_configured) is None


async def _resolve(forward_zone: ForwardZone, question: Question) -> Reply | Failure:
    result: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()

    def on_outcome(_question: Question, outcome: Reply | Failure) -> None:
        if not result.done():
            result.set_result(outcome)

    forward_zone.resolver.resolve(question, on_outcome)
    return await result


def addresses_of(reply: Reply, qtype: Type) -> Iterable[str]:
    """Yield the addresses of this type in the answer section, with any owner name."""
    records = reply.records
    for ttl_at, end in zip(reply.ttls_at[: reply.counts[0]], reply.ends, strict=False):
        if int.from_bytes(records[ttl_at - 4 : ttl_at - 2]) == qtype:  # type and class come before the TTL
            yield socket.inet_ntop(_FAMILIES[qtype], records[ttl_at + 6 : end])  # after TTL and length


def addresses_in(text: str, host: str) -> tuple[str, ...]:
    """Return the addresses of a host in the content of a hosts file (hosts(5)), sorted."""
    wanted = host.lower().removesuffix(".")
    found = set()
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if wanted not in map(str.lower, names):
            continue
        for family in _FAMILIES.values():
            try:
                found.add(socket.inet_ntop(family, socket.inet_pton(family, address)))
            except OSError:
                continue
    return tuple(sorted(found))


def _content_of(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_HOSTS_FILE).decode(errors="replace")
    except OSError:
        return ""
