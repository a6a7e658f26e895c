"""What becomes of each member of a service in its answers, and why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping

import msgspec

from zkdns.address import HostPort
from zkdns.daemon.ipc.control_messages import ExplainedMember, Session, Verdict
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.daemon.watcher.history import short_name
from zkdns.dns.service_names import ServedMember
from zkdns.dns.zone import Policy, Zone
from zkdns.durations import format_duration
from zkdns.errors import BadMemberError
from zkdns.guard import HeldMember
from zkdns.names import Labels, to_text
from zkdns.serverset.member import Endpoint, Member, decode_member, is_ip
from zkdns.serverset.weights import VECTOR_PREFIX, parse_vector
from zkdns.serverset.znode_stat import ZnodeStat
from zkdns.table import MemberSet, Service

_PERSISTENT = "its znode is persistent: it stays when its server is gone"


class MemberVerdicts:
    """Judges members as one state of the table has them.

    Args:
        zone: of that state.
        known: the same, and who is held, what is bad, what becomes of host names.
    """

    def __init__(self, zone: Zone, known: WatcherContext) -> None:
        self._zone = zone
        self._known = known
        self._table = known.publisher.table
        self._shift = time.time() - asyncio.get_running_loop().time()

    def of(self, key: Labels) -> Iterator[ExplainedMember]:
        """All members of the service with that key, those that cannot be understood among them."""
        service = self._table.services[key]
        seats = {(seat.origin, seat.member.name): seat for seat in self._zone.view(key).seats()}
        are_others = any(seat.standing.weight > 0 and not seat.standing.held for seat in seats.values())
        is_beyond = self._those_beyond(list(seats.values()), self._zone.policy_of(key), are_others=are_others)
        for owner in service.by_precedence():
            held = {one.member.name: one for one in self._known.held_of(owner.origin)}
            for name, member in sorted(owner.members.items()):
                seat = seats.get((owner.origin, name))
                verdict, why = self._judge(member, seat, held.get(name), are_others=are_others)
                if verdict == "answered" and (owner.origin, name) in is_beyond:
                    verdict, why = "beyond", "answers are full before it (max_answers), in a fixed order"
                row = self._row(owner, member, seat, held.get(name))
                yield msgspec.structs.replace(row, verdict=verdict, why=why)
            yield from self._bad(owner)

    def _judge(
        self, member: Member, seat: ServedMember | None, held: HeldMember | None, *, are_others: bool
    ) -> tuple[Verdict, str]:
        if seat is None:
            return self._why_not(member)
        if seat.standing.held:
            return "held", self._of_held(held)
        if seat.stand_in is not None:
            return "duplicate", f"{seat.stand_in.name} has the same endpoint"
        why = self._of_host(member.service)
        if why and not self._addresses(member.service):
            return "unresolved", why
        if seat.standing.weight > 0:
            return "answered", why or ("" if member.service else "it has additional endpoints only (port 0)")
        drained = "its weight is 0, and there are others"
        return ("drained", drained) if are_others else ("answered", "its weight is 0, but there is no other")

    def _of_held(self, held: HeldMember | None) -> str:
        """Why a member is held; the guard may just be letting it go."""
        if held is None:
            return "it has left"
        service = short_name(held.service, self._known.config.zone)
        return f"it has left ({held.why}); zkdns accept {service} lets it go"

    def _why_not(self, member: Member) -> tuple[Verdict, str]:
        """Why a member is not answered with."""
        if member.weight < 0:
            return "dropped", f"its weight is {member.weight:g}, which drops it"
        statuses = ", ".join(self._known.config.statuses)
        return "hidden", f"its status is {member.status.value}; answered are {statuses}"

    def _those_beyond(
        self, seats: list[ServedMember], policy: Policy, *, are_others: bool
    ) -> set[tuple[str, str]]:
        """Whom the answers never get to, since they are limited and always in one order."""
        if policy.max_answers is None or policy.order != "fixed":
            return set()
        standing = [seat for seat in seats if seat.stand_in is None and seat.member.service is not None]
        if are_others:
            standing = [seat for seat in standing if seat.standing.weight > 0]
        return {(seat.origin, seat.member.name) for seat in standing[policy.max_answers :]}

    def _of_host(self, endpoint: Endpoint | None) -> str:
        """What is wrong with a host name's addresses; empty: nothing."""
        if endpoint is None or is_ip(endpoint.host) or endpoint.addresses:
            return ""
        host, now = endpoint.host, time.time()
        failure, found = self._known.resolver.failures.get(host), self._known.resolver.resolved.get(host)
        if failure is None:
            return "" if self._table.addresses_of(host) else f"{host} has no address"
        why = f"no {failure.types} of {host} for {format_duration(now - failure.since)} ({failure.reason})"
        age = f"; what is known is {format_duration(now - found)} old" if found is not None else ""
        return why + age

    def _addresses(self, endpoint: Endpoint | None) -> tuple[str, ...]:
        if endpoint is None:
            return ()
        return endpoint.addresses or self._table.addresses_of(endpoint.host)

    def _row(
        self, owner: MemberSet, member: Member, seat: ServedMember | None, held: HeldMember | None
    ) -> ExplainedMember:
        """What a member is, before it is judged."""
        own = member.service
        is_named = own is not None and not is_ip(own.host)
        return ExplainedMember(
            member=member.name,
            znode=f"{owner.origin}/{member.name}" if owner.origin.startswith("/") else None,
            name=to_text((seat.label, *owner.name.key)) if seat is not None else None,
            verdict="answered",
            why="",
            endpoint=_text(own) if own is not None else None,
            additional={name: _text(at) for name, at in member.additional.items()},
            status=member.status.value,
            shard=member.shard,
            weight=member.weight,
            addresses=self._addresses(own) if is_named else (),
            held_since=held.since + self._shift if held is not None else None,
            held_until=held.until + self._shift if held is not None else None,
        )

    def _bad(self, owner: MemberSet) -> Iterator[ExplainedMember]:
        """Znodes of a set that are no member, though they are called so."""
        path = f"{owner.origin}/"
        for sync in (source.sync for source in self._known.zookeeper):
            bad = {name: reason for name, reason in sync.bad.items() if name.startswith(path)}
            for znode, reason in sorted(bad.items()):
                name = znode.removeprefix(path)
                if "/" not in name:
                    yield ExplainedMember(member=name, znode=znode, name=None, verdict="bad", why=reason)
            for name in sorted(sync.unreadable(owner.origin) - owner.members.keys()):
                why = "ZooKeeper does not let it be read (its ACL, or an error that passes)"
                yield ExplainedMember(
                    member=name, znode=f"{path}{name}", name=None, verdict="unread", why=why
                )


