"""What to answer: the rules in their order, each where its RFC section stands.

not a query: silence · malformed: FORMERR · another opcode: NOTIMP      (wire.parse_query)
EDNS version above 0: BADVERS
another class, or a name outside all zones, or a transfer: REFUSED
the table has not been read yet: SERVFAIL
a service of which nothing could be read but that it exists: SERVFAIL
no such name: NXDOMAIN with SOA
addresses of members whose host names could not be resolved yet: SERVFAIL
no such type: NODATA with SOA
else the records, in the order whose turn it is
"""

from __future__ import annotations

from zkdns.dns.wire import (
    CLASS_IN,
    MAX_MESSAGE,
    BadQueryError,
    Ede,
    Query,
    Rcode,
    Response,
    Type,
    parse_query,
    udp_limit,
)
from zkdns.dns.zone import Zone


class Responder:
    """Answers messages from the zones.

    Attributes:
        ready: whether the table has been read; until then no name of the zone is denied or answered.
        stale: whether the source of the table is out of reach, so that answers are the last good ones.
        stale_reason: what those are told who are given such an answer.
        cut_over_tcp: answers that did not fit even into 64 KiB.
    """

    def __init__(self, zone: Zone) -> None:
        self.ready = False
        self.stale = False
        self.stale_reason = "ZooKeeper is out of reach"
        self.cut_over_tcp = 0
        self._zone = zone

    def respond(self, message: bytes, *, stream: bool) -> bytes | None:
        """The response to a message; None where silence is the answer.

        Args:
            message: what arrived, without TCP's length.
            stream: whether it came over TCP, where a response may have 65,535 bytes.
        """
        try:
            query = parse_query(message)
        except BadQueryError as bad:
            return bad.response
        response = self._answer(query)
        packed = response.pack(MAX_MESSAGE if stream else udp_limit(query.edns))
        if stream and response.truncated:
            self.cut_over_tcp += 1
        return packed

    def _answer(self, query: Query) -> Response:
        if query.edns is not None and query.edns.version:  # RFC 6891 §6.1.3
            return Response(query, Rcode.BADVERS)
        if query.qclass != CLASS_IN:
            return Response(query, Rcode.REFUSED)
        if self._zone.apex_of(query.name) is None:  # RFC 8914 §4.21
            return Response(query, Rcode.REFUSED, ede=Ede.NOT_AUTHORITATIVE)
        if query.qtype in (Type.AXFR, Type.IXFR):
            return Response(query, Rcode.REFUSED)
        if not self.ready:
            return Response(
                query, Rcode.SERVFAIL, ede=Ede.NOT_READY, ede_text="the table has not been read yet"
            )
        response = self._look_up(query)
        if self.stale:
            response.ede, response.ede_text = Ede.STALE_ANSWER, self.stale_reason
        return response

    def _look_up(self, query: Query) -> Response:
        found = self._zone.find(query.name)
        if found is None:
            return Response(query, Rcode.NXDOMAIN, authoritative=True, authority=[self._zone.soa(query)])
        if found.is_unread:
            return Response(
                query, Rcode.SERVFAIL, ede=Ede.NOT_READY, ede_text="the service cannot be read from ZooKeeper"
            )
        if found.node.is_unresolved and query.qtype in (Type.A, Type.AAAA):  # it is not empty, so not NODATA
            return Response(
                query,
                Rcode.SERVFAIL,
                ede=Ede.NO_REACHABLE_AUTHORITY,
                ede_text="no host could be resolved yet",
            )
        records = self._zone.records(found, query)
        if not records:  # RFC 2308 §2.2
            return Response(query, authoritative=True, authority=[self._zone.soa(query)])
        glue = {piece: None for record in records for piece in record.glue}
        return Response(
            query, authoritative=True, answers=[record.answer for record in records], glue=list(glue)
        )
