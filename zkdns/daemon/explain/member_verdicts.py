"""Decides for each member of a service how it is answered, and why."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import msgspec

from zkdns.address import HostPort
from zkdns.admin.api_types import ExplainedMember, Session, Verdict
from zkdns.clock import elapsed_seconds
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.dns.served_members import ServedMember, served_members
from zkdns.dns.zone import Policy, Zone
from zkdns.durations import format_duration
from zkdns.errors import BadMemberError
from zkdns.guard import HeldMember
from zkdns.names import Labels, to_text
from zkdns.namespace import VECTOR_PREFIX
from zkdns.serverset.member import Endpoint, Member, decode_member, is_ip
from zkdns.serverset.weights import parse_vector
from zkdns.serverset.znode_stat import ZnodeStat
from zkdns.table import MemberSet, Service

_PERSISTENT = "its znode is persistent: it stays when its server is gone"


class MemberVerdicts:
    """Verdicts on the members of the current table.

    Args:
        zone: of the same table.
        context: has the table, the held members, the bad znodes and the failed host names.
    """

    def __init__(self, zone: Zone, context: WatcherContext) -> None:
        self._zone = zone
        self._context = context
        self._table = context.publisher.table
        self._unix_offset = time.time() - elapsed_seconds()

    def of(self, key: Labels) -> Iterator[ExplainedMember]:
        """Yield all members of a service, and the znodes that could not be parsed or read."""
        service = self._table.services[key]
        by_member = {(one.origin, one.member.name): one for one in served_members(self._zone.view(key))}
        has_weighted = any(one.weighting.weight > 0 and not one.weighting.held for one in by_member.values())
        policy = self._zone.policy_of(key)
        beyond = _members_beyond_limit(list(by_member.values()), policy, has_weighted=has_weighted)
        for owner in service.by_precedence():
            held = {one.member.name: one for one in self._context.held_members(owner.origin)}
            for name, member in sorted(owner.members.items()):
                served = by_member.get((owner.origin, name))
                verdict, why = self._judge(member, served, held.get(name), has_weighted=has_weighted)
                if verdict == "answered" and (owner.origin, name) in beyond:
                    verdict, why = "beyond", "answers are full before it (max_answers), in a fixed order"
                row = self._row(owner, member, served, held.get(name))
                yield msgspec.structs.replace(row, verdict=verdict, why=why)
            yield from self._unusable_znodes(owner)

    def _judge(
        self, member: Member, served: ServedMember | None, held: HeldMember | None, *, has_weighted: bool
    ) -> tuple[Verdict, str]:
        """Return a member's verdict and its reason. The reason is empty if the verdict needs none."""
        if served is None:
            return self._why_absent(member)
        if served.weighting.held:
            return "held", self._why_held(held)
        if served.represented_by is not None:
            return "duplicate", f"{served.represented_by.name} has the same endpoint"
        why = self._host_problem(member.service)
        if why and not self._addresses(member.service):
            return "unresolved", why
        if served.weighting.weight > 0:
            return "answered", why or ("" if member.service else "it has additional endpoints only (port 0)")
        drained = "its weight is 0, and there are others"
        return (
            ("drained", drained) if has_weighted else ("answered", "its weight is 0, but there is no other")
        )

    def _why_held(self, held: HeldMember | None) -> str:
        if held is None and self._context.primary_source is not None:
            return "it has left, and the primary holds it; zkdns accept at the primary releases it"
        if held is None:  # the guard releases it at this moment
            return "it has left"
        service = held.service.without(self._context.config.zone)
        return (
            f"it has left, which may be a failure of ZooKeeper ({held.why}), so it is still answered; "
            f"if it was stopped on purpose: zkdns accept {service}"
        )

    def _why_absent(self, member: Member) -> tuple[Verdict, str]:
        if member.weight < 0:
            return "dropped", f"its weight is {member.weight:g}, which drops it"
        statuses = ", ".join(self._context.config.statuses)
        return "hidden", f"its status is {member.status.value}; answered are {statuses}"

    def _host_problem(self, endpoint: Endpoint | None) -> str:
        """Return why an endpoint's host name has no current addresses. Empty if it has."""
        if endpoint is None or is_ip(endpoint.host) or endpoint.addresses:
            return ""
        host, now, resolver = endpoint.host, time.time(), self._context.resolver
        failure, resolved_at = resolver.failures.get(host), resolver.resolved.get(host)
        if failure is None:
            return "" if self._table.addresses_of(host) else f"{host} has no address"
        why = f"no {failure.types} of {host} for {format_duration(now - failure.since)} ({failure.reason})"
        if resolved_at is None:
            return why
        return f"{why}; its addresses are {format_duration(now - resolved_at)} old"

    def _addresses(self, endpoint: Endpoint | None) -> tuple[str, ...]:
        if endpoint is None:
            return ()
        return endpoint.addresses or self._table.addresses_of(endpoint.host)

    def _row(
        self, owner: MemberSet, member: Member, served: ServedMember | None, held: HeldMember | None
    ) -> ExplainedMember:
        """Return a member with all fields but its verdict."""
        service = member.service
        is_named = service is not None and not is_ip(service.host)
        return ExplainedMember(
            member=member.name,
            znode=f"{owner.origin}/{member.name}" if owner.origin.startswith("/") else None,
            name=to_text((served.label, *owner.name.key)) if served is not None else None,
            verdict="answered",
            why="",
            endpoint=_to_text(service) if service is not None else None,
            additional={name: _to_text(endpoint) for name, endpoint in member.additional.items()},
            status=member.status.value,
            shard=member.shard,
            weight=member.weight,
            addresses=self._addresses(service) if is_named else (),
            held_since=held.since + self._unix_offset if held is not None else None,
            held_until=held.until + self._unix_offset if held is not None else None,
        )

    def _unusable_znodes(self, owner: MemberSet) -> Iterator[ExplainedMember]:
        """Yield znodes that have a member's name, but could not be parsed or read."""
        path = f"{owner.origin}/"
        for sync in (source.sync for source in self._context.zookeeper_sources):
            bad = {name: reason for name, reason in sync.bad.items() if name.startswith(path)}
            for znode, reason in sorted(bad.items()):
                name = znode.removeprefix(path)
                if "/" not in name:
                    yield ExplainedMember(member=name, znode=znode, name=None, verdict="bad", why=reason)
            for name in sorted(sync.unreadable(owner.origin) - owner.members.keys()):
                why = "ZooKeeper does not let it be read (its ACL, or a temporary error)"
                yield ExplainedMember(
                    member=name, znode=f"{path}{name}", name=None, verdict="unread", why=why
                )


