"""Which process uses which settings: the configuration of a process, and the processes to replace on reload.

Pure functions of the two configurations and of the schema's rows.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Final

import msgspec

from zkdns.config import SETTINGS, Config, Process
from zkdns.config.model import build_config

# These settings determine the znodes of the table. If they are equal, a new watcher can start with a copy of
# it.
_SOURCE: Final = frozenset({"zookeeper.hosts", "primary.servers", "namespaces"})


class ConfigDiff(msgspec.Struct, frozen=True):
    """The difference between two configurations."""

    changed: tuple[str, ...]
    """The changed fields of `Config` by their paths, such as `cache.entries`, in the order of the schema."""
    watcher: bool
    """Whether to replace the watcher."""
    workers: bool
    """Whether to replace all workers."""
    transfer: bool
    """Whether to replace the transfer process, if there is one."""
    takes_over_table: bool
    """Whether a new watcher starts with the old one's table."""

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to do."""
        return not (self.changed or self.watcher or self.workers or self.transfer)


def diff_configs(old: Config, new: Config, *, replace_all: bool = False) -> ConfigDiff:
    """Return the difference between two configurations.

    Args:
        old: the configuration in force.
        new: the next one.
        replace_all: replace processes that use no changed setting too.
    """
    rows = [row for row in SETTINGS if attrgetter(row.field)(old) != attrgetter(row.field)(new)]
    changed = tuple(dict.fromkeys(row.field for row in rows))
    return ConfigDiff(
        changed,
        watcher=replace_all or any("watcher" in row.used_by for row in rows),
        workers=replace_all or any("worker" in row.used_by for row in rows),
        transfer=replace_all or any("transfer" in row.used_by for row in rows),
        takes_over_table=_SOURCE.isdisjoint(changed),
    )


def config_for(process: Process, config: Config) -> Config:
    """Return the configuration for one process: the settings that it does not use have their defaults."""
    defaults = Config(listen=(), namespaces=())
    return build_config(
        {row.field: attrgetter(row.field)(config if process in row.used_by else defaults) for row in SETTINGS}
    )
