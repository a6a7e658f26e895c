"""`Freshness`: which data has been read, and which may be out of date.

The table has several *sources*: the namespaces in ZooKeeper, and the static file. Each is ready once it was
read, and stale while it is unreachable. A source affects only the names that it may have, so one that cannot
be read does not affect the answers of another one:

    names of a service          the sources of the service's sets
    other names in a zone       all sources that may have services in the zone. Before they were read, and
                                below a znode that cannot be listed, it is unknown whether a name exists
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from zkdns.names import Labels
from zkdns.namespace import ALL_SOURCES, STATIC_PREFIX, STATIC_SOURCE, Namespace, source_of
from zkdns.table import Table


class _State(msgspec.Struct, frozen=True):
    ready: bool
    stale: bool


_NOT_READ = _State(ready=False, stale=False)


class Freshness:
    """The state of each source. Before the first `set`, nothing is ready.

    Args:
        table: services and members, and the znodes that cannot be listed.
        namespaces: the namespaces in ZooKeeper.
    """

    def __init__(self, table: Table, namespaces: Sequence[Namespace]) -> None:
        self.is_ready = False
        """Whether all sources have been read."""
        self._is_connected = False
        self._table = table
        self._namespaces = namespaces
        self._zones = {namespace.template: namespace.zone for namespace in namespaces}
        self._sources: dict[str, _State] = {}

    @property
    def is_current(self) -> bool:
        """Whether all sources have been read and are connected, and every znode can be listed."""
        return self.is_ready and self._is_connected and not self._table.unread_directories

    def set(self, source: str, *, ready: bool, stale: bool) -> bool:
        """Set the state of a source, and return whether it has changed.

        Args:
            source: a name as of `source_of`, or `ALL_SOURCES`. A source that is not a namespace may have
                services in every zone.
            ready: whether it has been read.
            stale: whether it is unreachable.
        """
        state = _State(ready, stale)
        if self._sources.get(source) == state:
            return False
        self._sources[source] = state
        self.is_ready = all(state.ready for state in self._sources.values())
        self._is_connected = not any(state.stale for state in self._sources.values())
        return True

    def sources_in(self, apex: Labels) -> list[str]:
        """The sources that may have services in a zone."""
        zones = ((source, self._zones.get(source)) for source in self._sources)
        return [source for source, zone in zones if zone is None or apex[-len(zone) :] == zone]

    def is_unknown(self, apex: Labels, name: Labels, service: Labels, *, exists: bool) -> bool:
        """Whether the data of a name has not been read.

        Args:
            apex: the apex of the name's zone.
            name: the name, in lower case.
            service: the key of its service. Without a service: any other labels.
            exists: whether the name is in the table.
        """
        if exists and self.is_ready:
            return False
        if exists and service in self._table.services:
            return not all(state.ready for state in self._states_of(service))
        if not all(state.ready for state in self._states_in(apex)):
            return True
        return not exists and self.unread_directory(apex, name) is not None

    def is_stale(self, apex: Labels, service: Labels) -> bool:
        """Whether the data of a name may be out of date. Arguments as for `is_unknown`."""
        if service not in self._table.services:
            return any(state.stale for state in self._states_in(apex))
        return any(state.stale for state in self._states_of(service)) or any(
            member_set.is_outdated for member_set in self._table.services[service].sets.values()
        )

    def dependents(self, source: str) -> Callable[[Labels], bool]:
        """A test whether the state of a source may change the answers for existing names of a key.

        The key is that of a service, or of other names, such as those of addresses. A set counts as one of
        the source if it is below the source's root, which is quicker to find out than its source.
        """
        # The answers of a source without a state change when the answers of any source stop being current.
        others = [each for each in (STATIC_SOURCE, *self._zones) if each not in self._sources]
        roots = tuple(self._root_of(each) for each in (source, *others))
        services = self._table.services

        def depends(key: Labels) -> bool:
            service = services.get(key)
            if service is None:
                return True
            for origin in service.sets:  # noqa: SIM110 - `any` with a generator takes three times as long
                if origin.startswith(roots):
                    return True
            return False

        return depends

    def _root_of(self, source: str) -> str:
        """The start of the origins of all sets of a source."""
        if source == STATIC_SOURCE:
            return STATIC_PREFIX
        roots = (each.root.rstrip("/") + "/" for each in self._namespaces if each.template == source)
        return next(roots, "")

    def _states_of(self, service: Labels) -> Iterator[_State]:
        """The states of the sources of a service's sets."""
        others = self._sources.get(ALL_SOURCES, _NOT_READ)
        for origin in self._table.services[service].sets:
            yield self._sources.get(source_of(origin, self._namespaces), others)

    def _states_in(self, apex: Labels) -> Iterator[_State]:
        """The states of the sources that may have services in a zone. All of them for a reverse zone."""
        is_reverse = apex not in self._zones.values()
        if not self._sources:
            yield _NOT_READ
        for source, state in self._sources.items():
            zone = self._zones.get(source)
            if is_reverse or zone is None or apex[-len(zone) :] == zone:
                yield state

    def unread_directory(self, apex: Labels, name: Labels) -> str | None:
        """A znode that cannot be listed, and below which a service of this name may be."""
        found = (
            directory
            for directory in self._table.unread_directories
            for namespace in self._namespaces
            if apex[-len(namespace.zone) :] == namespace.zone
            and namespace.contains(directory)
            and namespace.may_be_below(directory, name[: len(name) - len(namespace.zone)])
        )
        return next(found, None)
