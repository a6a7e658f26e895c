"""Answers to people who ask what a running server answers, and why (`inquiries`).

Zones are looked at anew each time. What ZooKeeper knows of members' znodes is asked when somebody wants to
know it, and kept for a moment (`looks`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterator

import msgspec

from zkdns.daemon.explain.classify_name import NameClass, NameClassifier
from zkdns.daemon.explain.member_verdicts import MemberVerdicts, is_answered, merged_origins, with_stats
from zkdns.daemon.ipc.control import Refused
from zkdns.daemon.ipc.control_messages import Explain, ExplainedMember, Explanation, TypeAnswer
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.daemon.watcher.queries import state_of
from zkdns.daemon.watcher.znode_cache import MAX_CACHED
from zkdns.dns.chaos import ServerIdentity
from zkdns.dns.client_messages import build_query
from zkdns.dns.message import HEADER, MAX_MESSAGE, Rcode, Type, parse_query
from zkdns.dns.responder import Responder
from zkdns.dns.reverse import ReverseZones
from zkdns.dns.zone import Zone
from zkdns.durations import format_duration
from zkdns.errors import BadValueError
from zkdns.forward.special_use import special_use_answer
from zkdns.table import DEPARTED_SECONDS, Service

_ID = 2
_TYPES = (Type.A, Type.AAAA, Type.SRV)
_OTHER_TYPES: dict[str, tuple[Type, ...]] = {
    "address": (Type.PTR,),
    "dns-sd": (Type.PTR, Type.SRV, Type.TXT),
    "apex": (Type.SOA, Type.NS, *_TYPES),
}


async def explain(request: Explain, known: WatcherContext) -> Explanation | Refused:
    """What a name is, and what becomes of each of its members."""
    try:
        explained = _explain(request.name, known)
    except BadValueError as error:
        return Refused("mistaken", str(error))
    znodes = [row.znode for row in explained.members if row.znode is not None] if known.zookeeper else []
    looks = await known.looks.of(znodes, known.zookeeper)
    notes = explained.notes
    if len(znodes) > MAX_CACHED:
        notes += (f"sessions are told of the first {MAX_CACHED} members alone, of {len(znodes)}",)
    members = tuple(with_stats(row, looks) for row in explained.members)
    return msgspec.structs.replace(explained, members=members, notes=notes, now=time.time())


def _explain(asked: str, known: WatcherContext) -> Explanation:
    config, table, health = known.config, known.publisher.table, known.publisher.health
    with _departed(known) as left:
        zone = Zone(table, config)
        meanings = NameClassifier(zone, table, config, known.routes, ready=health.ready)
        meaning = meanings.of(asked)
        answers = tuple(_answers(meaning, zone, meanings.reverse, known))
        service = table.services.get(meaning.service) if meaning.service is not None else None
        members = tuple(MemberVerdicts(zone, known).of(service.key)) if service is not None else ()
        policy = zone.policy_of(service.key) if service is not None else None
    if meaning.member is not None:
        members = tuple(row for row in members if _is(row, meaning.member))
    heard, audited = _heard(known)
    return Explanation(
        asked=asked,
        name=meaning.name,
        kind=meaning.kind,
        rule=meaning.rule,
        notes=tuple(_notes(meaning, service, members, left, policy.max_answers if policy else None)),
        nearest=meaning.nearest,
        answers=answers,
        is_answered=meaning.kind == "forwarded" or any(answer.records for answer in answers),
        service=meanings.short(service.first.name.labels) if service is not None else None,
        origins=tuple(owner.origin for owner in service.by_precedence()) if service is not None else (),
        members=members,
        ttl=policy.ttl if policy is not None else None,
        order=policy.order if policy is not None else None,
        max_answers=policy.max_answers if policy is not None else None,
        state=state_of(known),
        ready=health.ready,
        stale=health.stale,
        stale_seconds=known.stale_seconds,
        heard_seconds=heard,
        audited_seconds=audited,
        changed=known.history.changed(service.key) if service is not None else None,
        now=time.time(),
    )


def _heard(known: WatcherContext) -> tuple[float | None, float | None]:
    """How long ago ZooKeeper last told anything, and everything was last listed; None: never yet."""
    now = asyncio.get_running_loop().time()
    syncs = [source.sync for source in known.zookeeper]
    heard = [sync.heard_at for sync in syncs if sync.heard_at is not None]
    audited = [sync.audited_at for sync in syncs if sync.audited_at is not None]
    is_all = len(audited) == len(syncs)
    return now - max(heard) if heard else None, now - min(audited) if audited and is_all else None


def _is(row: ExplainedMember, wanted: tuple[str, str]) -> bool:
    origin, name = wanted
    return row.member == name and (row.znode is None or row.znode == f"{origin}/{name}")


@contextlib.contextmanager
def _departed(known: WatcherContext) -> Iterator[dict[tuple[str, str], float]]:
    """Within this the table knows who has just left, as those of the workers do.

    Yields: how long ago that was, by origin and name.
    """
    left: dict[tuple[str, str], float] = {}
    lent: list[tuple[Service, tuple[str, str]]] = []
    try:
        for key, origin, member, seconds in known.history.leavers(DEPARTED_SECONDS):
            service, who = known.publisher.table.services.get(key), (origin, member.name)
            owner = service.sets.get(origin) if service is not None else None
            if service is None or owner is None or member.name in owner.members or who in left:
                continue
            left[who] = seconds
            service.departed[who] = member, 0.0
            lent.append((service, who))
        yield left
    finally:
        for service, who in lent:
            del service.departed[who]


def _answers(
    meaning: NameClass, zone: Zone, reverse: ReverseZones | None, known: WatcherContext
) -> Iterator[TypeAnswer]:
    """What the name is answered with, by the same rules as in the workers."""
    if meaning.labels is None:
        return
    responder = Responder(zone, ServerIdentity(), reverse)
    responder.ready, responder.stale = known.publisher.health.ready, known.publisher.health.stale
    for qtype in _OTHER_TYPES.get(meaning.kind, _TYPES):
        message = build_query(meaning.labels, qtype, ident=0)
        special = None
        if meaning.kind == "special" and known.routes is not None:
            special = special_use_answer(parse_query(message), known.routes.is_configured)
        if special is not None:
            response = special.pack(MAX_MESSAGE)
        else:
            answer = responder.answer(message[_ID:], stream=True, wrap=lambda body, _: body)
            response = message[:_ID] + next(answer.responses)
        _, flags, _, count, _, _ = HEADER.unpack_from(response)
        yield TypeAnswer(qtype.name, Rcode(flags & 0xF).name, count)


def _notes(
    meaning: NameClass,
    service: Service | None,
    members: Collection[ExplainedMember],
    left: dict[tuple[str, str], float],
    most: int | None,
) -> Iterator[str]:
    """What else is worth knowing."""
    if meaning.member in left:
        ago = left[meaning.member]
        rest = format_duration(DEPARTED_SECONDS - ago)
        yield f"it left {format_duration(ago)} ago; its own name is answered for {rest} more"
    if service is None:
        return
    if merged := merged_origins(service):
        yield merged
    answered = sum(map(is_answered, members))
    if most is not None and meaning.kind == "service" and answered > most:
        yield f"an answer holds {most} of {answered} members (max_answers)"
    if not members and meaning.kind == "service" and not service.is_unread:
        yield "it has no members"
