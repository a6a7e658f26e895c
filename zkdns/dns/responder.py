"""The responder: the DNS rules for a query that is not in the response cache.

    query ──▶ 1 parse_query, EdnsOptions.negotiate
          │       a response: no answer · another opcode: NOTIMP · malformed: FORMERR
          ├─▶ 2 Responder._refuse: rules that need no lookup
          │       EDNS version above 0: BADVERS · class CH: the server's identity · other class: REFUSED
          │       out of zone and nothing to forward to: REFUSED · zone transfer: REFUSED
          ├─▶ 3 Responder._cookie_only: no question but a cookie: NOERROR or BADCOOKIE
          ├─▶ 4 Responder._forward: out of zone: the forwarder answers
          └─▶ 5 Responder._look_up: in zone
                  table not read yet: SERVFAIL · service or hosts unknown: SERVFAIL
                  SOA or ANY at the apex: SOA · records: the RRset in the order of the rotation
                  name exists without such records: NODATA with SOA · no such name: NXDOMAIN with SOA

An answer holds for all queries with the same bytes after the id, until the table changes. It is therefore an
endless iterator over responses, together with the key of the service whose changes end its validity.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
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
"""Makes a response after its id ready to send; the second argument is the length of its question."""


class CacheableAnswer(msgspec.Struct, frozen=True, gc=False):
    """The responses to a query, and how long they may be cached.

    Attributes:
        responses: endless responses without ids, in the order of the rotation; empty bytes mean no response.
        service: key of the service that the answer depends on. `ANY_SERVICE`: the answer is dropped when
            services are added or removed. None: it must not be cached.
        question_end: offset of the end of the question, in the query after its id.
        rotation: the rotation that keeps the responses, if there is one.
        size: bytes of kept responses, if there is no rotation.
        is_rare: whether most such queries are never repeated. They are cached from the second time on.
        source: where the responses come from (`answer_source`).
    """

    responses: Iterator[bytes]
    service: Labels | None = None
    question_end: int = 0
    rotation: Rotation | None = None
    size: int = 0
    is_rare: bool = False
    source: str = ZONE


class Fallback(Protocol):
    """Answers for names outside the zones: the forwarder."""

    @property
    def recursion_available(self) -> bool:
        """Whether there are upstreams; the RA flag of all responses (RFC 1035 §4.1.1)."""

    def answer(self, query: Query, limit: int, encode: Callable[[bytes], bytes]) -> CacheableAnswer:
        """The answer to a query of class IN.

        Args:
            query: the parsed query.
            limit: maximum bytes of a message.
            encode: makes a response after its id ready to send.
        """


class _Request(msgspec.Struct, frozen=True, gc=False):
    """A parsed query, with the size limit and the encoding of its responses."""

    query: Query
    limit: int
    stream: bool
    encode_response: EncodeResponse
    edns_options: EdnsOptions

    @property
    def has_options(self) -> bool:
        """Whether the query has EDNS options."""
        return self.query.edns is not None and bool(self.query.edns.options)

    def encode(self, body: bytes) -> bytes:
        """A response after its id, ready to send."""
        return self.encode_response(body, len(self.query.question))

    def pack(self, response: Response) -> bytes:
        """A response, ready to send."""
        return self.encode(response.pack(self.limit)[_ID:])

    def finish(self, encoded: bytes) -> bytes:
        """A response with its server cookie, if the query has a cookie."""
        return self.edns_options.finish(self.query, encoded)

    def encode_and_finish(self, body: bytes) -> bytes:
        """A response after its id, ready to send and with its server cookie."""
        return self.finish(self.encode(body))

    def answer_once(self, response: Response, source: str = ZONE) -> CacheableAnswer:
        """An answer that must not be cached."""
        return CacheableAnswer(itertools.repeat(self.pack(response)), source=source)


class Responder:
    """Answers queries from the zones.

    Attributes:
        ready: whether the table has been read; until then every name in a zone gets SERVFAIL.
        stale: whether ZooKeeper is out of reach, so that responses may be out of date.
        stale_reason: text of the extended error in such responses.
        truncated_over_tcp: number of responses that did not fit even into 64 KiB.
        fallback: answers queries for names outside the zones. None: such queries are refused.
        edns_options: the EDNS options of responses.

    Args:
        zone: names and records.
        identity: name and version of the server.
        reverse: the reverse zones. None: all names of addresses are outside the zones.
    """

    def __init__(self, zone: Zone, identity: ServerIdentity, reverse: ReverseZones | None = None) -> None:
        self.ready = False
        self.stale = False
        self.stale_reason = "ZooKeeper is out of reach"
        self.truncated_over_tcp = 0
        self.fallback: Fallback | None = None
        self.edns_options = EdnsOptions()
        self._identity = identity
        self._zone = zone
        self._reverse = reverse

    def answer(self, query: bytes, *, stream: bool, encode: EncodeResponse) -> CacheableAnswer:
        """Answer a query.

        Args:
            query: the message without its id.
            stream: whether it arrived over TCP, so that responses may have up to 64 KiB.
            encode: makes a response after its id ready to send.
        """
        try:
            parsed = self.edns_options.negotiate(parse_query(_NO_ID + query), stream=stream)
        except BadQueryError as bad:
            body = (bad.response or b"")[_ID:]
            return CacheableAnswer(itertools.repeat(encode(body, 0)), source=REFUSED if body else PENDING)
        limit = MAX_MESSAGE if stream else udp_limit(parsed.edns)
        request = _Request(parsed, limit, stream, encode, self.edns_options)
        apex, match = self._find_zone(parsed)
        refused = self._refuse(parsed, apex)
        if refused is not None:
            source = REFUSED if refused.rcode else ZONE  # the server's identity is no refusal
            return self._finish(request, request.answer_once(self._with_status(refused), source))
        if not parsed.question:
            return self._cookie_only(request)
        if apex is None:
            return self._forward(request)
        return self._finish(request, self._look_up(request, apex, match or self._zone.find(parsed.name)))

    def _find_zone(self, query: Query) -> tuple[Labels | None, ZoneMatch | None]:
        """The apex of the zone of the name (None: out of zone), and the match if it is a reverse zone."""
        apex = self._zone.apex_for(query)
        if apex is None and self._reverse is not None and self.ready:
            match = self._reverse.find(query)
            if match is not None:
                return query.name, match
        return apex, None

    # -- rules that need no lookup -------------------------------------------------------------------------

    def _refuse(self, query: Query, apex: Labels | None) -> Response | None:
        """The response by the rules that need no lookup of the name. None: continue with the lookup."""
        # RFC 6891 §6.1.3: only version 0 exists.
        if query.edns is not None and query.edns.version:
            return Response(query, Rcode.BADVERS)
        if not query.question:
            return None
        # RFC 4892: the server's identity in class CH.
        if query.qclass != CLASS_IN:
            return self._identity.answer(query) or Response(query, Rcode.REFUSED, ede=Ede.NOT_SUPPORTED)
        # RFC 8914 §4.21: neither in a zone nor forwarded.
        if apex is None and self.fallback is None:
            return Response(query, Rcode.REFUSED, ede=Ede.NOT_AUTHORITATIVE)
        # RFC 5936, RFC 1995: zone transfers are not supported.
        if query.qtype in (Type.AXFR, Type.IXFR):
            return Response(query, Rcode.REFUSED, ede=Ede.NOT_SUPPORTED)
        return None

    def _cookie_only(self, request: _Request) -> CacheableAnswer:
        """Answer a query without a question, which requests or verifies a cookie (RFC 7873 §5.4)."""
        valid, invalid = (
            request.pack(self._with_status(Response(request.query, rcode)))
            for rcode in (Rcode.NOERROR, Rcode.BADCOOKIE)
        )
        response = self.edns_options.finish(request.query, valid, if_invalid=invalid)
        return CacheableAnswer(itertools.repeat(response))

    def _finish(self, request: _Request, answer: CacheableAnswer) -> CacheableAnswer:
        """The answer with server cookies. The answer to a query with EDNS options is not cached."""
        if not request.has_options:
            return answer
        return CacheableAnswer(map(request.finish, answer.responses), source=answer.source)

    # -- out of zone ---------------------------------------------------------------------------------------

    def _forward(self, request: _Request) -> CacheableAnswer:
        assert self.fallback is not None  # noqa: S101 - _refuse has checked
        query = request.query
        if request.has_options:
            return self.fallback.answer(query, request.limit, request.encode_and_finish)
        answer = self.fallback.answer(query, request.limit, request.encode)
        if self._reverse is not None and address_of(query.name) is not None:
            # A member may get this address at any time; the name is then in a reverse zone.
            return msgspec.structs.replace(answer, service=None)
        return answer

    # -- in zone -------------------------------------------------------------------------------------------

    def _look_up(self, request: _Request, apex: Labels, match: ZoneMatch) -> CacheableAnswer:
        query = request.query
        failure = _unknown_data(query, match) if self.ready else _not_ready(query)
        if failure is not None:
            return request.answer_once(self._with_status(failure))
        response = self._with_status(Response(query, authoritative=True))
        rotation = None
        if query.qtype in (Type.SOA, Type.ANY) and query.name == apex:  # RFC 8482 §4.1: one RRset for ANY
            responses = self._with_soa(request, response, apex, is_answer=True)
        elif records := self._zone.records(match, query):
            responses, rotation = self._in_order(request, response, match.service, records)
        else:  # RFC 2308 §2.1 (NXDOMAIN), §2.2 (NODATA)
            response.rcode = Rcode.NXDOMAIN if match.node is None else Rcode.NOERROR
            responses = self._with_soa(request, response, apex, is_answer=False)
        service = match.service if _is_cacheable(query, match) else None
        end = HEADER_SIZE - _ID + len(query.question)
        return CacheableAnswer(responses, service, end, rotation, is_rare=service == ANY_SERVICE)

    def _with_status(self, response: Response) -> Response:
        """Set the RA flag, and the extended error of a stale answer (RFC 8914 §4.4)."""
        response.recursion_available = self.fallback is not None and self.fallback.recursion_available
        if self.stale and response.authoritative and response.ede is None:
            response.ede, response.ede_text = Ede.STALE_ANSWER, self.stale_reason
        return response

    def _with_soa(
        self, request: _Request, response: Response, apex: Labels, *, is_answer: bool
    ) -> Iterator[bytes]:
        """Responses with only the zone's SOA, in the answer or authority section.

        Each response has the present serial of the table. Even with the longest name, the message fits into
        512 bytes, so that it is never truncated.
        """
        template = response.template()
        soa = self._zone.soa(request.query, apex)
        whole = request.encode(template.build(soa, is_answer, not is_answer, 0))
        at = len(whole) - len(template.opt) - SOA_BYTES_AFTER_SERIAL - _SERIAL
        return self._with_serial(whole[:at], whole[at + _SERIAL :])

    def _with_serial(self, before: bytes, after: bytes) -> Iterator[bytes]:
        while True:
            yield before + self._zone.serial() + after

    def _in_order(
        self, request: _Request, response: Response, service: Labels, records: RRset
    ) -> tuple[Iterator[bytes], Rotation | None]:
        """Responses with these records, in the service's order and up to its limit."""
        policy = self._zone.policy_of(service)
        if policy.order == "random":
            return self._in_random_order(request, response, records, policy.max_answers), None
        rotates = policy.order == "round-robin"
        counter = self._zone.rotation_counter(service, request.query, records.period if rotates else 1)
        rotation = make_rotation(
            records.packed if rotates else msgspec.structs.replace(records.packed, leaders=()),
            counter,
            response.template(),
            max_message=request.limit,
            limit=policy.max_answers,
            encode=request.encode,
            on_truncated=self._count_truncated if request.stream else _retry_over_tcp,
        )
        return map(rotation.__getitem__, counter), rotation

    def _in_random_order(
        self, request: _Request, response: Response, records: RRset, limit: int | None
    ) -> Iterator[bytes]:
        for drawn in self._zone.shuffled(records):
            response.answers = [record.answer for record in drawn[:limit]]
            response.additional = list({one: None for record in drawn[:limit] for one in record.additional})
            yield request.pack(response)
            if response.truncated and request.stream:
                self._count_truncated()

    def _count_truncated(self) -> None:
        self.truncated_over_tcp += 1


