"""The bookkeeping of the response cache.

It has no public equivalent: an inconsistent count changes no response. It only moves the memory limit, and
possibly long after the error.
"""

from __future__ import annotations

import itertools

from zkdns.dns.response_cache import ResponseCache


def assert_accounting_is_consistent(cache: ResponseCache) -> None:
    """All bookkeeping is consistent with the entries; without entries, all of it is empty."""
    listed = [*itertools.chain.from_iterable(cache._keys.values()), *cache._absent]
    assert all(cache._keys.values())
    assert sorted(listed) == sorted(cache) == sorted(cache._entries)
    assert all(cache._absent_keys.values())
    of_services = ((key, service) for service, keys in cache._absent_keys.items() for key in keys)
    assert dict(of_services) == cache._absent
    assert not cache._dropped.keys() & cache._entries.keys()
    entries = [*cache._entries.values(), *cache._dropped.values()]
    assert cache._entry_memory.used == sum(entry.size for entry in entries)
    rotations = [entry.rotation for entry in entries if entry.rotation is not None]
    assert cache._response_memory.used == sum(rotation.kept_bytes for rotation in rotations)
    folded = {entry.folded for entry in cache._entries.values() if entry.folded is not None}
    assert folded <= set(cache._folded) <= {entry.folded for entry in entries}
