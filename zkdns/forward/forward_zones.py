"""Forward zones: the upstreams of single domains, and those of all other names.

The forward zone with the longest matching domain is used. An upstream that is this server itself is never
queried, whether it has an address of this server or returns queries to it (a forwarding loop).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from zkdns.address import HostPort, UpstreamAddress
from zkdns.config import Config
from zkdns.forward.loop_detection import DEFAULT_DOMAIN, LoopProbes, describe_loop
from zkdns.forward.message import Question
from zkdns.forward.resolver import Resolver
from zkdns.forward.system_upstreams import FILES, SystemUpstreams, is_own
from zkdns.names import Labels, parse_name

log = structlog.get_logger("zkdns.forward")

LOOP_PROBE_SECONDS: Final = 60.0
"""Interval between loop probes. Each worker sends them, but the kernel gives a returned one to any worker."""
LOOP_AVOID_SECONDS: Final = 300.0
"""How long an upstream in a forwarding loop gets no queries; then it may have been reconfigured."""


class ForwardZone(msgspec.Struct):
    """A domain with its upstreams.

    Attributes:
        domain: the domain; None: all names outside of other forward zones.
        servers: addresses of the upstreams, without this server; empty: names in the zone are refused.
        resolver: sends the queries.
        labels: labels of the domain in lower case.
    """

    domain: str | None
    servers: tuple[UpstreamAddress, ...]
    resolver: Resolver
    labels: Labels = ()


class ForwardZones:
    """All forward zones of a server.

    Args:
        config: the upstreams and forward zones.
        listening: addresses of this server, as bound.
        secret: 16 random bytes, the same in all workers; None: no loop detection in this process.
        make_resolver: makes a resolver for a group of upstreams.
        system_files: the files for `forward.upstreams = "auto"`, in order of precedence.
    """

    def __init__(
        self,
        config: Config,
        listening: Sequence[HostPort],
        secret: bytes | None,
        make_resolver: Callable[[Iterable[UpstreamAddress]], Resolver],
        *,
        system_files: Sequence[Path] = FILES,
    ) -> None:
        self._listening = listening
        self._system: SystemUpstreams | None = None
        if config.forward.upstreams == "auto":
            # The watcher, which has no secret, logs the upstreams once for all workers.
            self._system = SystemUpstreams(listening, system_files, is_silent=secret is not None)
            servers = self._system.current.servers
        else:
            servers = self._without_self(config.forward.upstreams)
        self.default = ForwardZone(None, servers, make_resolver(servers))
        """The forward zone for all other names."""
        self._by_domain: dict[Labels, ForwardZone] = {}
        for domain, settings in config.forward.zones.items():
            servers = self._without_self(settings.upstreams)
            zone = ForwardZone(domain, servers, make_resolver(servers), parse_name(domain))
            self._by_domain[zone.labels] = zone
        self.all = (self.default, *self._by_domain.values())
        """All forward zones, including the one for all other names."""
        self._probes = LoopProbes(secret) if secret is not None else None
        self._avoided_until: dict[tuple[str | None, UpstreamAddress], float] = {}  # by domain and upstream
        self._probed_at = float("-inf")

    @property
    def has_upstreams(self) -> bool:
        """Whether any forward zone has upstreams."""
        return any(zone.servers for zone in self.all)

    def start(self) -> None:
        """Start the resolvers in the running event loop."""
        for zone in self.all:
            zone.resolver.start()

    def stop(self) -> None:
        """Stop the resolvers."""
        for zone in self.all:
            zone.resolver.stop()

    def find(self, name: Labels) -> ForwardZone:
        """Return the forward zone of a name in lower case."""
        if self._by_domain:
            for start in range(len(name)):
                zone = self._by_domain.get(name[start:])
                if zone is not None:
                    return zone
        return self.default

    def is_configured(self, domain: Labels) -> bool:
        """Return whether there is a forward zone of exactly this domain, in lower case, with upstreams."""
        zone = self._by_domain.get(domain)
        return zone is not None and bool(zone.servers)

    def poll(self, now: float) -> bool:
        """Check the system's upstreams for changes, and send loop probes; call it every second.

        Args:
            now: seconds on the system's monotonic clock.

        Returns:
            Whether the system's upstreams have changed.
        """
        is_changed = False
        if self._system is not None and self._system.poll():
            self.default.servers = self._system.current.servers
            is_changed = True
        expired = [key for key, until in self._avoided_until.items() if until <= now]
        for key in expired:
            del self._avoided_until[key]
        if is_changed or expired:
            self._update_resolvers()
            self._probed_at = float("-inf")
        if self._probes is not None and now - self._probed_at >= LOOP_PROBE_SECONDS:
            self._probed_at = now
            self._send_probes(self._probes, now)
        return is_changed

    def detect_loop(self, question: Question, now: float) -> bool:
        """Return whether a received query is a loop probe of this server; if so, avoid its upstream."""
        if self._probes is None:
            return False
        is_probe = False
        for zone in self.all:
            server = self._probes.match(question, zone.servers, now, zone.labels or DEFAULT_DOMAIN)
            if server is None:
                continue
            is_probe = True
            if not self._is_avoided(zone, server):
                source = self._system.current.source if self._system and zone.domain is None else None
                reason = describe_loop(server, source=source, domain=zone.domain)
                log.error("upstream_loop_detected", upstream=str(server), reason=reason)
            self._avoided_until[zone.domain, server] = now + LOOP_AVOID_SECONDS
        if is_probe:
            self._update_resolvers()
        return is_probe

    def _is_avoided(self, zone: ForwardZone, server: UpstreamAddress) -> bool:
        return (zone.domain, server) in self._avoided_until

    def _send_probes(self, probes: LoopProbes, now: float) -> None:
        for zone in self.all:
            for server in zone.servers:
                question = probes.question(server, now, zone.labels or DEFAULT_DOMAIN)
                if question is not None and not self._is_avoided(zone, server):
                    zone.resolver.probe(server, question)

    def _update_resolvers(self) -> None:
        """Give each resolver the upstreams that are not avoided."""
        for zone in self.all:
            used = [server for server in zone.servers if not self._is_avoided(zone, server)]
            zone.resolver.replace_upstreams(used)

    def _without_self(self, servers: Iterable[UpstreamAddress]) -> tuple[UpstreamAddress, ...]:
        """Return the upstreams that are not this server, and log the others."""
        others = []
        for server in servers:
            if is_own(server, self._listening):
                log.warning("upstream_skipped", upstream=str(server), reason="address of this server")
            else:
                others.append(server)
        return tuple(others)
