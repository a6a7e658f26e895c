"""What holds of a memo at any time."""

from __future__ import annotations

import itertools

from zkdns.dns.response_cache import ResponseCache


def assert_accounting_is_consistent(memo: ResponseCache) -> None:
    """All that is written down of what is remembered fits together."""
    listed = list(itertools.chain.from_iterable(memo._keys.values()))
    assert sorted(listed) == sorted(memo) == sorted(memo._entries)
    assert memo._answers.used == sum(entry.size for entry in memo._entries.values())
    rotations = [entry.rotation for entry in memo._entries.values() if entry.rotation is not None]
    assert memo._responses.used == sum(rotation.kept for rotation in rotations)
    folded = {entry.folded for entry in memo._entries.values() if entry.folded is not None}
    assert folded == set(memo._folded)
