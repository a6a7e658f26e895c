"""Invariants of the response cache."""

from __future__ import annotations

import itertools

from zkdns.dns.responder import CacheableAnswer, EncodeResponse
from zkdns.dns.response_cache import ResponseCache


def assert_accounting_is_consistent(cache: ResponseCache) -> None:
    """All bookkeeping of the cache is consistent."""
    listed = list(itertools.chain.from_iterable(cache._keys.values()))
    assert sorted(listed) == sorted(cache) == sorted(cache._entries)
    assert cache._entry_memory.used == sum(entry.size for entry in cache._entries.values())
    rotations = [entry.rotation for entry in cache._entries.values() if entry.rotation is not None]
    assert cache._response_memory.used == sum(rotation.kept_bytes for rotation in rotations)
    folded = {entry.folded for entry in cache._entries.values() if entry.folded is not None}
    assert folded == set(cache._folded)


class FailingResponder:
    """Raises an internal error for each query."""

    def answer(self, query: bytes, *, stream: bool, encode: EncodeResponse) -> CacheableAnswer:  # noqa: ARG002 - the protocol's signature
        raise ZeroDivisionError(query)
