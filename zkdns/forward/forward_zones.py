"""Who is asked for which names: the upstreams of single domains, and those of everything else.

The longest domain with a table of its own wins. Nobody is asked who is this server itself, be it by its
address or because it hands our queries back to us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
import structlog

from zkdns.address import HostPort, UpstreamAddress
from zkdns.config import Config
from zkdns.forward.loop_detection import ELSEWHERE, LoopProbes, report_loop
from zkdns.forward.question import Question
from zkdns.forward.resolver import Resolver
from zkdns.forward.system_upstreams import SystemUpstreams, is_own
from zkdns.names import Labels, parse_name

log = structlog.get_logger("zkdns.forward")

PROBE_SECONDS: Final = 60.0
"""So often it is looked whether an upstream hands queries back; of several workers one hears of it."""
LOOP_AVOID_SECONDS: Final = 300.0
"""So long one that does is not asked; then it is tried again, since it may have been told to ask others."""


class ForwardZone(msgspec.Struct):
    """The upstreams of a domain.

    Attributes:
        domain: None: everything that is no other's.
        servers: whom to ask, ourselves left out; none: the names are refused.
        exchanges: asks them.
        labels: those of the domain in lower case.
    """

    domain: str | None
    servers: tuple[UpstreamAddress, ...]
    exchanges: Resolver
    labels: Labels = ()


class ForwardZones:
    """All routes of a server.

    Args:
        config: its upstreams and domains.
        listening: where it answers, as bound.
        secret: 16 random bytes, the same in all its workers; None: nobody looks for loops here.
        make: makes what asks a group of upstreams.
    """

    def __init__(
        self,
        config: Config,
        listening: Sequence[HostPort],
        secret: bytes | None,
        make: Callable[[Iterable[UpstreamAddress]], Resolver],
    ) -> None:
        self._listening = listening
        self._system: SystemUpstreams | None = None
        if config.forward.upstreams == "auto":
            self._system = SystemUpstreams(listening, is_silent=secret is not None)  # the watcher tells
            servers = self._system.found.servers
        else:
            servers = self._others(config.forward.upstreams)
        self._default = ForwardZone(None, servers, make(servers))
        self._domains: dict[Labels, ForwardZone] = {}
        for domain, settings in config.forward.zones.items():
            servers = self._others(settings.upstreams)
            route = ForwardZone(domain, servers, make(servers), parse_name(domain))
            self._domains[route.labels] = route
        self.all = (self._default, *self._domains.values())
        """Every route."""
        self._probes = LoopProbes(secret) if secret is not None else None
        self._shunned: dict[tuple[str | None, UpstreamAddress], float] = {}  # of a domain, and until when
        self._probed_at = float("-inf")

    @property
    def are_any(self) -> bool:
        """Whether anything is forwarded."""
        return any(route.servers for route in self.all)

    def start(self) -> None:
        """Begin to ask, in the running event loop."""
        for route in self.all:
            route.exchanges.start()

    def stop(self) -> None:
        """Ask no more."""
        for route in self.all:
            route.exchanges.stop()

    def find(self, name: Labels) -> ForwardZone:
        """The route of a name in lower case."""
        if self._domains:
            for start in range(len(name)):
                route = self._domains.get(name[start:])
                if route is not None:
                    return route
        return self._default

    def is_configured(self, domain: Labels) -> bool:
        """Whether there is a server for that very domain, in lower case."""
        route = self._domains.get(domain)
        return route is not None and bool(route.servers)

    def tend(self, now: float) -> bool:
        """Follow the machine's own configuration, and look for loops; to be called each second.

        Args:
            now: seconds on the machine's monotonic clock.

        Returns:
            Whether others are asked now than before.
        """
        is_changed = False
        if self._system is not None and self._system.poll():
            self._default.servers = self._system.found.servers
            is_changed = True
        over = [shunned for shunned, until in self._shunned.items() if until <= now]
        for shunned in over:
            del self._shunned[shunned]
        if is_changed or over:
            self._choose()
            self._probed_at = float("-inf")
        if self._probes is not None and now - self._probed_at >= PROBE_SECONDS:
            self._probed_at = now
            self._probe(self._probes, now)
        return is_changed

    def has_returned(self, question: Question, now: float) -> bool:
        """Whether a query that has come is a probe of ours; then whom we sent it to is asked no more."""
        if self._probes is None:
            return False
        is_one = False
        for route in self.all:
            server = self._probes.returned(question, route.servers, now, route.labels or ELSEWHERE)
            if server is None:
                continue
            is_one = True
            if not self._is_shunned(route, server):
                source = self._system.found.source if self._system and route.domain is None else None
                reason = report_loop(server, source=source, domain=route.domain)
                log.error("upstream_loop_detected", upstream=str(server), reason=reason)
            self._shunned[route.domain, server] = now + LOOP_AVOID_SECONDS
        if is_one:
            self._choose()
        return is_one

    def _is_shunned(self, route: ForwardZone, server: UpstreamAddress) -> bool:
        return (route.domain, server) in self._shunned

    def _probe(self, probes: LoopProbes, now: float) -> None:
        for route in self.all:
            for server in route.servers:
                question = probes.question(server, now, route.labels or ELSEWHERE)
                if question is not None and not self._is_shunned(route, server):
                    route.exchanges.try_one(server, question)

    def _choose(self) -> None:
        """Let everybody be asked who is not shunned."""
        for route in self.all:
            route.exchanges.change([one for one in route.servers if not self._is_shunned(route, one)])

    def _others(self, servers: Iterable[UpstreamAddress]) -> tuple[UpstreamAddress, ...]:
        """These without ourselves."""
        others = []
        for server in servers:
            if is_own(server, self._listening):
                log.warning("upstream_skipped", upstream=str(server), reason="address of this server")
            else:
                others.append(server)
        return tuple(others)
