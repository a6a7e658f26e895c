"""Resolves members' host names in the background, with the upstreams or with the system resolver.

If a lookup fails, the previous addresses stay in the table. If it fails for A or AAAA alone, the previous
addresses of that type stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog

from zkdns.address import unusable_address
from zkdns.causes import NO_ADDRESSES, cause_of
from zkdns.clock import elapsed_seconds
from zkdns.daemon.ipc.feed import PublisherListener
from zkdns.dns.message import Type
from zkdns.forward.host_lookup import HostAddresses, type_of
from zkdns.serverset.changes import HostResolved
from zkdns.table import Table

log = structlog.get_logger("zkdns.hosts")

REFRESH_SECONDS = 30.0
"""Time between two lookups with the system resolver, which does not report TTLs: a common TTL."""
RETRY_SECONDS = 5.0
"""Time until a failed lookup is repeated."""
ROUND_SECONDS = 0.05
"""Minimum time between two checks of the table, so that one check handles many changes."""
_CHECK_SECONDS = 1.0  # maximum time between two checks
_MAX_CONCURRENT = 4
_FAMILIES = {Type.A: socket.AF_INET, Type.AAAA: socket.AF_INET6}


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
        is_active: False: look up nothing, because the source has the addresses too.
        refresh_seconds: as `REFRESH_SECONDS`.
        retry_seconds: as `RETRY_SECONDS`.
        round_seconds: as `ROUND_SECONDS`.
        clock: returns the time in seconds, from any start.
    """

    def __init__(
        self,
        table: Table,
        publish: Callable[[list[HostResolved]], None],
        find: Callable[[str], Awaitable[HostAddresses | None]] | None = None,
        *,
        is_active: bool = True,
        refresh_seconds: float = REFRESH_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        round_seconds: float = ROUND_SECONDS,
        clock: Callable[[], float] = elapsed_seconds,
    ) -> None:
        self.failures: dict[str, Failure] = {}
        self.resolved: dict[str, float] = {}
        self._table = table
        self._is_active = is_active
        self._find = find
        self._publish = publish
        self._refresh_seconds = refresh_seconds
        self._retry_seconds = retry_seconds
        self._round_seconds = round_seconds
        self._clock = clock
        self._due: dict[str, float] = {}  # time of the next lookup
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def after_batch(self) -> None:
        """Look up host names that the changes have added, soon."""
        self._wake.set()

    async def run(self) -> None:
        """Look up each host name when it is due, without end. A cancellation cancels all lookups too."""
        if not self._is_active:
            return
        try:
            while True:
                self._wake.clear()
                self._start_lookups()
                with contextlib.suppress(TimeoutError):
                    # Before Python 3.12, wait_for loses a cancellation that comes together with the event.
                    async with asyncio.timeout(_CHECK_SECONDS):
                        await self._wake.wait()
                await asyncio.sleep(self._round_seconds)
        finally:
            for lookup in self._running.values():
                lookup.cancel()

    def _start_lookups(self) -> None:
        """Forget host names that no member has any more, and start the lookups that are due."""
        hosts = self._table.hosts
        for host in self._due.keys() - hosts:
            del self._due[host]
            self.failures.pop(host, None)
            self.resolved.pop(host, None)
        for host in hosts - self._running.keys():
            is_due = self._due.setdefault(host, self._clock()) <= self._clock()
            # The table drops the addresses of a host name together with its last member.
            is_lost = host not in self.failures and not self._table.addresses_of(host)
            if is_due or is_lost:
                self._running[host] = asyncio.create_task(self._look_up(host))

    async def _look_up(self, host: str) -> None:
        try:
            async with self._slots:
                found = await self._find(host) if self._find else None
                found = found or await self._resolve_with_system(host)
        except OSError as error:
            self._note_failure(host, "A, AAAA", str(error))
            pause = self._retry_seconds
        else:
            found = _without_unusable(found)
            self._note_failure(host, ", ".join(qtype.name for qtype in found.failed), found.reason)
            pause = found.seconds
            if found.addresses and host in self._due:
                self.resolved[host] = time.time()
            self._publish([HostResolved(host, found.merge(self._table.addresses_of(host)))])
        finally:
            del self._running[host]
        if host in self._due:
            self._due[host] = self._clock() + pause

    async def _resolve_with_system(self, host: str) -> HostAddresses:
        """Look a host name up with the system resolver.

        Raises:
            OSError: the name cannot be resolved.
        """
        found = await _resolve_in_thread(host, self._table.addresses_of(host))
        seconds = self._retry_seconds if found.failed else self._refresh_seconds
        return HostAddresses(found.addresses, seconds, found.failed, found.reason)

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


def _without_unusable(found: HostAddresses) -> HostAddresses:
    """The result without addresses that no client can connect to, such as 0.0.0.0. Their type has failed."""
    reasons = {
        address: reason
        for address in found.addresses
        if (reason := unusable_address(ipaddress.ip_address(address))) is not None
    }
    if not reasons:
        return found
    usable = tuple(address for address in found.addresses if address not in reasons)
    failed = {type_of(address) for address in reasons} - {type_of(address) for address in usable}
    why = ", ".join(f"{address} is {reason}" for address, reason in reasons.items())
    return found._replace(
        addresses=usable, failed=(*found.failed, *sorted(failed)), reason=found.reason or why
    )


class _SystemResult(NamedTuple):
    """The addresses of a host name, from the system resolver. Fields as in `HostAddresses`."""

    addresses: tuple[str, ...]
    failed: tuple[Type, ...]
    reason: str


async def _resolve_in_thread(host: str, previous: Sequence[str]) -> _SystemResult:
    """Call `_resolve` in a daemon thread.

    The system resolver can take long and cannot be interrupted. The process exits without waiting for a
    daemon thread.

    Raises:
        OSError: the name cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[_SystemResult] = loop.create_future()

    def settle(outcome: _SystemResult | OSError) -> None:
        if result.done():
            return
        if isinstance(outcome, OSError):
            result.set_exception(outcome)
        else:
            result.set_result(outcome)

    def work() -> None:
        try:
            outcome: _SystemResult | OSError = _resolve(host, previous)
        except OSError as error:
            outcome = error
        except UnicodeError as error:
            outcome = OSError(str(error))
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=work, name=f"resolve {host}", daemon=True).start()
    return await result


def _resolve(host: str, previous: Sequence[str]) -> _SystemResult:
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
            if error.errno not in NO_ADDRESSES:
                failed.append(qtype)
                reason = cause_of(error)
    return _SystemResult(tuple(sorted(addresses)), tuple(failed), reason)


def _addresses_of(host: str, family: int = socket.AF_UNSPEC) -> set[str]:
    found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    return {str(entry[4][0]).partition("%")[0] for entry in found}
