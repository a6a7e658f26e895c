"""The addresses of host names, asked of the upstreams themselves: they tell how long an answer may be kept.

    /etc/hosts ──▶ upstreams ──▶ (None) the machine's own resolver

The last knows what cannot be asked for here: search lists, mDNS, LDAP, and whatever else nsswitch.conf names.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from zkdns.dns.message import Type, parse_query
from zkdns.errors import BadValueError
from zkdns.forward.forward_zones import ForwardZone, ForwardZones
from zkdns.forward.found import HostAddresses
from zkdns.forward.message import build_query
from zkdns.forward.question import Question
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import Failure
from zkdns.forward.special_use import special_use_answer
from zkdns.names import Labels, lower, parse_name, to_wire

HOSTS: Final = Path("/etc/hosts")
LEAST_SECONDS: Final = 5
MOST_SECONDS: Final = 300
_HOSTS_SECONDS = 30
_LEAST_LABELS = 2  # one label is completed from search lists
_MOST_HOSTS = 1 << 20  # bytes
_FAMILIES = {Type.A: socket.AF_INET, Type.AAAA: socket.AF_INET6}


class HostLookup:
    """Looks host names up, in the running event loop.

    Args:
        routes: who is asked.
        zones: our own, whose names upstreams do not know.
        hosts: the file that goes before DNS (hosts(5)).
    """

    def __init__(self, routes: ForwardZones, zones: Sequence[Labels], hosts: Path = HOSTS) -> None:
        self._routes = routes
        self._zones = zones
        self._hosts = hosts

    async def find(self, host: str) -> HostAddresses | None:
        """Look a host name up.

        Where there are addresses of one type, and the other failed, it should be looked up again soon.

        Returns:
            None where the machine's own resolver may know more.

        Raises:
            OSError: upstreams do not answer.
        """
        if written := addresses_in(_text_of(self._hosts), host):
            return HostAddresses(written, _HOSTS_SECONDS)
        try:
            name = lower(parse_name(host))
        except BadValueError:
            return None
        route = self._routes.find(name)
        wire = to_wire(name)
        if len(name) < _LEAST_LABELS or not route.servers or self._is_ours(name) or self._is_special(wire):
            return None
        outcomes = await asyncio.gather(*(_ask(route, Question(wire, qtype)) for qtype in _FAMILIES))
        replies = {
            qtype: one
            for qtype, one in zip(_FAMILIES, outcomes, strict=True)
            if isinstance(one, Reply) and one.is_conclusive
        }
        reason = next((one.text for one in outcomes if isinstance(one, Failure)), "")
        addresses = {text for qtype, reply in replies.items() for text in addresses_of(reply, qtype)}
        if addresses:
            failed = tuple(qtype for qtype in _FAMILIES if qtype not in replies)
            least = 0 if failed else min(reply.ttl for reply in replies.values() if reply.counts[0])
            seconds = min(max(least, LEAST_SECONDS), MOST_SECONDS)
            return HostAddresses(tuple(sorted(addresses)), seconds, failed, reason)
        if reason:
            raise OSError(reason)
        return None

    def _is_ours(self, name: Labels) -> bool:
        return any(name[-len(zone) :] == zone for zone in self._zones)

    def _is_special(self, name: bytes) -> bool:
        """Whether upstreams must not hear of it, as of names in `local`."""
        query = parse_query(build_query(Question(name, Type.A), 0))
        return special_use_answer(query, self._routes.is_configured) is not None


async def _ask(route: ForwardZone, question: Question) -> Reply | Failure:
    result: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()

    def done(outcome: Reply | Failure) -> None:
        if not result.done():
            result.set_result(outcome)

    route.exchanges.ask(question, done)
    return await result


def addresses_of(reply: Reply, qtype: Type) -> Iterable[str]:
    """The addresses of that type in a reply's answer, whatever aliases lead to them."""
    records = reply.records
    for at, end in zip(reply.ttls_at[: reply.counts[0]], reply.ends, strict=False):
        if int.from_bytes(records[at - 4 : at - 2]) == qtype:  # the type stands before class and TTL
            yield socket.inet_ntop(_FAMILIES[qtype], records[at + 6 : end])  # behind TTL and length


def addresses_in(text: str, host: str) -> tuple[str, ...]:
    """The addresses that a hosts file (hosts(5)) has for a name, sorted."""
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


def _text_of(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_MOST_HOSTS).decode(errors="replace")
    except OSError:
        return ""
