"""What is counted, as one process tells it to another; without Prometheus, which only one of them needs."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from zkdns.dns.answer_source import FORWARD_CACHE, REFUSED, RESPONSE_CACHE, STALE, UPSTREAM, ZONE
from zkdns.transport import tally

LATENCY_BUCKETS: Final = tally.LATENCY_BUCKETS
"""Seconds: the upper ends of what latencies are sorted into; what took longer is counted behind them."""

SOURCES: Final = (RESPONSE_CACHE, ZONE, FORWARD_CACHE, UPSTREAM, STALE, REFUSED)
"""What answers are made from. In this order: an answer that was given before; the table; what upstreams said
before; what they say now, or that they say nothing; what they said once, and is over; nothing, since the
query is malformed or not supported, or who asks, or the name, is not answered."""

STATES = ("reading", "live", "away", "readonly")
"""How far what ZooKeeper said can be trusted."""


class WatcherFigures(msgspec.Struct, frozen=True, kw_only=True, tag="watcher"):
    """What the watcher process counts."""

    state: str | None = None
    """One of `STATES`; None: nothing is read from ZooKeeper."""
    stale_since: float | None = None
    """When ZooKeeper was last in reach, by `time.monotonic`, one clock for all processes; None: now."""
    services: int = 0
    alive: int = 0
    """Members that are answered with, those in limbo left out."""
    hidden: int = 0
    """Members whose status is not one that is answered with."""
    held: int = 0
    bad: int | None = None
    """Members that cannot be understood; None: not counted."""
    bad_members: dict[str, int] = {}
    """Such members since the start, by reason."""
    bad_names: int = 0
    """Services since the start that DNS cannot name."""
    repairs: int = 0
    """What audits found wrong since the start."""
    changes: int = 0
    """Changes of the table since the start."""
    joined: int = 0
    """Members that came since the start, those of the first reading among them."""
    left: int = 0
    """Members that went since the start."""
    holds: int = 0
    """How often a service's members began to be held."""


class UpstreamFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What an answerer process knows of one upstream."""

    address: str
    domain: str
    """Whose names it is asked for; empty: all that are no other's."""
    is_dead: bool
    """Whether others are asked in its place."""
    seconds: float | None
    """How long its answers take; None: not known."""
    queries: int
    timeouts: int
    bad: int
    """Messages that were no answer to what was asked."""


class ForwardFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What an answerer process counts of what it forwards, since its start."""

    queries: int = 0
    """Those that could not be answered from the cache at once."""
    waiting: int = 0
    """Those that wait now."""
    failed: int = 0
    stale: int = 0
    overloaded: int = 0
    prefetched: int = 0
    cached: int = 0
    cached_bytes: int = 0
    evicted: int = 0
    upstreams: tuple[UpstreamFigures, ...] = ()


class ResponseFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How many responses of one kind there were."""

    transport: Literal["udp", "tcp"]
    qtype: str
    """The name of the type that was asked for, or `other`."""
    rcode: str
    count: int


class LatencyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How long askers waited for responses of one kind."""

    kind: Literal["remembered", "made", "later"]
    """As `Tally` has them."""
    counts: tuple[int, ...] = (0,) * (len(LATENCY_BUCKETS) + 1)
    """Of each of `LATENCY_BUCKETS`, and of those behind them; not cumulative."""
    seconds: float = 0.0
    """All of them together."""


class AnswererFigures(msgspec.Struct, frozen=True, kw_only=True, tag="answerer"):
    """What an answerer process counts since its start."""

    udp_queries: int = 0
    tcp_queries: int = 0
    responses: tuple[ResponseFigures, ...] = ()
    sources: dict[str, int] = {}
    """The same responses by what they were made from, one of `SOURCES`."""
    latencies: tuple[LatencyFigures, ...] = ()
    misses: int = 0
    """Queries that no remembered answer was there for."""
    forgotten: int = 0
    """Answers that were forgotten to make room for others."""
    remembered: int = 0
    """Answers that are remembered now."""
    remembered_bytes: int = 0
    """Memory that they take, more or less."""
    unsent: int = 0
    """Responses that the kernel did not take."""
    cut_over_tcp: int = 0
    """Responses that lack records although they went over TCP."""
    refused: int = 0
    """Queries over UDP, and connections, of who is not allowed to ask."""
    limited: int = 0
    """Queries over UDP of networks that asked too often."""
    forward: ForwardFigures | None = None
    """None: nothing is forwarded."""

    @property
    def latency(self) -> tuple[int, ...]:
        """How many responses of all kinds took how long: of each of `LATENCY_BUCKETS`, and behind them."""
        kinds = (LatencyFigures(kind="made").counts, *(each.counts for each in self.latencies))
        return tuple(map(sum, zip(*kinds, strict=True)))


Figures: TypeAlias = WatcherFigures | AnswererFigures


class ServerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor knows of the server."""

    version: str
    started: float
    """When it was, in seconds since 1970."""
    restarts: dict[str, int] = {}
    """How often a process was replaced, by its role."""
    reloads: dict[str, int] | None = None
    """How often the configuration was read again, by what came of it; None: it cannot be."""
