"""What to answer: the rules in their order, each where its RFC section stands.

not a query: silence · malformed: FORMERR · another opcode: NOTIMP      (wire.parse_query)
EDNS version above 0: BADVERS
nothing but a cookie: NOERROR, or BADCOOKIE
who this is, in class CH: that, where it is told
another class, or a transfer: REFUSED
a name outside all zones, which no address of a member has: whoever answers for those, or REFUSED
the table has not been read yet: SERVFAIL
a service of which nothing could be read but that it exists: SERVFAIL
no such name: NXDOMAIN with SOA
addresses of members whose host names could not be resolved yet: SERVFAIL
no such type: NODATA with SOA
else the records, in the order whose turn it is

An answer stands for all who ask with the same bytes after the id, until the table says otherwise: so it is an
iterator over responses, and tells whose changes end it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import msgspec

from zkdns.dns.answer_source import PENDING, REFUSED, ZONE
from zkdns.dns.chaos import ServerIdentity
from zkdns.dns.edns import Ede, udp_limit
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.message import (
    CLASS_IN,
    HEADER_SIZE,
    MAX_MESSAGE,
    BadQueryError,
    Query,
    Rcode,
    Response,
    Type,
    parse_query,
)
from zkdns.dns.reverse import ReverseZones, address_of
from zkdns.dns.rotation import Rotation, make_rotation
from zkdns.dns.rrset import RRset
from zkdns.dns.zone import ANY_SERVICE, SOA_BYTES_AFTER_SERIAL, Zone, ZoneMatch
from zkdns.names import Labels

_ID = 2
_NO_ID = bytes(_ID)
_SERIAL = 4

EncodeResponse = Callable[[bytes, int], bytes]
"""What is done to each response after its id before it is kept and handed out; the number is how many bytes
of it are the question's."""


class CacheableAnswer(msgspec.Struct, frozen=True, gc=False):
    """What a query is answered with.

    `responses` are without their ids, for ever, each time the one whose turn it is; an empty one is silence.
    They are right until the service with the key `service` changes (`ABOVE`: until services come or go);
    None: this once. `question_end` is where the question ends in the query after its id. `rotation` is where
    responses are kept, if they are; `size` is how many bytes are, where they are kept otherwise. `is_rare`:
    there is no end of questions of its kind, and most are asked once. `source` is what it is made from.
    """

    responses: Iterator[bytes]
    service: Labels | None = None
    question_end: int = 0
    rotation: Rotation | None = None
    size: int = 0
    is_rare: bool = False
    source: str = ZONE


class Fallback(Protocol):
    """What answers for names outside the zones."""

    @property
    def recursion_available(self) -> bool:
        """Whether it asks anybody: then recursion is available (RFC 1035 §4.1.1)."""

    def answer(self, query: Query, limit: int, encode: Callable[[bytes], bytes]) -> CacheableAnswer:
        """The answer to a query of class IN; `wrap` makes of a response after its id what is handed out."""


class _Asked(msgspec.Struct, frozen=True, gc=False):
    """A query, and what its responses must be like."""

    query: Query
    limit: int
    stream: bool
    encode: EncodeResponse

    @property
    def has_options(self) -> bool:
        """Whether it came with EDNS options."""
        return self.query.edns is not None and bool(self.query.edns.options)

    def encoded(self, body: bytes) -> bytes:
        """A response after its id, ready to be handed out."""
        return self.encode(body, len(self.query.question))

    def ready(self, response: Response) -> bytes:
        """The response, ready to be handed out."""
        return self.encoded(response.pack(self.limit)[_ID:])

    def once(self, response: Response, source: str = ZONE) -> CacheableAnswer:
        """The answer that is this response, and no longer."""
        return CacheableAnswer(itertools.repeat(self.ready(response)), source=source)


