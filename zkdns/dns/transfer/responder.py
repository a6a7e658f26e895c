"""Answers relayed queries: zone transfers, and signed queries of any type.

query ──▶ 1 TSIG: malformed: FORMERR · unknown key, wrong signature, wrong time: NOTAUTH
      ├─▶ 2 another type: the answer of the zones, signed
      ├─▶ 3 the client is not allowed, or not over TLS if that is required: REFUSED, with EDE 18
      ├─▶ 4 not the apex of a zone: NOTAUTH (RFC 5936 §2.2.1)
      ├─▶ 5 the zone has not been read: SERVFAIL, with EDE 14
      ├─▶ 6 IXFR: the client is up to date: SOA · in the journal: differences · otherwise as AXFR
      │           over UDP: one message, or only the SOA, so that the client retries over TCP
      └─▶ 7 AXFR: too many transfers run: SERVFAIL · otherwise the whole zone
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from zkdns.dns.edns import Ede, udp_limit
from zkdns.dns.message import (
    CLASS_IN,
    HEADER,
    MAX_MESSAGE,
    TC,
    BadQueryError,
    Query,
    Rcode,
    Type,
    find_sent_records,
    parse_query,
)
from zkdns.dns.serial import is_newer
from zkdns.dns.transfer import messages
from zkdns.dns.transfer.versions import ZoneVersions
from zkdns.dns.tsig import BADTIME, Keys, MalformedTsigError, Request, Signer, read_tsig, verify
from zkdns.names import Labels, to_text

MAX_REMEMBERED: Final = 4096
"""Signatures of transfers that are remembered, so that nobody can send them again."""

Answer = Callable[[bytes, bool], bytes]
"""Answers a query of another type; arguments: the unsigned message, and whether it arrived over TCP."""


class Refusal(msgspec.Struct, frozen=True):
    """A transfer that was refused, for the log."""

    client: str
    zone: str
    reason: str


class TransferResponder:
    """Answers relayed queries.

    Attributes:
        results: finished requests by type (`AXFR`, `IXFR`, `other`) and result.
        running: full transfers that run now.
        sent_bytes: bytes of all responses.

    Args:
        zones: the versions of each zone, by its apex.
        keys: TSIG keys by name.
        networks: the networks whose clients need no key.
        answer: answers queries of other types.
        on_refused: called with each refused transfer.
        max_running: maximum number of full transfers at the same time.
        require_tls: refuse transfers that are not over TLS.
    """

    def __init__(
        self,
        zones: Mapping[Labels, ZoneVersions],
        keys: Keys,
        networks: Iterable[str],
        answer: Answer,
        on_refused: Callable[[Refusal], None],
        *,
        max_running: int,
        require_tls: bool = False,
    ) -> None:
        self.results: Counter[tuple[str, str]] = Counter()
        self.running = self.sent_bytes = 0
        self._zones, self._keys = zones, keys
        self._networks = tuple(map(ipaddress.ip_network, networks))
        self._answer, self._on_refused = answer, on_refused
        self._max_running, self._require_tls = max_running, require_tls
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def respond(
        self, message: bytes, address: bytes, now: int, *, stream: bool, is_tls: bool = False
    ) -> Generator[bytes, None, None]:
        """Yield the messages of the response.

        Args:
            message: the query.
            address: the client's address in 4 or 16 bytes; 4 also for an IPv4 client at an IPv6 socket.
            now: Unix time in seconds.
            stream: whether the query arrived over TCP.
            is_tls: whether it arrived over TLS, with the protocol `dot` (RFC 9103 §7.1).
        """
        try:
            query = parse_query(message)
        except BadQueryError as bad:
            if bad.response is not None:
                yield bad.response
            return
        found = find_sent_records(message)
        signer = None
        if found.tsig is not None:
            try:
                request = read_tsig(message, found.tsig)
                signer = self._verify(request, query, now, stream=stream)
            except MalformedTsigError:
                yield messages.error(query, Rcode.FORMERR)
                return
            message = request.message
            if signer.error:
                self._count(query, "bad_signature")
                self._refuse(query, address, f"TSIG error {signer.error}")
                yield signer.sign(messages.error(query, Rcode.NOTAUTH))
                return
        reason = self._prohibition(query, address, signer, is_tls=is_tls)
        if reason is not None:
            responses = self._prohibited(query, address, reason)
        else:
            responses = self._responses(query, message, found.serial, signer, stream=stream)
        limit = MAX_MESSAGE if stream else udp_limit(query.edns)
        for response in responses:
            signed = response if signer is None else _signed(response, query, signer, limit)
            self.sent_bytes += len(signed)
            yield signed

    def _verify(self, request: Request, query: Query, now: int, *, stream: bool) -> Signer:
        """Verify a signature. A transfer over TCP with the same signature again is a replay: BADTIME.

        Over UDP, clients repeat a query unchanged.
        """
        signer = verify(request, self._keys, now)
        if not signer.error and stream and query.qtype in (Type.AXFR, Type.IXFR):
            if request.tsig.mac in self._seen:
                return Signer(request, self._keys[request.owner], now, BADTIME)
            self._seen[request.tsig.mac] = None
            if len(self._seen) > MAX_REMEMBERED:
                self._seen.popitem(last=False)
        return signer

    def _responses(
        self,
        query: Query,
        message: bytes,
        serial: int | None,
        signer: Signer | None,
        *,
        stream: bool,
    ) -> Iterator[bytes]:
        """Yield the messages of a response to a query with a valid signature, or without one.

        Args:
            query: the query.
            message: it without its signature.
            serial: of the SOA record in the query.
            signer: signs the response.
            stream: whether the query arrived over TCP.
        """
        if not _is_transfer(query):
            self._count(query, "answered")
            yield self._answer(message, stream)
            return
        zone = self._zones.get(query.name)
        if zone is None:
            self._count(query, "not_authoritative")
            yield messages.error(query, Rcode.NOTAUTH, Ede.NOT_AUTHORITATIVE, "not the apex of a zone")
        elif zone.serial is None:
            self._count(query, "not_ready")
            text = "the zone has not been read yet"
            yield messages.error(query, Rcode.SERVFAIL, Ede.NOT_READY, text)
        elif query.qtype == Type.IXFR:
            yield from self._incremental(query, zone, serial, signer, stream=stream)
        elif stream:
            yield from self._full(query, zone, signer)
        else:
            self._count(query, "malformed")
            yield messages.error(query, Rcode.FORMERR)

    def _incremental(
        self, query: Query, zone: ZoneVersions, serial: int | None, signer: Signer | None, *, stream: bool
    ) -> Iterator[bytes]:
        """Answer an IXFR query from a client that has the version with this serial (RFC 1995 §4)."""
        version = zone.current()
        assert version is not None  # noqa: S101 - the caller has checked
        if serial is None:
            self._count(query, "malformed")
            yield messages.error(query, Rcode.FORMERR)
            return
        if not is_newer(version.serial, serial):
            self._count(query, "current")
            yield messages.single_soa(query, version)
            return
        reserved = signer.size if signer is not None else 0
        found = zone.differences_since(serial)
        if not stream:  # RFC 1995 §2: if the response does not fit, the client retries over TCP
            room = udp_limit(query.edns) - reserved
            if found is not None and sum(each.size for each in found) < room:
                parts = list(messages.differences(query, version.soa, found, version.serial, reserved))
                if len(parts) == 1 and len(parts[0]) <= room:
                    self._count(query, "incremental")
                    yield parts[0]
                    return
            self._count(query, "retry_over_tcp")
            yield messages.single_soa(query, version)
        elif found is None:
            yield from self._full(query, zone, signer)
        else:
            yield from messages.differences(query, version.soa, found, version.serial, reserved)
            self._count(query, "incremental")

    def _full(self, query: Query, zone: ZoneVersions, signer: Signer | None) -> Iterator[bytes]:
        """The whole zone."""
        version = zone.current()
        assert version is not None  # noqa: S101 - the caller has checked
        if self.running >= self._max_running:
            self._count(query, "busy")
            text = f"{self._max_running} zone transfers are running"
            yield messages.error(query, Rcode.SERVFAIL, Ede.NOT_READY, text)
            return
        self.running += 1
        result = "aborted"
        try:
            yield from messages.full_zone(query, version, signer.size if signer is not None else 0)
            result = "full"
        finally:
            self.running -= 1
            self._count(query, result)

    def _prohibition(
        self, query: Query, address: bytes, signer: Signer | None, *, is_tls: bool
    ) -> str | None:
        """Return why a client may not copy the zones. None: it may, or its query is of another type."""
        if not _is_transfer(query):
            return None
        client = ipaddress.ip_address(address)
        if signer is None and not any(client in network for network in self._networks):
            return "the client is not in transfer.allow, and sent no signature"
        if self._require_tls and not is_tls:
            return "the query was not over TLS with the ALPN protocol dot, as transfer.require_tls demands"
        return None

    def _prohibited(self, query: Query, address: bytes, reason: str) -> Iterator[bytes]:
        self._count(query, "refused")
        self._refuse(query, address, reason)
        yield messages.error(query, Rcode.REFUSED, Ede.PROHIBITED, "zone transfer is not allowed")

    def _count(self, query: Query, result: str) -> None:
        kind = query.qtype if query.qtype in (Type.AXFR, Type.IXFR) else None
        self.results[Type(kind).name if kind is not None else "other", result] += 1

    def _refuse(self, query: Query, address: bytes, reason: str) -> None:
        client = str(ipaddress.ip_address(address))
        self._on_refused(Refusal(client, to_text(query.name), reason))


def _is_transfer(query: Query) -> bool:
    return query.qtype in (Type.AXFR, Type.IXFR) and query.qclass == CLASS_IN


def _signed(response: bytes, query: Query, signer: Signer, limit: int) -> bytes:
    """A response with its signature; empty with TC if both do not fit (RFC 8945 §5.3)."""
    if len(response) + signer.size > limit:
        ident, flags, *_ = HEADER.unpack_from(response)
        response = HEADER.pack(ident, flags | TC, 1, 0, 0, 0) + query.question
    return signer.sign(response)
