"""What a reload has to do: which processes use a changed setting, and must be replaced.

Pure: everything follows from the two configurations and the schema's rows.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Final

import msgspec

from zkdns.config import SETTINGS, Config, Process
from zkdns.config.model import build_config

# The settings that say which znodes the table is of; a new watcher can take over the table if they are equal.
_SOURCE: Final = frozenset({"zookeeper.hosts", "namespaces"})


class ConfigDiff(msgspec.Struct, frozen=True):
    """What a reload has to do."""

    changed: tuple[str, ...]
    """The changed fields of `Config` by their paths, such as `cache.entries`, in the order of the schema."""
    watcher: bool
    """Whether to replace the watcher."""
    workers: bool
    """Whether to replace all workers."""
    inherits: bool
    """Whether a new watcher takes over the table of the old one."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.changed or self.watcher or self.workers)


def diff_configs(old: Config, new: Config, *, all_of_them: bool = False) -> ConfigDiff:
    """Return the plan for a change of the configuration.

    Args:
        old: the configuration in force.
        new: the next one.
        all_of_them: replace processes that use no changed setting too.
    """
    rows = [row for row in SETTINGS if attrgetter(row.field)(old) != attrgetter(row.field)(new)]
    changed = tuple(dict.fromkeys(row.field for row in rows))
    return ConfigDiff(
        changed,
        watcher=all_of_them or any("watcher" in row.used_by for row in rows),
        workers=all_of_them or any("worker" in row.used_by for row in rows),
        inherits=_SOURCE.isdisjoint(changed),
    )


def config_for(process: Process, config: Config) -> Config:
    """Return the configuration with the defaults for all settings that the process does not use."""
    defaults = Config(listen=(), namespaces=())
    return build_config(
        {row.field: attrgetter(row.field)(config if process in row.used_by else defaults) for row in SETTINGS}
    )
