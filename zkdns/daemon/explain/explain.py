"""Explains how this server answers a name, and why: the work behind `zkdns explain`.

    name ──▶ classify_name.py: the rule that answers it ──▶ the workers' responses, by record type
                     └──▶ its service ──▶ member_verdicts.py: a verdict on each member, with the reason

The zone of the table is kept for all requests (`name_index.py`). A request looks one name up in it, and
searches of the whole table run in pieces (`searches.py`), so that no request delays a change of the table for
more than a few milliseconds. Sessions of members' znodes are read from ZooKeeper on request, and cached for
two seconds (`ZnodeStatCache`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Final

import msgspec

from zkdns.admin.api_types import ExplainedMember, Explanation, TypeAnswer
from zkdns.daemon.explain.classify_name import NameClass, NameClassifier
from zkdns.daemon.explain.member_verdicts import (
    MemberVerdicts,
    describe_merged_sets,
    is_in_answers,
    with_znode_stat,
)
from zkdns.daemon.explain.name_index import NameIndex
from zkdns.daemon.explain.other_children import find_other_children
from zkdns.daemon.explain.searches import Findings, SearchNeeded
from zkdns.daemon.ipc.request_messages import Explain, Refused
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.daemon.watcher.find_service import has_address
from zkdns.daemon.watcher.znode_cache import MAX_ZNODES
from zkdns.dns.chaos import ServerIdentity
from zkdns.dns.client_messages import build_query
from zkdns.dns.freshness import Freshness
from zkdns.dns.message import HEADER, MAX_MESSAGE, Rcode, Type, parse_query
from zkdns.dns.responder import Responder
from zkdns.dns.reverse import ReverseZones
from zkdns.dns.zone import Zone
from zkdns.durations import format_duration
from zkdns.errors import BadValueError
from zkdns.forward.special_use import special_use_answer
from zkdns.names import Labels
from zkdns.spelling import MemberAddress, parse_spelling
from zkdns.table import ANY_SERVICE, DEPARTED_SECONDS, Service

MAX_WAITING: Final = 16
"""Maximum number of requests that wait for others."""

_ID = 2  # bytes
_MAX_NAMED = 5  # members in a note
_TYPES = (Type.A, Type.AAAA, Type.SRV)
_OTHER_TYPES: dict[str, tuple[Type, ...]] = {
    "address": (Type.PTR,),
    "dns-sd": (Type.PTR, Type.SRV, Type.TXT),
    "apex": (Type.SOA, Type.NS, *_TYPES),
    "digest": (Type.TXT,),
}


async def explain(request: Explain, context: WatcherContext) -> Explanation | Refused:
    """Return the class of a name, its responses, and the verdict of each member."""
    if context.explainer is None:
        context.explainer = Explainer(context)
    return await context.explainer.explain(request.name)


class Explainer:
    """Explains names, one at a time, so that many requests take the time of one from the changes.

    Args:
        context: has the table.
    """

    def __init__(self, context: WatcherContext) -> None:
        self._context = context
        self._index = NameIndex(context.publisher)
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def explain(self, name: str) -> Explanation | Refused:
        """Explain one name."""
        if self._waiting >= MAX_WAITING:
            return Refused("busy", f"{self._waiting} explanations already wait; try again in a moment")
        self._waiting += 1
        try:
            async with self._turn:
                explanation = await self._explain_table(name)
        except BadValueError as error:
            return Refused("invalid", str(error))
        finally:
            self._waiting -= 1
        return await _with_sessions(explanation, self._context)

    async def _explain_table(self, name: str) -> Explanation:
        """Explain a name by the table alone, and run the searches that this needs.

        Raises:
            BadValueError: the text is neither a path nor a domain name.
        """
        findings = Findings()
        while True:
            zone = await self._index.update(self._context.config)
            try:
                return _explain_table(name, zone, self._index, findings, self._context)
            except SearchNeeded as needed:
                await findings.add(needed)


async def _with_sessions(explanation: Explanation, context: WatcherContext) -> Explanation:
    """Add what ZooKeeper knows about the members' znodes and the other children."""
    sources = context.zookeeper_sources
    others = list(find_other_children(explanation.origins, context))
    znodes = [row.znode for row in explanation.members if row.znode is not None] if sources else []
    more = [path for each in others for path in each.paths]
    stats = await context.znode_stats.read([*znodes, *more], sources)
    notes = (*explanation.notes, *(each.describe(stats) for each in others))
    if len(znodes) > MAX_ZNODES:
        notes += (f"only the first {MAX_ZNODES} of {len(znodes)} members are listed with their sessions",)
    members = tuple(with_znode_stat(row, stats) for row in explanation.members)
    return msgspec.structs.replace(explanation, members=members, notes=notes, now=time.time())


