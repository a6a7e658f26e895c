"""What a change of the configuration asks for: pure, and complete for settings that nobody thought of here.

Who does not know a setting need not be replaced for it. A setting that stands in none of the lists below is
everybody's.
"""

from __future__ import annotations

from typing import Final

import msgspec

from zkdns.config import Config
from zkdns.serverset.auth import ACCESS_KEYS

# Known to the supervisor alone, which changes them itself.
SUPERVISORS: Final = frozenset({"admin", "admin_names", "admin_token"})
WATCHERS: Final = frozenset(
    {
        "zookeeper",
        *ACCESS_KEYS,
        "watches",
        "session_timeout",
        "fixed",
        "demo",
        "snapshot",
        "snapshot_max_age",
        "guard",
        "control",
        "workers",  # which it compares with the number of those it reaches
    }
)
ANSWERERS: Final = frozenset(
    {
        "allow",
        "rate_limit",
        "cookies",
        "cookie_secret",
        "identity",
        "tell_version",
        "query_log",
        "ttl",
        "negative_ttl",
        "order",
        "max_answers",
        "empty",
        "dns_sd",
        "reverse",
        "max_forwarded",
        "trust_ad",
        "cache_entries",
        "cache_min_ttl",
        "cache_max_ttl",
        "cache_negative_ttl",
        "cache_stale",
        "cache_prefetch",
        "service",
    }
)
# What a table can be taken over in spite of: it is of the same znodes.
_SOURCE: Final = ("zookeeper", "namespaces")


class Plan(msgspec.Struct, frozen=True):
    """What is to be done."""

    changed: tuple[str, ...]
    """The settings that are others than before, in the order of `Config`."""
    watcher: bool
    """Whether the watcher is replaced."""
    answerers: bool
    """Whether all answerers are."""
    inherits: bool
    """Whether a new watcher begins with the table of the old one."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.changed or self.watcher or self.answerers)


def plan_of(old: Config, new: Config, *, all_of_them: bool = False) -> Plan:
    """What leads from one configuration to another.

    Args:
        old: what is in force.
        new: what is to be.
        all_of_them: whether processes are replaced for which nothing has changed.
    """
    fields = Config.__struct_fields__
    changed = tuple(key for key in fields if getattr(old, key) != getattr(new, key))
    others = set(changed) - SUPERVISORS
    return Plan(
        changed,
        watcher=all_of_them or bool(others - ANSWERERS),
        answerers=all_of_them or bool(others - WATCHERS),
        inherits=not any(key in _SOURCE for key in changed),
    )
