"""The responder: the DNS rules for a query that is not in the response cache.

    query ──▶ 1 parse_query, EdnsOptions.negotiate
          │       a response: no answer · another opcode: NOTIMP · malformed: FORMERR
          ├─▶ 2 Responder._relay: zone transfer or signed query, if zone transfers are configured: relayed
          ├─▶ 3 Responder._refuse: rules that need no lookup
          │       EDNS version above 0: BADVERS · class CH: the server's identity · other class: REFUSED
          │       out of zone and nothing to forward to: REFUSED · zone transfer: REFUSED
          ├─▶ 4 Responder._cookie_only: no question but a cookie: NOERROR or BADCOOKIE
          ├─▶ 5 Responder._forward: out of zone: the forwarder answers
          └─▶ 6 Responder._look_up: in zone
                  table not read yet: SERVFAIL · service or hosts unknown: SERVFAIL
                  SOA or ANY at the apex: SOA · records: the RRset in the order of the rotation
                  name exists without such records: NODATA with SOA · no such name: NXDOMAIN with SOA

An answer holds for all queries with the same bytes after the id, until the table changes. It is therefore an
endless iterator over responses, together with the key of the service whose changes end its validity.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec

from zkdns.dns.answer_source import PENDING, REFUSED, ZONE
from zkdns.dns.chaos import ServerIdentity
from zkdns.dns.edns import Ede, udp_limit
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.forward_form import ForwardForm, OrdinaryNames
from zkdns.dns.freshness import Freshness
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
from zkdns.dns.query_form import QueryForm, form_of
from zkdns.dns.reverse import ReverseZones, address_of
from zkdns.dns.rotation import Rotation, make_rotation
from zkdns.dns.rrset import RRset
from zkdns.dns.service_names import PROTOCOLS
from zkdns.dns.zone import SOA_BYTES_AFTER_SERIAL, Zone, ZoneMatch
from zkdns.names import Labels
from zkdns.table import ANY_SERVICE

_ID = 2
_NO_ID = bytes(_ID)
_SERIAL = 4
_MAX_COUNTED_LABELS = 12
_NOTIFY = 4  # an opcode
_AUTHORITY_COUNT = slice(6, 8)  # in a query after its id

MAX_RELAYED_QUERY = 4096
"""Bytes of a relayed query. One with three names, a signature and the usual options has some 1,500."""

EncodeResponse = Callable[[bytes, int], bytes]
"""Makes a response after its id ready to send; the second argument is the length of its question."""


class Absence(msgspec.Struct, frozen=True, gc=False):
    """A name that does not exist (NXDOMAIN), and the parts of its responses.

    Other names of the same length that are absent in the same way have the same parts, except for the name.

    Attributes:
        name: the name in lower case.
        apex: the apex of its zone.
        service: key of the service that it is below, or `ANY_SERVICE`.
        is_stale: whether the response has the extended error for stale answers.
        before: the response before the serial of its SOA, ready to send.
        after: the response after it.
    """

    name: Labels
    apex: Labels
    service: Labels
    is_stale: bool
    before: bytes
    after: bytes


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
        has_options: whether the query has EDNS options.
        cookie: the cookie option of the query, if the responses end with zeros in place of the cookies.
        absence: if the name does not exist, the parts of its responses.
        form: if it is the name of a member, the form of the query, for `Responder.answer_member`.
        forward_form: if it is forwarded, the form of the query, for `Responder.forward_name`.
    """

    responses: Iterator[bytes]
    service: Labels | None = None
    question_end: int = 0
    rotation: Rotation | None = None
    size: int = 0
    is_rare: bool = False
    source: str = ZONE
    has_options: bool = False
    cookie: bytes | None = None
    absence: Absence | None = None
    form: QueryForm | None = None
    forward_form: ForwardForm | None = None