def _explain_table(
    text: str, zone: Zone, index: NameIndex, findings: Findings, context: WatcherContext
) -> Explanation:
    """Explain a name by the table alone, without the sessions of members' znodes.

    Raises:
        BadValueError: the text is neither a path nor a domain name.
        SearchNeeded: the result of a search is missing in `findings`.
    """
    config, table, health = context.config, context.publisher.table, context.publisher.health
    freshness = _freshness(context)
    classifier = NameClassifier(
        zone,
        table,
        config,
        forward_zones=context.forward_zones,
        freshness=freshness,
        findings=findings,
    )
    with _departed_members(classifier.possible_services(text), index, context) as departed:
        name_class = classifier.classify(text)
        answers = tuple(_answers(name_class, zone, freshness, classifier.reverse, context))
        service = table.services.get(name_class.service) if name_class.service is not None else None
        members = tuple(MemberVerdicts(zone, context).of(service.key)) if service is not None else ()
        policy = zone.policy_of(service.key) if service is not None else None
    for key in (name_class.service, name_class.labels, ANY_SERVICE):
        zone.reset_rotation(key or ANY_SERVICE)  # the counters of all names ever explained would take memory
    at_address = _members_at(text, classifier)
    if name_class.member is not None:
        members = tuple(row for row in members if _is_member(row, name_class.member))
    origins = tuple(owner.origin for owner in service.by_precedence()) if service is not None else ()
    heard, audited = _sync_ages(context)
    max_answers = policy.max_answers if policy is not None else None
    return Explanation(
        asked=text,
        name=name_class.name,
        kind=name_class.kind,
        rule=name_class.rule,
        notes=(*at_address, *_notes(name_class, service, members, departed, max_answers)),
        nearest=name_class.nearest,
        answers=answers,
        is_answered=name_class.kind == "forwarded" or any(answer.records for answer in answers),
        service=classifier.short_name(service.first.name.labels) if service is not None else None,
        origins=origins,
        members=members,
        ttl=policy.ttl if policy is not None else None,
        order=policy.order if policy is not None else None,
        max_answers=max_answers,
        state=context.source_state(origins or None),
        source="primary" if context.primary_source is not None else "zookeeper",
        problem=context.source_problem,
        ready=health.ready,
        stale=health.stale,
        stale_seconds=context.stale_seconds(origins or None),
        heard_seconds=heard,
        audited_seconds=audited,
        changed=context.history.changed_at(service.key) if service is not None else None,
        now=time.time(),
    )


def _members_at(text: str, classifier: NameClassifier) -> tuple[str, ...]:
    """Return a sentence about the members at an address. Empty: the text is no address."""
    spelling = parse_spelling(text)
    if not isinstance(spelling, MemberAddress):
        return ()
    names = [
        f"{classifier.short_name(key)} ({member.name})"
        for key, member in classifier.members_at(spelling.address)
        if has_address(member, spelling)
    ]
    if not names:
        return (f"no member has the address {text}",)
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return (f"members at {text}: {', '.join(names[:_MAX_NAMED])}{more}",)