def _retry_over_tcp() -> None:
    """A truncated response over UDP is not counted: TC makes the client repeat the query over TCP."""


def _not_ready(query: Query) -> Response:
    """SERVFAIL: the table has not been read, so it is unknown which names exist."""
    return Response(query, Rcode.SERVFAIL, ede=Ede.NOT_READY, ede_text="the table has not been read yet")


def _unknown_data(query: Query, match: ZoneMatch) -> Response | None:
    """SERVFAIL if the name exists but its data is unknown: NODATA would be wrong."""
    if match.is_unread:
        text = "the service cannot be read from ZooKeeper"
        return Response(query, Rcode.SERVFAIL, ede=Ede.NOT_READY, ede_text=text)
    node = match.node
    if node is not None and node.is_unresolved and query.qtype in (Type.A, Type.AAAA):
        return Response(
            query, Rcode.SERVFAIL, ede=Ede.NO_REACHABLE_AUTHORITY, ede_text="no host could be resolved yet"
        )
    return None


def _is_cacheable(query: Query, match: ZoneMatch) -> bool:
    """Whether the answer may be cached.

    Not cached: queries with EDNS options, and names below a service that do not exist, because clients can
    send unlimited numbers of both; and answers that depend on several services.
    """
    if match.depends_on_others or (query.edns is not None and bool(query.edns.options)):
        return False
    return match.node is not None or match.service == ANY_SERVICE