class Fallback(Protocol):
    """Answers for names outside the zones: the forwarder."""

    @property
    def recursion_available(self) -> bool:
        """Whether there are upstreams; the RA flag of all responses (RFC 1035 §4.1.1)."""

    @property
    def domains(self) -> Iterable[Labels]:
        """The domains, in lower case, whose names have rules of their own; `defer` must not get them."""

    def answer(self, query: Query, limit: int, encode: EncodeResponse) -> CacheableAnswer:
        """The answer to a query of class IN.

        Args:
            query: the parsed query.
            limit: maximum bytes of a message.
            encode: makes a response after its id ready to send.
        """

    def defer(self, form: ForwardForm, name: bytes, lower: bytes) -> bytes | None:
        """The deferred response to a query of this form. None: use `answer`, because one may be cached.

        Args:
            form: a form of earlier queries.
            name: a name in wire format without the root label, in none of `domains`.
            lower: the same in lower case.
        """


class QueryRelay(Protocol):
    """Passes queries on to a process that answers them: zone transfers, signed queries, NOTIFY."""

    def respond(self, query: bytes, unavailable: bytes, encode: EncodeResponse, *, stream: bool) -> bytes:
        """The response to a query after its id, which is sent later.

        Args:
            query: the query after its id.
            unavailable: the response after its id if that process does not respond.
            encode: makes a response after its id ready to send over UDP.
            stream: whether the query arrived over TCP.
        """


class _Request(msgspec.Struct, frozen=True, gc=False):
    """A parsed query, with the size limit and the encoding of its responses."""

    query: Query
    limit: int
    stream: bool
    encode_response: EncodeResponse

    def encode(self, body: bytes) -> bytes:
        """A response after its id, ready to send."""
        return self.encode_response(body, len(self.query.question))

    def pack(self, response: Response) -> bytes:
        """A response, ready to send."""
        return self.encode(response.pack(self.limit)[_ID:])

    def answer_once(self, response: Response, source: str = ZONE) -> CacheableAnswer:
        """An answer that must not be cached."""
        return CacheableAnswer(itertools.repeat(self.pack(response)), source=source)


