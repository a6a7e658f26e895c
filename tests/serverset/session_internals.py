"""The private state that tests of this package read: the bookkeeping of a session, and kazoo's callbacks.

Nothing else shows it. A session that remembers a closed registration or a path for ever, and a client that
keeps the callbacks of old watches, work as usual, but use more memory and time with each change.
"""

from typing import Any

from zkdns import ServerSet


def unfinished_count(server_set: ServerSet) -> int:
    """The number of closed registrations for which the session still has to delete a znode."""
    return len(server_set._session._leaving)


def claimed_paths(server_set: ServerSet) -> set[str]:
    """The paths of the members that the session's registrations own."""
    return set(server_set._session.claimed)


def child_callbacks(client: Any) -> dict[str, int]:
    """The number of callbacks of a kazoo client for the children of each path."""
    return {path: len(callbacks) for path, callbacks in dict(client._child_watchers).items() if callbacks}


def data_callbacks(client: Any, path: str) -> int:
    """The number of callbacks of a kazoo client for the data of a znode."""
    return len(client._data_watchers.get(path, ()))