def _members_beyond_limit(
    served: list[ServedMember], policy: Policy, *, has_weighted: bool
) -> set[tuple[str, str]]:
    """Return the members that no answer has, because of `max_answers` and a fixed order."""
    if policy.max_answers is None or policy.order != "fixed":
        return set()
    candidates = [one for one in served if one.represented_by is None and one.member.service is not None]
    if has_weighted:
        candidates = [one for one in candidates if one.weighting.weight > 0]
    return {(one.origin, one.member.name) for one in candidates[policy.max_answers :]}


def with_znode_stat(row: ExplainedMember, stats: Mapping[str, ZnodeStat]) -> ExplainedMember:
    """Add the session of a member's znode, the details of a parse error, and the fields that are ignored."""
    stat = stats.get(row.znode or "")
    if stat is None:
        return row
    reasons = [row.why] if row.why else []
    decode = parse_vector if row.member.startswith(VECTOR_PREFIX) else decode_member
    try:
        decode(row.member, stat.data, lambda field, why: reasons.append(f"its {field} is ignored: {why}"))
    except BadMemberError as error:
        if row.verdict == "bad":
            reasons = [f"{row.why}: {error}"]
    if not stat.session:
        reasons.append(_PERSISTENT)
    session = Session(hex(stat.session & 0xFFFFFFFFFFFFFFFF), stat.created, stat.modified)
    return msgspec.structs.replace(row, why="; ".join(reasons), session=session)


def is_in_answers(row: ExplainedMember) -> bool:
    """Return True if the member counts against `max_answers`."""
    return row.verdict in ("answered", "held", "beyond")


def describe_merged_sets(service: Service) -> str:
    """Return a sentence about several sets with names that differ in case. Empty if there is one set."""
    origins = [owner.origin for owner in service.by_precedence()]
    if len(origins) == 1:
        return ""
    return f"several sets are one service: {', '.join(origins)}"


def _to_text(endpoint: Endpoint) -> str:
    return str(HostPort(endpoint.host, endpoint.port))