class Responder:
    """Answers queries from the zones.

    Attributes:
        stale_reason: text of the extended error in such responses.
        truncated_over_tcp: number of responses that did not fit even into 64 KiB.
        fallback: answers queries for names outside the zones. None: such queries are refused.
        transfers: answers zone transfers and signed queries. None: transfers are refused, signatures ignored.
        notifies: answers NOTIFY (RFC 1996). None, or if it does not respond: NOTIMP.
        edns_options: the EDNS options of responses.

    Args:
        zone: names and records.
        identity: name and version of the server.
        freshness: which data has been read, and which may be out of date. A name whose data has not been read
            gets SERVFAIL.
        reverse: the reverse zones. None: all names of addresses are outside the zones.
    """

    def __init__(
        self,
        zone: Zone,
        identity: ServerIdentity,
        freshness: Freshness,
        reverse: ReverseZones | None = None,
    ) -> None:
        self.stale_reason = "ZooKeeper is unreachable"
        self.truncated_over_tcp = 0
        self.fallback: Fallback | None = None
        self.transfers: QueryRelay | None = None
        self.notifies: QueryRelay | None = None
        self.edns_options = EdnsOptions()
        self._identity = identity
        self._zone = zone
        self._freshness = freshness
        self._reverse = reverse
        self._ordinary: OrdinaryNames | None = None

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
            if self.notifies is not None and body and _is_notify(query):
                relayed_body = self.notifies.respond(query, body, encode, stream=stream)
                return CacheableAnswer(itertools.repeat(relayed_body), source=PENDING)
            return CacheableAnswer(itertools.repeat(encode(body, 0)), source=REFUSED if body else PENDING)
        limit = MAX_MESSAGE if stream else udp_limit(parsed.edns)
        request = _Request(parsed, limit, stream, encode)
        relayed = self._relay(request, query)
        if relayed is not None:
            return relayed
        apex, match = self._find_zone(parsed)
        refused = self._refuse(parsed, apex)
        if refused is not None:
            source = REFUSED if refused.rcode else ZONE  # the server's identity is no refusal
            return self._with_options(parsed, request.answer_once(self._with_ra(refused), source))
        if not parsed.question:
            return self._cookie_only(request)
        if apex is None:
            answer = self._forward(request)
        else:
            answer = self._look_up(request, apex, match or self._zone.find(parsed.name))
        if not parsed.is_exact:  # there is an unlimited number of such queries
            answer = msgspec.structs.replace(answer, service=None, absence=None)
        return self._with_options(parsed, answer)

    def answer_member(self, form: QueryForm, name: bytes) -> tuple[Labels, bytes] | None:
        """Answer a query of this form for the name of a member.

        Args:
            form: as in the answer to another query.
            name: the name in wire format without the root label; anything that is not the name of a member
                in lower case has none.

        Returns:
            the key of the service, and the only response after its id. None: use `answer`, for example
            because there are several records or none.
        """
        if not self._freshness.is_current:
            return None
        found = self._zone.find_member(name)
        if found is None:
            return None
        service, label, node = found
        question = name + form.after_name
        record = self._zone.single_record(service, node, form.query_for((label, *service), question))
        response = form.response(question, *record) if record is not None else None
        return (service, response) if response is not None else None

    def forward_name(self, form: ForwardForm, name: bytes) -> bytes | None:
        """The deferred response to a query of this form.

        Args:
            form: as in the answer to another query.
            name: the name in wire format without the root label; it may be malformed.

        Returns:
            None: use `answer`.
        """
        if self.fallback is None or self._ordinary is None:
            return None
        lower = name.lower()  # leaves the lengths of valid labels unchanged: they are smaller than any letter
        return self.fallback.defer(form, name, lower) if lower in self._ordinary else None

    def is_absent(self, name: Labels, like: Absence) -> bool:
        """Whether a name (in lower case) in the same zone does not exist, and has the same response."""
        match = self._zone.find(name)
        if match.node is not None or match.service != like.service or self._zone.apex_of(name) != like.apex:
            return False
        if self._freshness.is_current:
            return not like.is_stale
        apex, service = like.apex, like.service
        return (
            not self._freshness.is_unknown(apex, name, service, exists=False)
            and self._freshness.is_stale(apex, service) == like.is_stale
        )

    def count_absent_labels(self, name: Labels, limit: int) -> int | None:
        """The number of labels of an absent name that are below its closest encloser (RFC 4592 §3.3.1).

        None: there are more than `limit`, or the name has so many labels that counting would take too long.
        """
        if len(name) > _MAX_COUNTED_LABELS:
            return None
        counts = range(1, min(limit, len(name) - 1) + 1)
        return next((count for count in counts if self._zone.find(name[count:]).node is not None), None)

    def with_serial(self, before: bytes, after: bytes) -> Iterator[bytes]:
        """Endless responses with the present serial of the table between these parts."""
        while True:
            yield before + self._zone.serial() + after

    def _find_zone(self, query: Query) -> tuple[Labels | None, ZoneMatch | None]:
        """The apex of the zone of the name (None: out of zone), and the match if it is a reverse zone."""
        apex = self._zone.apex_for(query)
        if apex is None and self._reverse is not None and self._freshness.is_ready:
            match = self._reverse.find(query)
            if match is not None:
                return query.name, match
        return apex, None

    def _relay(self, request: _Request, query: bytes) -> CacheableAnswer | None:
        """The answer of the process for zone transfers, which also verifies and makes signatures.

        None: continue with the other rules.
        """
        parsed = request.query
        is_transfer = parsed.qtype in (Type.AXFR, Type.IXFR) and parsed.qclass == CLASS_IN
        if self.transfers is None or not (is_transfer or parsed.is_signed):
            return None
        if len(query) > MAX_RELAYED_QUERY or (is_transfer and not _is_transfer_query(request, query)):
            malformed = self._with_ra(Response(parsed, Rcode.FORMERR))
            return self._with_options(parsed, request.answer_once(malformed, REFUSED))
        text = "the process for zone transfers does not respond"
        if parsed.edns is not None:  # options, such as a cookie, would need the client's address
            edns = msgspec.structs.replace(parsed.edns, response_options=b"")
            parsed = msgspec.structs.replace(parsed, edns=edns)
        unavailable = Response(parsed, Rcode.SERVFAIL, ede=Ede.NOT_READY, ede_text=text).pack(request.limit)
        body = self.transfers.respond(
            query, unavailable[_ID:], request.encode_response, stream=request.stream
        )
        return CacheableAnswer(itertools.repeat(body), source=PENDING)

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
        # RFC 5936, RFC 1995: zone transfers are not configured.
        if query.qtype in (Type.AXFR, Type.IXFR):
            return Response(query, Rcode.REFUSED, ede=Ede.NOT_SUPPORTED)
        return None

    def _cookie_only(self, request: _Request) -> CacheableAnswer:
        """Answer a query without a question, which requests or verifies a cookie (RFC 7873 §5.4)."""
        valid, invalid = (
            request.pack(self._with_ra(Response(request.query, rcode)))
            for rcode in (Rcode.NOERROR, Rcode.BADCOOKIE)
        )
        cookie = self.edns_options.cookie_of(request.query) or b""
        return CacheableAnswer(itertools.repeat(self.edns_options.finish_verified(valid, invalid, cookie)))

    def _with_options(self, query: Query, answer: CacheableAnswer) -> CacheableAnswer:
        """The answer, with the options of the query that concern the response cache."""
        if query.edns is None or not query.edns.options:
            return answer
        cookie = self.edns_options.cookie_of(query)
        return msgspec.structs.replace(answer, has_options=True, cookie=cookie)

    # -- out of zone ---------------------------------------------------------------------------------------

    def _forward(self, request: _Request) -> CacheableAnswer:
        assert self.fallback is not None  # noqa: S101 - _refuse has checked
        query = request.query
        answer = self.fallback.answer(query, request.limit, request.encode_response)
        if (
            answer.source == PENDING
            and query.rd
            and query.is_exact
            and not (query.edns and query.edns.options)
        ):
            answer = msgspec.structs.replace(answer, forward_form=self._forward_form(request, self.fallback))
        if self._reverse is not None and address_of(query.name) is not None:
            # A member may get this address at any time; the name is then in a reverse zone.
            return msgspec.structs.replace(answer, service=None)
        return answer

    def _forward_form(self, request: _Request, fallback: Fallback) -> ForwardForm:
        if self._ordinary is None:
            # Names of addresses become names of a reverse zone when a member gets the address.
            self._ordinary = OrdinaryNames((*self._zone.apexes, (b"arpa",), *fallback.domains))
        return ForwardForm(request.query, request.limit, request.encode_response)

    # -- in zone -------------------------------------------------------------------------------------------

    def _look_up(self, request: _Request, apex: Labels, match: ZoneMatch) -> CacheableAnswer:
        query = request.query
        failure = self._not_read(query, apex, match)
        if failure is not None:
            return request.answer_once(self._with_ra(failure))
        response = self._with_ra(Response(query, authoritative=True))
        # RFC 8914 §4.4: the extended error of an answer that may be out of date
        if not self._freshness.is_current and self._freshness.is_stale(apex, match.service):
            response.ede, response.ede_text = Ede.STALE_ANSWER, self.stale_reason
        rotation = absence = form = None
        if query.qtype in (Type.SOA, Type.ANY) and query.name == apex:  # RFC 8482 §4.1: one RRset for ANY
            responses = self.with_serial(*self._around_serial(request, response, apex, is_answer=True))
        elif records := self._zone.records(match, query):
            responses, rotation = self._in_order(request, response, match.service, records)
            is_member = query.name[1:] == match.service  # or another name directly below the service
            if is_member and self._freshness.is_current:
                form = form_of(query, response.template(), request.limit)
        elif _is_unresolved(query, match):  # its addresses are unknown, so that NODATA would be wrong
            text = "no host could be resolved yet"
            unknown = Response(query, Rcode.SERVFAIL, ede=Ede.NO_REACHABLE_AUTHORITY, ede_text=text)
            return request.answer_once(self._with_ra(unknown))
        else:  # RFC 2308 §2.1 (NXDOMAIN), §2.2 (NODATA)
            response.rcode = Rcode.NXDOMAIN if match.node is None else Rcode.NOERROR
            before, after = self._around_serial(request, response, apex, is_answer=False)
            responses = self.with_serial(before, after)
            if match.node is None:
                absence = Absence(query.name, apex, match.service, response.ede is not None, before, after)
        service = match.service if self._is_cacheable(query, match) else None
        end = HEADER_SIZE - _ID + len(query.question)
        # Clients can send unlimited numbers of names that do not exist.
        is_rare = service == ANY_SERVICE or absence is not None
        return CacheableAnswer(responses, service, end, rotation, is_rare=is_rare, absence=absence, form=form)

    def _is_cacheable(self, query: Query, match: ZoneMatch) -> bool:
        """Whether the answer is valid until `match.service` changes."""
        if match.depends_on_others:
            return False
        if match.node is not None or match.service == ANY_SERVICE:
            return True
        # A name in the form of RFC 2782 or DNS-SD may belong to another service. That one is below this
        # service, so that its coming counts as a change of this one, unless this one has a protocol as label.
        is_below = query.name[-len(match.service) :] == match.service
        if not is_below or any(label in PROTOCOLS for label in match.service):
            return False
        # With `empty = "nxdomain"`, the members of the other service decide whether it has names.
        return not (self._zone.hides_empty_services and query.name[0].startswith(b"_"))

    def _not_read(self, query: Query, apex: Labels, match: ZoneMatch) -> Response | None:
        """SERVFAIL if a part of the table that may have the name has not been read, or its service."""
        exists = match.node is not None
        if not self._freshness.is_current and self._freshness.is_unknown(
            apex, query.name, match.service, exists=exists
        ):
            text = "this part of the table has not been read yet"
        elif match.is_unread:
            text = "the service cannot be read from ZooKeeper"
        else:
            return None
        return Response(query, Rcode.SERVFAIL, ede=Ede.NOT_READY, ede_text=text)

    def _with_ra(self, response: Response) -> Response:
        """Set the RA flag (RFC 1035 §4.1.1)."""
        response.recursion_available = self.fallback is not None and self.fallback.recursion_available
        return response

    def _around_serial(
        self, request: _Request, response: Response, apex: Labels, *, is_answer: bool
    ) -> tuple[bytes, bytes]:
        """The parts, around the serial, of a response with only the SOA, in the answer or authority section.

        Even with the longest name, the message fits into 512 bytes, so that it is never truncated.
        """
        template = response.template()
        soa = self._zone.soa(request.query, apex)
        whole = request.encode(template.build(soa, is_answer, not is_answer, 0))
        at = len(whole) - len(template.opt) - SOA_BYTES_AFTER_SERIAL - _SERIAL
        return whole[:at], whole[at + _SERIAL :]

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
        for drawn in self._zone.shuffled(records, request.limit):
            response.answers = [record.answer for record in drawn[:limit]]
            response.additional = list({one: None for record in drawn[:limit] for one in record.additional})
            yield request.pack(response)
            if response.truncated and request.stream:
                self._count_truncated()

    def _count_truncated(self) -> None:
        self.truncated_over_tcp += 1


def _is_notify(query: bytes) -> bool:
    """Whether a query (after its id) is a NOTIFY that may be relayed."""
    return len(query) <= MAX_RELAYED_QUERY and query[0] >> 3 & 0xF == _NOTIFY


def _is_transfer_query(request: _Request, query: bytes) -> bool:
    """Whether a query (after its id) is AXFR over TCP (RFC 5936 §4.2), or IXFR with an SOA record."""
    is_ixfr = request.query.qtype == Type.IXFR
    return query[_AUTHORITY_COUNT] == (b"\0\1" if is_ixfr else b"\0\0") and (is_ixfr or request.stream)


def _retry_over_tcp() -> None:
    """A truncated response over UDP is not counted: TC makes the client repeat the query over TCP."""


def _is_unresolved(query: Query, match: ZoneMatch) -> bool:
    """Whether the name has no addresses only because its hosts could not be resolved yet."""
    return match.node is not None and query.qtype in (Type.A, Type.AAAA) and match.node.is_unresolved
