"""The memory for views of services, which is not a setting."""

from __future__ import annotations

import pytest

from zkdns.dns import zone


def limit_views(monkeypatch: pytest.MonkeyPatch, members: int) -> None:
    """Let zones that are made from now on cache views of at most this many members."""
    monkeypatch.setattr(zone, "_MAX_CACHED_MEMBERS", members)
