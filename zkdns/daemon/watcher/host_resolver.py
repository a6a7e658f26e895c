"""Resolves members' host names in the background, with the upstreams or with the system resolver.

If a lookup fails, the previous addresses stay in the table. If it fails for A or AAAA alone, the previous
addresses of that type stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog

from zkdns.daemon.ipc.feed import PublisherListener
from zkdns.dns.message import Type
from zkdns.forward.host_lookup import HostAddresses, type_of
from zkdns.serverset.changes import HostResolved
from zkdns.table import Table

log = structlog.get_logger("zkdns.hosts")

REFRESH_SECONDS = 30.0  # a common TTL; the system resolver does not report TTLs
RETRY_SECONDS = 5.0
_MAX_CONCURRENT = 4
_ROUND_SECONDS = 0.05
_FAMILIES = {Type.A: socket.AF_INET, Type.AAAA: socket.AF_INET6}
# Errors that mean that a name has no addresses of a family. All others mean that the lookup failed.
_NO_ADDRESSES = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
}


class Failure(NamedTuple):
    """Types of a host name that cannot be resolved, since when (Unix time), and why."""

    types: str
    since: float
    reason: str


class HostResolver(PublisherListener):
    """Keeps the addresses of the table's host names current.

    Attributes:
        failures: the host names that cannot be resolved now.
        resolved: time of the last lookup that found addresses (Unix time), by host name.

    Args:
        table: has the host names and their previous addresses.
        publish: called in the event loop with the result of each lookup, changed or not.
        find: looks a name up with the upstreams. If it is None or returns None, the system resolver is used.
    """

    def __init__(
        self,
        table: Table,
        publish: Callable[[list[HostResolved]], None],
        find: Callable[[str], Awaitable[HostAddresses | None]] | None = None,
    ) -> None:
        self.failures: dict[str, Failure] = {}
        self.resolved: dict[str, float] = {}
        self._table = table
        self._find = find
        self._publish = publish
        self._due: dict[str, float] = {}  # time of the next lookup (event loop's clock)
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def after_batch(self) -> None:
        """Look up host names that the changes have added, soon."""
        self._wake.set()

    async def run(self) -> None:
        """Look up each host name when it is due, without end."""
        clock = asyncio.get_running_loop().time
        while True:
            self._wake.clear()
            hosts = self._table.hosts
            for host in self._due.keys() - hosts:
                del self._due[host]
                self.failures.pop(host, None)
                self.resolved.pop(host, None)
            for host in hosts - self._running.keys():
                is_due = self._due.setdefault(host, 0.0) <= clock()
                # The table drops the addresses of a host name together with its last member.
                is_lost = host not in self.failures and not self._table.addresses_of(host)
                if is_due or is_lost:
                    self._running[host] = asyncio.create_task(self._look_up(host))
            with contextlib.suppress(TimeoutError):
                # Before Python 3.12, wait_for loses a cancellation that comes together with the event.
                async with asyncio.timeout(1.0):
                    await self._wake.wait()
            await asyncio.sleep(_ROUND_SECONDS)  # handles many changes in one round

    async def _look_up(self, host: str) -> None:
        try:
            async with self._slots:
                found = await self._find(host) if self._find else None
                found = found or await _resolve_in_thread(host, self._table.addresses_of(host))
        except OSError as error:
            self._note_failure(host, "A, AAAA", str(error))
            pause = RETRY_SECONDS
        else:
            self._note_failure(host, ", ".join(qtype.name for qtype in found.failed), found.reason)
            pause = found.seconds
            if found.addresses and host in self._due:
                self.resolved[host] = time.time()
            self._publish([HostResolved(host, found.merge(self._table.addresses_of(host)))])
        finally:
            del self._running[host]
        if host in self._due:
            self._due[host] = asyncio.get_running_loop().time() + pause

    def _note_failure(self, host: str, failed: str, reason: str) -> None:
        """Store and log which types failed. A failure is logged once, until the failed types change."""
        if host not in self._due:  # no member has this host name any more
            return
        if not failed:
            self.failures.pop(host, None)
            return
        previous = self.failures.get(host)
        self.failures[host] = Failure(failed, previous.since if previous else time.time(), reason)
        if previous is None or previous.types != failed:
            log.warning("host_resolution_failed", host=host, types=failed, reason=reason)


async def _resolve_in_thread(host: str, previous: Sequence[str]) -> HostAddresses:
    """Call `_resolve` in a daemon thread.

    The system resolver can take long and cannot be interrupted. The process exits without waiting for a
    daemon thread.

    Raises:
        OSError: the name cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[HostAddresses] = loop.create_future()

    def settle(outcome: HostAddresses | OSError) -> None:
        if result.done():
            return
        if isinstance(outcome, OSError):
            result.set_exception(outcome)
        else:
            result.set_result(outcome)

    def work() -> None:
        try:
            outcome: HostAddresses | OSError = _resolve(host, previous)
        except OSError as error:
            outcome = error
        except UnicodeError as error:
            outcome = OSError(str(error))
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=work, name=f"resolve {host}", daemon=True).start()
    return await result


def _resolve(host: str, previous: Sequence[str]) -> HostAddresses:
    """Look a host name up with the system resolver (getaddrinfo(3)).

    A lookup of both families succeeds even if it failed for one of them. So a family that had addresses
    before, and now has none, is looked up alone.

    Args:
        host: the name.
        previous: the addresses that are in the table.

    Raises:
        OSError: there are no addresses, or the lookup failed.
    """
    addresses = _addresses_of(host)
    failed: list[Type] = []
    reason = ""
    for qtype, family in _FAMILIES.items():
        if qtype not in map(type_of, previous) or qtype in map(type_of, addresses):
            continue
        try:
            addresses |= _addresses_of(host, family)
        except socket.gaierror as error:
            if error.errno not in _NO_ADDRESSES:
                failed.append(qtype)
                reason = str(error)
    seconds = RETRY_SECONDS if failed else REFRESH_SECONDS
    return HostAddresses(tuple(sorted(addresses)), seconds, tuple(failed), reason)


def _addresses_of(host: str, family: int = socket.AF_UNSPEC) -> set[str]:
    found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    return {str(entry[4][0]).partition("%")[0] for entry in found}
