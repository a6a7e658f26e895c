"""`Authority`: connects zones, responder and response caches, and updates them when the table changes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable

from zkdns import __version__
from zkdns.config import Config
from zkdns.dns.answer_source import AnswerSources
from zkdns.dns.chaos import ServerIdentity
from zkdns.dns.freshness import Freshness
from zkdns.dns.query_codec import QueryCodec
from zkdns.dns.responder import Responder
from zkdns.dns.response_cache import MAX_ENTRIES, ResponseCache
from zkdns.dns.reverse import ReverseZones
from zkdns.dns.service_counts import ServiceCounts
from zkdns.dns.zone import Zone
from zkdns.names import Labels
from zkdns.namespace import ALL_SOURCES
from zkdns.table import ANY_SERVICE, Table

# The first label of the keys of forwarded questions, which do not depend on the table.
_FORWARDED = (b"",)


class Authority:
    """Answers from a table.

    Attributes:
        table: services and members.
        config: the zones' names and answer policies.
        zone: names and records.
        reverse: names of addresses; None: not served.
        freshness: which data has been read, and which may be out of date.
        responder: answers queries that are not cached.
        caches: the response caches, one for each transport.
        sources: counts the sources of responses that were not cached.
        service_counts: counts the responses of each service.

    Args:
        table: services and members; `refresh` must be called after each change. If it indexes addresses,
            reverse zones are served too.
        config: the zones' names and answer policies.
        on_error: called with a query and the exception that it raised (an internal error).
        rng: source of random numbers for the first index of rotations and for the order `random`.
    """

    def __init__(
        self,
        table: Table,
        config: Config,
        on_error: Callable[[bytes, Exception], None],
        rng: random.Random | None = None,
    ) -> None:
        self.table, self.config = table, config
        self.zone = Zone(table, config, rng)
        self.reverse = ReverseZones(self.zone, table.addresses) if table.addresses is not None else None
        version = f"zkdns {__version__}" if config.show_version else ""
        self.freshness = Freshness(table, config.namespaces)
        identity = ServerIdentity(config.identity, version)
        self.responder = Responder(self.zone, identity, self.freshness, self.reverse)
        self.caches: list[ResponseCache] = []
        self.sources = AnswerSources()
        self.service_counts = ServiceCounts(table.services, config.zone)
        self._on_error = on_error

    def make_cache(
        self,
        codec: QueryCodec,
        *,
        stream: bool,
        max_bytes: int,
        max_entries: int = MAX_ENTRIES,
        sources: AnswerSources | None = None,
    ) -> ResponseCache:
        """Make a response cache for a transport. `refresh` and the `forget` methods update it from then on.

        Args:
            codec: the form of the transport's queries and responses.
            stream: whether the transport is TCP.
            max_bytes: approximate memory limit.
            max_entries: maximum number of entries.
            sources: counts the sources of responses; None: those of this object.
        """
        cache = ResponseCache(
            self.responder,
            codec,
            self._on_error,
            stream=stream,
            sources=self.sources if sources is None else sources,
            counts=self.service_counts,
            max_entries=max_entries,
            max_bytes=max_bytes,
        )
        self.caches.append(cache)
        return cache

    def refresh(self, keys: Iterable[Labels]) -> set[Labels]:
        """Update the zones and drop cached responses after the services with these keys have changed.

        It must be called now and then, also without keys, to release the memory of dropped responses.

        Returns:
            as `Zone.refresh`.
        """
        keys = set(keys)
        changed = self.zone.refresh(keys)
        if self.reverse is not None:
            changed |= self.reverse.refresh(changed)
        for cache in self.caches:
            if ANY_SERVICE in keys:  # a znode above services: names below a service may be unknown now
                cache.forget_absent()
            cache.forget(changed)
            cache.release()
        self.service_counts.drop_absent(keys)
        return changed

    def forget_forwarded(self, group: Labels) -> None:
        """Drop the cached responses to a forwarded question.

        `group` is its key in the cache. Its first label is empty, so that it differs from all names.
        """
        for cache in self.caches:
            cache.forget((group,))

    def forget_all(self) -> None:
        """Drop all cached responses, for example after the upstreams have changed."""
        for cache in self.caches:
            cache.clear()

    def set_health(self, *, ready: bool, stale: bool, source: str = ALL_SOURCES) -> None:
        """Set whether a source has been read, and whether it is unreachable (see `Freshness.set`).

        The cached responses that depend on it are dropped in pieces, between which queries are answered.
        """
        if not self.freshness.set(source, ready=ready, stale=stale):
            return
        depends = self.freshness.dependents(source)

        def is_affected(key: Labels) -> bool:
            return key[:1] != _FORWARDED and depends(key)

        pieces = (cache.forget_where(is_affected) for cache in self.caches)
        self.zone.steps.run_in_pieces(itertools.chain.from_iterable(pieces))
