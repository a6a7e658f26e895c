"""`Ensemble`: what identifies the ensemble behind a connection, and whether two connections show the same.

Neither its address nor an id in the protocol identifies an ensemble: a server that has lost its data, was
restored from a backup or serves a copy of the data may have the same address. Its contents do:

- The namespace's root znode has the transaction and the time of its creation in its Stat. Both are copied
  with the data and stay the same until the znode is deleted. They differ if the tree was created again.
- Transactions are numbered in rising order (zxid). An ensemble with a lower number than it had before has
  lost transactions. `TreeSync` sends a `sync` request before the first read, so that the number of a server
  that lags behind its leader is not too low.
"""

from __future__ import annotations

import msgspec


class Ensemble(msgspec.Struct, frozen=True):
    """What a connection has shown of its ensemble. 0 stands for an unknown value."""

    root_czxid: int = 0
    """The transaction that created the namespace's root. 0: the root does not exist or cannot be read."""
    root_ctime: int = 0
    """When the root was created: Unix time in milliseconds, by ZooKeeper's clock."""
    zxid: int = 0
    """The latest transaction. 0: unknown, as on a read-only server, which may lag behind."""


def continues(before: Ensemble, now: Ensemble) -> bool:
    """Whether `now` may be the ensemble of `before` at a later time. An unknown value is no evidence."""
    if before.root_czxid and now.root_czxid and _root(before) != _root(now):
        return False
    return not 0 < now.zxid < before.zxid


def merge(before: Ensemble | None, now: Ensemble) -> Ensemble:
    """Return `now`, with the values of `before` in place of unknown ones."""
    if before is None:
        return now
    czxid, ctime = _root(now if now.root_czxid else before)
    return Ensemble(czxid, ctime, now.zxid or before.zxid)


def _root(ensemble: Ensemble) -> tuple[int, int]:
    return ensemble.root_czxid, ensemble.root_ctime
