"""Prepares sessions, watches and balancers for use in a forked child process.

A child has a copy of each object, but none of the threads. A lock that another thread held at the fork is
never released there, and sockets are shared with the parent. So each class with locks, threads or connections
adds its objects here, and has a method `after_fork`.

    fork ──▶ `after_fork` of each object ──▶ the child's program goes on
                          └──▶ 0.1 s later, in a thread: the functions that these calls returned

`after_fork` only assigns attributes and closes descriptors. It takes no lock and logs nothing, since a lock
of a log handler may be held too. Everything else waits, so that a child that executes another program at once
opens no connection.

uWSGI forks in C, by default without Python's hooks. It calls `uwsgi.post_fork_hook` in each child instead.
"""

from __future__ import annotations

import contextlib
import os
import sys
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
_process = os.getpid()  # since the last fork, or since this module was imported
_uwsgi_hook: Callable[[], None] | None = None


def add(one: Forkable) -> None:
    """Call `after_fork` of this object in child processes, as long as it exists."""
    _objects.add(one)
    _follow_uwsgi()


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


def warn_of_uwsgi() -> None:
    """Log which options of uWSGI are missing, for the case that this process runs in it.

    Without threads, ZooKeeper receives no heartbeats. Without Python's hooks, a lock of `logging` that
    another thread held at the fork is never released in the child (measured).
    """
    uwsgi = sys.modules.get("uwsgi")  # it exists only in a process of uWSGI
    if uwsgi is None:
        return
    missing = []
    if not uwsgi.has_threads:
        missing.append("enable-threads")
    if not uwsgi.worker_id() and "py-call-uwsgi-fork-hooks" not in uwsgi.opt:  # 0: it has not forked yet
        missing.append("py-call-uwsgi-fork-hooks")
    if missing:
        log.warning("uwsgi_options_missing", options=",".join(missing))


def _follow_uwsgi() -> None:
    """Call `_after_fork` in the children of uWSGI, before a hook that the program has set."""
    global _uwsgi_hook  # noqa: PLW0603 - the state of the process
    uwsgi = sys.modules.get("uwsgi")
    earlier = getattr(uwsgi, "post_fork_hook", None)
    if uwsgi is None or (_uwsgi_hook is not None and earlier is _uwsgi_hook):
        return

    def hook() -> None:
        if os.getpid() != _process:  # otherwise uWSGI has called Python's hooks
            _after_fork()
        if earlier is not None:
            earlier()

    uwsgi.post_fork_hook = _uwsgi_hook = hook  # type: ignore[attr-defined]  # the module is uWSGI's


def _after_fork() -> None:
    global _is_child, _process
    _is_child, _process = True, os.getpid()
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
