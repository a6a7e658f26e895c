"""What an answerer counts, told to the supervisor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import structlog

from zkdns.daemon.child import Report, Tell
from zkdns.dns.answer_source import RESPONSE_CACHE
from zkdns.dns.authority import Authority
from zkdns.dns.marks import meaning_of
from zkdns.observe.figures import (
    SOURCES,
    AnswererFigures,
    ForwardFigures,
    LatencyFigures,
    ResponseFigures,
    UpstreamFigures,
)
from zkdns.transport.access_control import AccessCounters
from zkdns.transport.tally import Latencies, Tally
from zkdns.transport.tcp import TcpServer
from zkdns.transport.udp import UdpServer

if TYPE_CHECKING:
    from zkdns.forward.forwarder import Forwarder

log = structlog.get_logger("zkdns.answerer")


class FiguresTeller:
    """Reports readiness and figures to the supervisor, where they are others than before."""

    def __init__(
        self,
        authority: Authority,
        forwarder: Forwarder | None,
        servers: tuple[Sequence[UdpServer], Sequence[TcpServer]],
        door: AccessCounters,
        tell: Tell,
    ) -> None:
        self._door = door
        self._servers = servers
        self._authority = authority
        self._forwarder = forwarder
        self._tell = tell
        self._told = Report(ready=False)
        self._cut = self._from_response_cache = 0
        self._has_left = False

    def tell_left(self) -> None:
        """Report that nothing more is taken where others do."""
        self._has_left = True
        self.tell()

    def tell(self) -> None:
        """Report what is new; what was cut over TCP is logged too, which asks for a service to be divided."""
        figures = self._figures()
        report = Report(self._authority.responder.ready, figures, self._has_left)
        if report == self._told:
            return
        self._told = report
        self._tell(report)
        if figures.cut_over_tcp > self._cut:
            log.warning("answers over 64 KiB were cut, even over TCP", count=figures.cut_over_tcp - self._cut)
            self._cut = figures.cut_over_tcp

    def _figures(self) -> AnswererFigures:
        udp, tcp = self._servers
        caches = self._authority.caches
        responses = (
            *_response_figures("udp", [server.tally for server in udp]),
            *_response_figures("tcp", [server.tally for server in tcp]),
        )
        return AnswererFigures(
            responses=responses,
            sources=self._sources_of(sum(each.count for each in responses)),
            latencies=_latency_figures([each.tally for each in udp] + [each.tally for each in tcp]),
            udp_queries=sum(server.received for server in udp),
            tcp_queries=sum(server.received for server in tcp),
            misses=sum(cache.misses for cache in caches),
            forgotten=sum(cache.evicted for cache in caches),
            remembered=sum(map(len, caches)),
            remembered_bytes=sum(cache.size for cache in caches),
            unsent=sum(server.lost for server in udp),
            cut_over_tcp=self._authority.responder.cut_over_tcp,
            refused=self._door.refused,
            limited=self._door.rate_limited,
            forward=_forward_figures(self._forwarder) if self._forwarder is not None else None,
        )

    def _sources_of(self, responses: int) -> dict[str, int]:
        """What so many responses were made from: what has been noted, and the memo for all others.

        What was made for somebody who had gone by then is noted, and no response; a counter never falls.
        """
        noted = self._authority.sources.counts
        self._from_response_cache = max(self._from_response_cache, responses - noted.total())
        return {source: noted[source] for source in SOURCES} | {RESPONSE_CACHE: self._from_response_cache}


def _response_figures(
    transport: Literal["udp", "tcp"], tallies: Sequence[Tally]
) -> Iterator[ResponseFigures]:
    counts: Counter[int] = Counter()
    for tally in tallies:
        counts.update(tally.counts())
    for mark, count in sorted(counts.items()):
        qtype, rcode = meaning_of(mark)
        yield ResponseFigures(transport=transport, qtype=qtype, rcode=rcode, count=count)


def _latency_figures(tallies: Sequence[Tally]) -> tuple[LatencyFigures, ...]:
    kinds: dict[Literal["remembered", "made", "later"], list[Latencies]] = {
        "remembered": [tally.remembered for tally in tallies],
        "made": [tally.made for tally in tallies],
        "later": [tally.later for tally in tallies],
    }
    return tuple(
        LatencyFigures(
            kind=kind,
            counts=tuple(map(sum, zip(*(each.counts for each in latencies), strict=True))),
            seconds=sum(each.seconds for each in latencies),
        )
        for kind, latencies in kinds.items()
    )


def _forward_figures(forwarder: Forwarder) -> ForwardFigures:
    counts, cache = forwarder.counts, forwarder.cache
    return ForwardFigures(
        queries=counts.asked,
        waiting=forwarder.waiting,
        failed=counts.failed,
        stale=counts.stale,
        overloaded=counts.overloaded,
        prefetched=counts.prefetched,
        cached=len(cache),
        cached_bytes=cache.size,
        evicted=cache.evicted,
        upstreams=tuple(
            UpstreamFigures(
                address=str(upstream.address),
                domain=route.domain or "",
                is_dead=upstream.is_dead,
                seconds=upstream.rtt,
                queries=upstream.sent,
                timeouts=upstream.timed_out,
                bad=upstream.bad,
            )
            for route in forwarder.routes.all
            for upstream in route.exchanges.upstreams.all
        ),
    )
