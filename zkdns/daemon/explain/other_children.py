"""Describes the children of a service's znode that are no members: how many, which, and in which format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from zkdns.daemon.watcher.context import WatcherContext
from zkdns.namespace import member_prefix_of
from zkdns.plurals import counted
from zkdns.serverset.formats import describe_format, describe_names, guess_common_format
from zkdns.serverset.passed_over import PassedOver
from zkdns.serverset.znode_stat import ZnodeStat


class OtherChildren(msgspec.Struct, frozen=True):
    """The children of a set that are neither members nor weights."""

    origin: str
    prefix: str
    """The member prefix, which their names do not begin with."""
    found: PassedOver

    @property
    def paths(self) -> list[str]:
        """The znodes to read, to recognize the format by their data."""
        return [f"{self.origin}/{name}" for name in self.found.examples]

    def describe(self, stats: Mapping[str, ZnodeStat]) -> str:
        """Return a sentence about them. `stats` has those of `paths` that could be read."""
        count, examples = self.found.count, self.found.examples
        known = dict(zip(examples, map(stats.get, self.paths), strict=True))
        data = {name: stat.data if stat is not None else None for name, stat in known.items()}
        text = (
            f"{counted(count, 'child', 'children')} of {self.origin} without the prefix "
            f"{self.prefix} {'is' if count == 1 else 'are'} passed over: {describe_names(examples, count)}"
        )
        found = describe_format(guess_common_format(data), examples)
        return f"{text} (format: {found})" if found else text


def find_other_children(origins: Iterable[str], context: WatcherContext) -> Iterator[OtherChildren]:
    """Yield the other children of those sets that have any."""
    for origin in origins:
        for source in context.zookeeper_sources:
            found = source.sync.passed_over_of(origin)
            if found.count:
                yield OtherChildren(origin, member_prefix_of(context.config.namespaces, origin), found)
