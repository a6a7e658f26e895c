"""A table's zones as a server answers with them: what they hold and what is remembered."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial

from zkdns import __version__
from zkdns.config import Config
from zkdns.dns.answer_source import AnswerSources
from zkdns.dns.chaos import ServerIdentity
from zkdns.dns.marks import mark_of
from zkdns.dns.responder import Responder
from zkdns.dns.response_cache import QueryCodec, ResponseCache
from zkdns.dns.reverse import ReverseZones
from zkdns.dns.zone import Zone
from zkdns.names import Labels
from zkdns.table import Table


class Authority:
    """Answers from a table.

    Attributes:
        memos: what is remembered.
        sources: what answers were made from that were not.

    Args:
        table: services and members; after each change of it `refresh` must be called. Where it keeps account
            of addresses, their names are answered too.
        config: the zones' names, and how they are answered.
        on_error: told of a query and the exception that it raised, which is a mistake of ours.
        rng: where turns begin, and what the order `random` is drawn from.
    """

    def __init__(
        self,
        table: Table,
        config: Config,
        on_error: Callable[[bytes, Exception], None],
        rng: random.Random | None = None,
    ) -> None:
        self.zone = Zone(table, config, rng)
        self._reverse = ReverseZones(self.zone, table.addresses) if table.addresses is not None else None
        version = f"zkdns {__version__}" if config.tell_version else ""
        self.responder = Responder(self.zone, ServerIdentity(config.identity, version), self._reverse)
        self.caches: list[ResponseCache] = []
        self.sources = AnswerSources()
        self._on_error = on_error

    def make_cache(self, codec: QueryCodec, *, stream: bool, max_bytes: int) -> ResponseCache:
        """Answers for a transport, which has queries and responses in that form, up to date from now on."""
        answer = partial(self.responder.answer, stream=stream, encode=partial(_marked, codec))
        cache = ResponseCache(answer, codec, self._on_error, sources=self.sources, max_bytes=max_bytes)
        self.caches.append(cache)
        return cache

    def refresh(self, keys: Iterable[Labels]) -> None:
        """Take notice that the services of these keys are others than before."""
        others = self.zone.refresh(keys)
        if self._reverse is not None:
            others |= self._reverse.refresh(others)
        for cache in self.caches:
            cache.forget(others)

    def forget_forwarded(self, group: Labels) -> None:
        """Forget the answers to a question outside the zones, remembered as one of that group."""
        for cache in self.caches:
            cache.forget((group,))

    def forget_all(self) -> None:
        """Forget everything, as when others are asked than before."""
        for cache in self.caches:
            cache.clear()

    def set_health(self, *, ready: bool, stale: bool) -> None:
        """Say whether the table has been read, and whether its source is out of reach."""
        responder = self.responder
        if (responder.ready, responder.stale) != (ready, stale):
            responder.ready, responder.stale = ready, stale
            self.forget_all()


def _marked(codec: QueryCodec, body: bytes, question: int) -> bytes:
    return codec.response(body, question, mark_of(body))