def _sync_ages(context: WatcherContext) -> tuple[float | None, float | None]:
    """Return the seconds since ZooKeeper's last message, and since the last audit of all namespaces.

    None: there was none yet.
    """
    now = asyncio.get_running_loop().time()
    syncs = [source.sync for source in context.zookeeper_sources]
    heard = [sync.last_activity_at for sync in syncs if sync.last_activity_at is not None]
    audited = [sync.last_audit_at for sync in syncs if sync.last_audit_at is not None]
    is_all = len(audited) == len(syncs)
    return now - max(heard) if heard else None, now - min(audited) if audited and is_all else None


def _is_member(row: ExplainedMember, origin_and_name: tuple[str, str]) -> bool:
    origin, name = origin_and_name
    return row.member == name and (row.znode is None or row.znode == f"{origin}/{name}")


@contextlib.contextmanager
def _departed_members(
    keys: Iterable[Labels], index: NameIndex, context: WatcherContext
) -> Iterator[dict[tuple[str, str], float]]:
    """Put members that left a short time ago into the table, as in the workers' tables, within the context.

    Yields: the seconds since a member left, by origin and name.

    Args:
        keys: of the services whose members are put into the table.
        index: has the zone of the table.
        context: has the table and the history.
    """
    departed: dict[tuple[str, str], float] = {}
    added: list[tuple[Service, tuple[str, str]]] = []
    try:
        for key, origin, member, seconds in context.history.departures(DEPARTED_SECONDS, keys):
            service, member_key = context.publisher.table.services.get(key), (origin, member.name)
            owner = service.sets.get(origin) if service is not None else None
            if service is None or owner is None or member.name in owner.members or member_key in departed:
                continue
            departed[member_key] = seconds
            service.departed[member_key] = member, 0.0
            added.append((service, member_key))
        index.refresh({service.key for service, _ in added})
        yield departed
    finally:
        for service, member_key in added:
            del service.departed[member_key]
        index.refresh({service.key for service, _ in added})


def _answers(
    name_class: NameClass,
    zone: Zone,
    freshness: Freshness,
    reverse: ReverseZones | None,
    context: WatcherContext,
) -> Iterator[TypeAnswer]:
    """Yield the rcode and the number of records for each type, computed by the workers' responder."""
    if name_class.labels is None:
        return
    responder = Responder(zone, ServerIdentity(), freshness, reverse)
    for qtype in _OTHER_TYPES.get(name_class.kind, _TYPES):
        message = build_query(name_class.labels, qtype, ident=0)
        special = None
        if name_class.kind == "special" and context.forward_zones is not None:
            special = special_use_answer(parse_query(message), context.forward_zones.is_configured)
        if special is not None:
            response = special.pack(MAX_MESSAGE)
        else:
            answer = responder.answer(message[_ID:], stream=True, encode=lambda body, _: body)
            response = message[:_ID] + next(answer.responses)
        _, flags, _, count, _, _ = HEADER.unpack_from(response)
        yield TypeAnswer(qtype.name, Rcode(flags & 0xF).name, count)


def _freshness(context: WatcherContext) -> Freshness:
    freshness = Freshness(context.publisher.table, context.config.namespaces)
    for source, health in context.publisher.sources.items():
        freshness.set(source, ready=health.ready, stale=health.is_stale)
    return freshness


def _notes(
    name_class: NameClass,
    service: Service | None,
    members: Collection[ExplainedMember],
    departed: dict[tuple[str, str], float],
    max_answers: int | None,
) -> Iterator[str]:
    """Yield additional remarks, one sentence each."""
    if name_class.member in departed:
        age = departed[name_class.member]
        rest = format_duration(DEPARTED_SECONDS - age)
        yield f"it left {format_duration(age)} ago; its own name is answered for {rest} more"
    if service is None:
        return
    if merged := describe_merged_sets(service):
        yield merged
    count = sum(map(is_in_answers, members))
    if max_answers is not None and name_class.kind == "service" and count > max_answers:
        yield f"an answer has {max_answers} of {count} members (max_answers)"
    if not members and name_class.kind == "service" and not service.is_unread:
        yield "it has no members"