class Responder:
    """Answers queries from the zones.

    Attributes:
        ready: whether the table has been read; until then no name of the zone is denied or answered.
        stale: whether the source of the table is out of reach, so that answers are the last good ones.
        stale_reason: what those are told who are given such an answer.
        cut_over_tcp: responses made that did not fit even into 64 KiB.
        elsewhere: what answers for names outside the zones; None: they are refused.
        extras: what is said by EDNS options.

    Args:
        zone: the names, and what stands there.
        identity: what is told of the server itself.
        reverse: what stands at names of addresses; None: they are as others outside the zones.
    """

    def __init__(self, zone: Zone, identity: ServerIdentity, reverse: ReverseZones | None = None) -> None:
        self.ready = False
        self.stale = False
        self.stale_reason = "ZooKeeper is out of reach"
        self.cut_over_tcp = 0
        self.fallback: Fallback | None = None
        self.edns_options = EdnsOptions()
        self._identity = identity
        self._zone = zone
        self._reverse = reverse

    def answer(self, query: bytes, *, stream: bool, encode: EncodeResponse) -> CacheableAnswer:
        """The answer to a query without its id; `stream`: it came over TCP, where responses may be long."""
        try:
            parsed = self.edns_options.negotiate(parse_query(_NO_ID + query), stream=stream)
        except BadQueryError as bad:
            body = (bad.response or b"")[_ID:]
            return CacheableAnswer(itertools.repeat(encode(body, 0)), source=REFUSED if body else PENDING)
        asked = _Asked(parsed, MAX_MESSAGE if stream else udp_limit(parsed.edns), stream, encode)
        apex, found = self._zone.apex_for(parsed), None
        if apex is None and self._reverse is not None and self.ready:
            found = self._reverse.find(parsed)
            apex = None if found is None else parsed.name
        refusal = self._refusal_of(parsed, apex)
        if refusal is not None:
            source = REFUSED if refusal.rcode else ZONE  # and what is told of the server itself is neither
            return self._sealed(asked, asked.once(self._marked(refusal), source))
        if not parsed.question:
            return self._confirm(asked)
        if apex is None:
            return self._from_elsewhere(asked)
        return self._sealed(asked, self._look_up(asked, apex, found or self._zone.find(parsed.name)))

    def _from_elsewhere(self, asked: _Asked) -> CacheableAnswer:
        """The answer to who asks for a name that is none of ours, at least not now."""
        assert self.fallback is not None  # noqa: S101 - or it would have been refused
        query = asked.query
        if asked.has_options:
            seal = partial(self.edns_options.finish, query)
            return self.fallback.answer(query, asked.limit, lambda body: seal(asked.encoded(body)))
        answer = self.fallback.answer(query, asked.limit, asked.encoded)
        if self._reverse is not None and address_of(query.name) is not None:  # it may become ours
            return msgspec.structs.replace(answer, service=None)
        return answer

    def _sealed(self, asked: _Asked, answer: CacheableAnswer) -> CacheableAnswer:
        """The answer, where it holds what is only known when its asker is; such a one is given this once."""
        if not asked.has_options:
            return answer
        return CacheableAnswer(
            map(partial(self.edns_options.finish, asked.query), answer.responses), source=answer.source
        )

    def _confirm(self, asked: _Asked) -> CacheableAnswer:
        """The answer to who wants nothing but a cookie, or to know whether one is right (RFC 7873 §5.4)."""
        right, wrong = (
            asked.ready(self._marked(Response(asked.query, rcode)))
            for rcode in (Rcode.NOERROR, Rcode.BADCOOKIE)
        )
        return CacheableAnswer(
            itertools.repeat(self.edns_options.finish(asked.query, right, if_unknown=wrong))
        )

    def _refusal_of(self, query: Query, apex: Labels | None) -> Response | None:
        """What is answered to a query for which no name is looked up."""
        if query.edns is not None and query.edns.version:  # RFC 6891 §6.1.3
            return Response(query, Rcode.BADVERS)
        if not query.question:
            return None
        if query.qclass != CLASS_IN:
            return self._identity.answer(query) or Response(query, Rcode.REFUSED, ede=Ede.NOT_SUPPORTED)
        if apex is None and self.fallback is None:  # RFC 8914 §4.21
            return Response(query, Rcode.REFUSED, ede=Ede.NOT_AUTHORITATIVE)
        if query.qtype in (Type.AXFR, Type.IXFR):
            return Response(query, Rcode.REFUSED, ede=Ede.NOT_SUPPORTED)
        return None

    def _look_up(self, asked: _Asked, apex: Labels, found: ZoneMatch) -> CacheableAnswer:
        query = asked.query
        failure = _failure_of(query, found) if self.ready else _not_ready(query)
        if failure is not None:
            return asked.once(self._marked(failure))
        response = self._marked(Response(query, authoritative=True))
        rotation = None
        if query.qtype in (Type.SOA, Type.ANY) and query.name == apex:  # of ANY it is enough (RFC 8482 §4.1)
            responses = self._with_soa(asked, response, apex, is_asked_for=True)
        elif records := self._zone.records(found, query):
            responses, rotation = self._in_rotation(asked, response, found.service, records)
        else:  # RFC 2308 §2.1, §2.2
            response.rcode = Rcode.NXDOMAIN if found.node is None else Rcode.NOERROR
            responses = self._with_soa(asked, response, apex, is_asked_for=False)
        service = found.service if _is_lasting(query, found) else None
        end = HEADER_SIZE - _ID + len(query.question)
        return CacheableAnswer(responses, service, end, rotation, is_rare=service == ANY_SERVICE)

    def _marked(self, response: Response) -> Response:
        """The response with what all of them tell: whether others are asked too, and how old the table is."""
        response.recursion_available = self.fallback is not None and self.fallback.recursion_available
        if self.stale and response.authoritative and response.ede is None:
            response.ede, response.ede_text = Ede.STALE_ANSWER, self.stale_reason
        return response

    def _with_soa(
        self, asked: _Asked, response: Response, apex: Labels, *, is_asked_for: bool
    ) -> Iterator[bytes]:
        """Responses that hold the zone's SOA alone, with its serial as it is when they are given.

        It fits into the least message with the longest name.
        """
        template = response.template()
        soa = self._zone.soa(asked.query, apex)
        whole = asked.encoded(template.build(soa, is_asked_for, not is_asked_for, 0))
        at = len(whole) - len(template.opt) - SOA_BYTES_AFTER_SERIAL - _SERIAL
        return self._with_serial(whole[:at], whole[at + _SERIAL :])

    def _with_serial(self, before: bytes, behind: bytes) -> Iterator[bytes]:
        while True:
            yield before + self._zone.serial() + behind

    def _in_rotation(
        self, asked: _Asked, response: Response, service: Labels, records: RRset
    ) -> tuple[Iterator[bytes], Rotation | None]:
        """Responses with these records in the service's order, and no more of them than it allows."""
        policy = self._zone.policy_of(service)
        if policy.order == "random":
            return self._in_random_order(asked, response, records, policy.max_answers), None
        takes_turns = policy.order == "round-robin"
        turns = self._zone.counter(service, asked.query, records.period if takes_turns else 1)
        rotation = make_rotation(
            records.packed if takes_turns else msgspec.structs.replace(records.packed, leaders=()),
            turns,
            response.template(),
            limit=asked.limit,
            most=policy.max_answers,
            encode=asked.encoded,
            on_cut=self._cut_over_tcp if asked.stream else _cut_over_udp,
        )
        return map(rotation.__getitem__, turns), rotation

    def _in_random_order(
        self, asked: _Asked, response: Response, records: RRset, most: int | None
    ) -> Iterator[bytes]:
        for drawn in self._zone.shuffled(records):
            response.answers = [record.answer for record in drawn[:most]]
            response.additional = list(
                {additional: None for record in drawn[:most] for additional in record.additional}
            )
            yield asked.encoded(response.pack(asked.limit)[_ID:])
            if response.truncated and asked.stream:
                self._cut_over_tcp()

    def _cut_over_tcp(self) -> None:
        self.cut_over_tcp += 1


def _cut_over_udp() -> None:
    """TC asks for TCP, where there is more room."""


def _not_ready(query: Query) -> Response:
    """SERVFAIL as long as nobody knows which names there are."""
    return Response(query, Rcode.SERVFAIL, ede=Ede.NOT_READY, ede_text="the table has not been read yet")


def _failure_of(query: Query, found: ZoneMatch) -> Response | None:
    """SERVFAIL where something is there, and nobody knows what: to deny it would be wrong."""
    if found.is_unread:
        text = "the service cannot be read from ZooKeeper"
        return Response(query, Rcode.SERVFAIL, ede=Ede.NOT_READY, ede_text=text)
    node = found.node
    if node is not None and node.is_unresolved and query.qtype in (Type.A, Type.AAAA):
        return Response(
            query, Rcode.SERVFAIL, ede=Ede.NO_REACHABLE_AUTHORITY, ede_text="no host could be resolved yet"
        )
    return None


def _is_lasting(query: Query, found: ZoneMatch) -> bool:
    """Whether the answer may be given again.

    Options make queries of one question differ without end, and so do names that a service does not have.
    """
    if found.depends_on_others or (query.edns is not None and bool(query.edns.options)):
        return False
    return found.node is not None or found.service == ANY_SERVICE
