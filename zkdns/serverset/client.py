"""How zkdns talks to ZooKeeper: one kazoo client, set up so that it never gives up and never chatters."""

from __future__ import annotations

import logging

from kazoo.client import KazooClient
from kazoo.retry import KazooRetry

SESSION_TIMEOUT = 10.0
"""Seconds; Finagle's. Shorter ones turn a long garbage collection of a server into a reload."""

# A pause is up to 1.4 times as long as its nominal value (kazoo's jitter): 3.5 s keeps it below 5 s.
_LONGEST_PAUSE = 3.5


def make_client(hosts: str, *, session_timeout: float = SESSION_TIMEOUT) -> KazooClient:
    """A client that is not started yet; `hosts` is `host:port,host:port/chroot`.

    It tries to connect for ever, at most 5 s apart (kazoo's own default grows to an hour).
    """
    # kazoo tells each try as a warning; who uses the client tells each change of state instead.
    quiet = logging.getLogger("zkdns.kazoo")
    quiet.setLevel(logging.CRITICAL + 1)
    return KazooClient(
        hosts=hosts,
        timeout=session_timeout,
        connection_retry=KazooRetry(max_tries=-1, delay=0.1, max_delay=_LONGEST_PAUSE),
        logger=quiet,
    )