def with_stats(row: ExplainedMember, looks: Mapping[str, ZnodeStat]) -> ExplainedMember:
    """The member with what ZooKeeper tells of its znode."""
    look = looks.get(row.znode or "")
    if look is None:
        return row
    why = row.why
    if row.verdict == "bad":
        try:
            if row.member.startswith(VECTOR_PREFIX):
                parse_vector(row.member, look.data)
            else:
                decode_member(row.member, look.data)
        except BadMemberError as error:
            why = f"{row.why}: {error}"
    if not look.session:
        why = f"{why}; {_PERSISTENT}" if why else _PERSISTENT
    session = Session(hex(look.session & 0xFFFFFFFFFFFFFFFF), look.created, look.modified)
    return msgspec.structs.replace(row, why=why, session=session)


def is_answered(row: ExplainedMember) -> bool:
    """Whether its endpoint is among the answers by itself."""
    return row.verdict in ("answered", "held", "beyond")


def merged_origins(service: Service) -> str:
    """That znodes which differ in case only are one service; empty where there is one."""
    origins = [owner.origin for owner in service.by_precedence()]
    if len(origins) == 1:
        return ""
    return f"several sets are one service: {', '.join(origins)}"


def _text(endpoint: Endpoint) -> str:
    return str(HostPort(endpoint.host, endpoint.port))
