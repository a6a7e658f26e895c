"""A table's zones as a server answers with them: what they hold and what is remembered."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial

from zkdns import __version__
from zkdns.config import Config
from zkdns.dns.chaos import ServerIdentity
from zkdns.dns.response_cache import QueryCodec, ResponseCache
from zkdns.dns.responder import Responder
from zkdns.dns.response_class import classify
from zkdns.dns.reverse import ReverseZones
from zkdns.dns.answer_source import AnswerSources
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
        version = f"zkdns {__version__}" if config.show_version else ""
        self.responder = Responder(self.zone, ServerIdentity(config.identity, version), self._reverse)
        self.memos: list[ResponseCache] = []
        self.sources = AnswerSources()
        self._on_error = on_error

    def answers(self, form: QueryCodec, *, stream: bool, most_bytes: int) -> ResponseCache:
        """Answers for a transport, which has queries and responses in that form, up to date from now on."""
        answer = partial(self.responder.answer, stream=stream, wrap=partial(_marked, form))
        memo = ResponseCache(answer, form, self._on_error, sources=self.sources, most_bytes=most_bytes)
        self.memos.append(memo)
        return memo

    def refresh(self, keys: Iterable[Labels]) -> None:
        """Take notice that the services of these keys are others than before."""
        others = self.zone.refresh(keys)
        if self._reverse is not None:
            others |= self._reverse.refresh(others)
        for memo in self.memos:
            memo.forget(others)

    def forget_elsewhere(self, group: Labels) -> None:
        """Forget the answers to a question outside the zones, remembered as one of that group."""
        for memo in self.memos:
            memo.forget((group,))

    def forget_all(self) -> None:
        """Forget everything, as when others are asked than before."""
        for memo in self.memos:
            memo.clear()

    def set_health(self, *, ready: bool, stale: bool) -> None:
        """Say whether the table has been read, and whether its source is out of reach."""
        responder = self.responder
        if (responder.ready, responder.stale) != (ready, stale):
            responder.ready, responder.stale = ready, stale
            self.forget_all()


def _marked(form: QueryCodec, body: bytes, question: int) -> bytes:
    return form.response(body, question, classify(body))
