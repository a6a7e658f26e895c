"""DNS over UDP: datagrams in, datagrams out.

    readable ──▶ a batch of queries ──▶ lookup[query], next() ──▶ a batch of responses

On systems without batch calls (`zkdns.transport.batch`), datagrams are handled one at a time.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Any

import structlog

from zkdns.transport.access_control import AccessControl
from zkdns.transport.batch import CLASS_OFFSET, ID, MAX_BATCH, Batch, Client, is_available
from zkdns.transport.codecs import UdpCodec
from zkdns.transport.contract import (
    CachedResponseLookup,
    DeferredResponse,
    PerClientResponse,
    QueryCounter,
    Render,
    ResponseLookup,
    ResponseObserver,
)
from zkdns.transport.counters import Counters, LatencyHistogram
from zkdns.transport.event_loop import add_server, remove_server
from zkdns.transport.log_once import LogOnce
from zkdns.transport.sockets import (
    IP_PKTINFO,
    IPV6_PKTINFO,
    Ancillary,
    disable_fragmentation,
    enable_packet_info,
    is_wildcard,
    packed_address,
    send_datagram,
)

log = structlog.get_logger("zkdns.udp")

MAX_BATCHES_PER_CALL = 4
"""Batches to answer before the event loop serves TCP, the feed and timers."""
# If a batch has at least this many queries, more have usually arrived in the meantime. Receiving again then
# costs less than returning to epoll (measured: a twentieth of a response at 180,000 a second).
_MIN_BATCH_TO_CONTINUE = 2
_MAX_DATAGRAM = 65535
_ANCILLARY = socket.CMSG_SPACE(64)
_IN_PKTINFO = struct.Struct("=i4s4s")  # interface, local address, address in the header
_IN6_PKTINFO = struct.Struct("=16si")  # address, interface
_MAX_UNFRAGMENTED = 500  # bytes; every network passes such a datagram whole (RFC 791)
_NO_RESPONSE = b""


class UdpServer:
    """Answers queries on one UDP socket.

    On a wildcard socket, a response leaves from the address at which the query arrived.

    Attributes:
        received: number of queries.
        lost: number of responses that the kernel did not accept.
        counters: counts responses.
        observer: as below; it may be replaced at any time.
        query_counter: receives all queries. None: not counted.

    Args:
        sock: the socket, which the caller owns.
        answers: the responses, in the form of `UdpCodec`.
        access: the clients that are answered. None: all.
        observer: receives each response; None: no observer.
        batched: whether to use batch calls. None: if the system has them.
    """

    def __init__(
        self,
        sock: socket.socket,
        answers: CachedResponseLookup,
        *,
        access: AccessControl | None = None,
        observer: ResponseObserver | None = None,
        batched: bool | None = None,
    ) -> None:
        self.received = self.lost = 0
        self.counters = Counters()
        self._latency = self.counters.computed  # the histogram of the present batch
        self.observer = observer
        self.query_counter: QueryCounter | None = None
        self._sock = sock
        self._look_up, self._get_cached = answers.__getitem__, answers.get
        self._access = access
        self._log_once = LogOnce(log, "query_failed")
        self._is_stopped = False
        self._ancillary = 0
        disable_fragmentation(sock)
        if is_wildcard(sock):
            enable_packet_info(sock)
            self._ancillary = _ANCILLARY
        self._batch = Batch(sock) if (is_available() if batched is None else batched) else None

    def start(self) -> None:
        """Start to answer in the running event loop."""
        self._is_stopped = False
        add_server(self._sock.fileno(), self._answer_batches if self._batch else self._answer_singly)

    @property
    def file(self) -> int:
        """The file descriptor of its socket."""
        return self._sock.fileno()

    def stop_accepting(self) -> None:
        """Receive no more queries; deferred responses to earlier ones are still sent."""
        remove_server(self._sock.fileno())

    def stop(self) -> None:
        """Send no more responses. The socket stays open, as other processes may use it too."""
        self._is_stopped = True
        remove_server(self._sock.fileno())

    # -- in batches ----------------------------------------------------------------------------------------

    def _answer_batches(self) -> bool:
        batch = self._batch
        assert batch is not None  # noqa: S101 - set if this method is used
        for _ in range(MAX_BATCHES_PER_CALL):
            try:
                queries = batch.receive()
            except OSError:
                continue  # the kernel reports that an earlier response was undeliverable
            if not queries:
                return False
            started = time.monotonic()
            self.received += len(queries)
            replacements = None
            if self._access is not None:
                replacements = self._access.check_datagrams(batch.addresses(), batch.query, started)
            responses = self._respond(batch, queries, replacements, started)
            self.lost += batch.send(responses)
            if batch.classes:
                self.counters.add(batch.classes, self._latency, time.monotonic() - started)
            if batch.has_empty:
                self._start_all_deferred(responses, batch, started)
            if self.query_counter is not None:
                self._count_queries(self.query_counter, queries, batch)
            if len(queries) < _MIN_BATCH_TO_CONTINUE:
                return False
        return True

    @staticmethod
    def _count_queries(counter: QueryCounter, queries: Sequence[bytes], batch: Batch) -> None:
        whole = [batch.long_query(at) or query for at, query in enumerate(queries)]
        counter.add(whole, batch.addresses())

    def _respond(
        self,
        batch: Batch,
        queries: Sequence[bytes],
        replacements: Sequence[ResponseLookup | None] | None,
        started: float,
    ) -> list[bytes]:
        """The responses to a batch, of which some may be deferred."""
        if self.observer is not None:
            whole = [batch.long_query(at) or query for at, query in enumerate(queries)]
            return self._observe(self.observer, whole, batch.addresses(), replacements, started)
        if replacements:
            self._latency = self.counters.computed
            responses = list(map(self._response_to, queries, replacements))
        else:
            responses = self._responses_to(queries)
        if not all(responses):
            self._complete(responses, batch, replacements)
        return responses

    def _responses_to(self, queries: Sequence[bytes]) -> list[bytes]:
        try:
            # First all lookups, then all responses. This way the processor loads several entries from memory
            # in parallel, which saves one part in thirty of a response (measured).
            cached: list[Any] = list(map(self._get_cached, queries))
            if None not in cached:
                self._latency = self.counters.cached
                responses = list(map(next, cached))
            else:
                self._latency = self.counters.computed
                responses = list(map(next, map(self._look_up, queries)))
        except Exception as error:  # noqa: BLE001 - an error must not cost the other responses
            self._log_once.error(error)
            responses = []
        return responses if len(responses) == len(queries) else list(map(self._response_to, queries))

    def _observe(
        self,
        observer: ResponseObserver,
        queries: Sequence[bytes],
        addresses: Sequence[bytes],
        replacements: Sequence[ResponseLookup | None] | None,
        started: float,
    ) -> list[bytes]:
        """Make the responses one by one, and report each to the observer."""
        self._latency = self.counters.computed
        responses = []
        for query, address, replacement in zip(
            queries, addresses, replacements or repeat(None), strict=False
        ):
            response = self._response_to(query, replacement)
            source = observer.take_source()
            response = self._finish(response, address)
            responses.append(response)
            if response and observer.is_sampled():
                message = UdpCodec.message(bytes(ID) + UdpCodec.query(query), response)
                host = str(ipaddress.ip_address(address))
                observer.on_response("udp", host, message, source, time.monotonic() - started)
        return responses

    def _complete(
        self,
        responses: list[bytes],
        batch: Batch,
        replacements: Sequence[ResponseLookup | None] | None,
    ) -> None:
        """Replace empty responses to long queries, and per-client responses, by those for the client."""
        addresses: Sequence[bytes] = ()
        for at, response in enumerate(responses):
            if response:
                continue
            if type(response) is bytes and (query := batch.long_query(at)) is not None:
                response = self._response_to(query, replacements[at] if replacements else None)  # noqa: PLW2901
                responses[at] = response
            if type(response) is PerClientResponse:
                addresses = addresses or batch.addresses()
                try:  # as in `_finish`, without its calls
                    finish, unfinished, cookie = response.parts
                    responses[at] = finish(unfinished, cookie, addresses[at])
                except Exception as error:  # noqa: BLE001 - an internal error costs one response
                    self._log_once.error(error)
                    responses[at] = _NO_RESPONSE

    def _start_all_deferred(self, responses: Sequence[bytes], batch: Batch, started: float) -> None:
        for at, response in enumerate(responses):
            if isinstance(response, DeferredResponse):
                self._start_deferred(response, batch.client(at), started)

    def _answer_one(self, client: Client, response: bytes, started: float) -> None:
        if isinstance(response, DeferredResponse):
            self._start_deferred(response, client, started)
        else:
            self._deliver(client, started, self.counters.computed, response)

    def _start_deferred(self, deferred: DeferredResponse, client: Client, started: float) -> None:
        try:
            deferred.start(partial(self._deliver_deferred, client, started), client.packed)
        except Exception as error:  # noqa: BLE001 - an internal error costs one response
            self._log_once.error(error)

    def _deliver_deferred(self, client: Client, started: float, render: Render, _size: int = 0) -> None:
        if not self._is_stopped:
            self._deliver(client, started, self.counters.forwarded, render())

    def _deliver(self, client: Client, started: float, latency: LatencyHistogram, response: bytes) -> None:
        """Send a response outside of a batch; `started`: when its query arrived."""
        if not response:
            response = self._finish(response, client.packed)
            if not response:
                return
        message = UdpCodec.message(client.query, response)
        try:
            if client.ancillary or len(message) > _MAX_UNFRAGMENTED:
                send_datagram(self._sock, message, client.ancillary, client.address)
            else:
                self._sock.sendto(message, client.address)
        except OSError:
            self.lost += 1
        took = time.monotonic() - started
        self.counters.add_one(response[CLASS_OFFSET], latency, took)
        if self.observer is not None:
            source = self.observer.take_source()
            if self.observer.is_sampled():
                self.observer.on_response("udp", client.address[0], message, source, took)

    def _finish(self, response: bytes, address: bytes) -> bytes:
        """The response for a client, if it is a per-client response."""
        if not isinstance(response, PerClientResponse):
            return response
        try:
            return response.for_address(address)
        except Exception as error:  # noqa: BLE001 - an internal error costs one response
            self._log_once.error(error)
            return _NO_RESPONSE

    def _response_to(self, query: bytes, replacement: ResponseLookup | None = None) -> bytes:
        """The response to one query, from `replacement` if given, otherwise from the usual lookup."""
        try:
            return next(self._look_up(query) if replacement is None else replacement[query])
        except Exception as error:  # noqa: BLE001 - an internal error costs one response
            self._log_once.error(error)
            return _NO_RESPONSE

    # -- one by one ----------------------------------------------------------------------------------------

    def _answer_singly(self) -> bool:
        for _ in range(MAX_BATCHES_PER_CALL * MAX_BATCH):
            try:
                message, ancillary, _, client = self._sock.recvmsg(_MAX_DATAGRAM, self._ancillary)
            except BlockingIOError:
                return False
            except OSError:
                continue  # the kernel reports that an earlier response was undeliverable
            started = time.monotonic()
            self.received += 1
            key, replacements, packed = UdpCodec.key(message[ID:]), None, packed_address(client[0])
            if self._access is not None:
                replacements = self._access.check_datagrams((packed,), (key,).__getitem__, started)
            if self.query_counter is not None:
                self.query_counter.add((key,), (packed,))
            response = self._response_to(key, replacements[0] if replacements else None)
            source = [item for item in map(_source_of, ancillary) if item]
            self._answer_one(Client(message, client, source, packed), response, started)
        return True


def _source_of(item: Ancillary) -> Ancillary | None:
    """The ancillary data that sets a response's source address to the address that the query was sent to.

    None for other ancillary data.
    """
    level, kind, data = item
    if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
        _, local, _ = _IN_PKTINFO.unpack(data)
        # No interface: the routing table decides, since the route back may use another one.
        return level, kind, _IN_PKTINFO.pack(0, local, bytes(4))
    if (level, kind) == (socket.IPPROTO_IPV6, IPV6_PKTINFO):
        address, interface = _IN6_PKTINFO.unpack(data)
        is_link_local = address[:2] == b"\xfe\x80"  # a link-local address is valid on one interface only
        return level, kind, _IN6_PKTINFO.pack(address, interface if is_link_local else 0)
    return None
