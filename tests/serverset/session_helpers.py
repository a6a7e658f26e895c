"""Helpers for tests of sessions: their threads, and their expiry."""

import sys
import threading
from types import SimpleNamespace

from tests.support.fault_proxy import FaultProxy
from tests.support.zookeeper import expire_session


def session_threads() -> list[threading.Thread]:
    """The worker threads of sessions. A session has one from its first user to its end."""
    return [thread for thread in threading.enumerate() if thread.name == "zkdns session"]


def is_waiting(thread: threading.Thread) -> bool:
    """Whether a thread is in `Condition.wait_for`."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None or frame.f_code is not threading.Condition.wait.__code__:
        return False
    return frame.f_back is not None and frame.f_back.f_code is threading.Condition.wait_for.__code__


def expire_latest_session(proxy: FaultProxy) -> None:
    """Expire the session that was established or resumed last through a proxy."""
    host, _, port = proxy.upstream.partition(":")
    expire_session(SimpleNamespace(client_id=proxy.sessions[-1], hosts=[(host, int(port))]))
