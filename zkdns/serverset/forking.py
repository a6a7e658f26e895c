"""Prepares sessions, watches and balancers for use in a forked child process.

A child has a copy of each object, but none of the threads. A lock that another thread held at the fork is
never released there, and sockets are shared with the parent. So each class with locks, threads or connections
adds its objects here, and has a method `after_fork`.

    fork ──▶ `after_fork` of each object ──▶ the child's program goes on
                          └──▶ 0.1 s later, in a thread: the functions that these calls returned

`after_fork` only assigns attributes and closes descriptors. It takes no lock and logs nothing, since a lock
of a log handler may be held too. Everything else waits, so that a child that executes another program at once
opens no connection.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from zkdns.serverset.logs import Log

log = Log("zkdns.fork")

_DELAY = 0.1  # seconds

Later = Callable[[], object]


class Forkable(Protocol):
    """An object that has to be prepared for use in a child."""

    def after_fork(self) -> Later | None:
        """Called in the child. Returns a function to call later, in a thread. None: there is none."""


_objects: weakref.WeakSet[Forkable] = weakref.WeakSet()
_of_parent: list[tuple[object, Callable[[], object] | None]] = []
_is_child = False


def add(one: Forkable) -> None:
    """Call `after_fork` of this object in child processes, as long as it exists."""
    _objects.add(one)


def drop(connections: object, close: Callable[[], object] | None = None) -> None:
    """Drop connections of the parent. Called by `after_fork`.

    They are freed later, since that may run any code. Python closes the child's descriptors then.

    Args:
        connections: one connection, or anything that refers to connections.
        close: closes the child's descriptors at once. None: closing may send something or shut the parent's
            connection down.
    """
    _of_parent.append((connections, close))


def is_child() -> bool:
    """Whether this process was forked after this module was imported."""
    return _is_child


def _after_fork() -> None:
    global _is_child  # noqa: PLW0603 - the state of the process
    _is_child = True
    later: list[Later] = []
    for one in list(_objects):
        try:
            then = one.after_fork()
        except Exception:  # noqa: BLE001, S112 - half made by a thread that does not exist here
            continue
        if then is not None:
            later.append(then)
    if not later and not _of_parent:
        return
    try:
        threading.Thread(target=_finish, args=(later, _DELAY), name="zkdns fork", daemon=True).start()
    except RuntimeError:  # no thread can be started, so watches are closed
        _finish(later, 0.0)


def _finish(later: list[Later], delay: float) -> None:
    time.sleep(delay)
    for then in later:
        try:
            then()
        except Exception:  # one object must not affect the others
            log.exception("fork_failed")
    while _of_parent:  # last, because a connection pool may have locks of its own
        _, close = _of_parent.pop()
        if close is not None:
            with contextlib.suppress(Exception):
                close()


os.register_at_fork(after_in_child=_after_fork)
