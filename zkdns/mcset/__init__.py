"""memcached over a server set: each key is on the same server as with go.serversets' mcset.

`MCSet` picks the server of a key. `MCSet.client()` is a client built on pymemcache that follows the set.
`Hasher` gives the same choice to pymemcache's `HashClient` with fixed servers.

    mcset = MCSet(ServerSet(PRODUCTION, "memcache", "zk01:2181").watch())
    with mcset.client() as memcached:
        memcached.set("user:7", b"...")

pymemcache is imported on first use of the client: `selection` needs only the ring, `client` has the commands,
`pooled` the connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkdns.mcset.selection import Hasher, MCSet, client_module

if TYPE_CHECKING:
    from zkdns.mcset.client import BadKeyError, Client

__all__ = ["BadKeyError", "Client", "Hasher", "MCSet"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    if name not in {"BadKeyError", "Client"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(client_module(), name)
