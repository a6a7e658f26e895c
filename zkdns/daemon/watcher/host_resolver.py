"""Addresses of members' host names, looked up in the background: of upstreams, or as the machine itself does.

While a look-up fails, the last good addresses stand; where it fails for one family alone, those of that.
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

from zkdns.dns.message import Type
from zkdns.forward.found import HostAddresses, type_of
from zkdns.serverset.changes import HostResolved
from zkdns.table import Table

log = structlog.get_logger("zkdns.hosts")

REFRESH_SECONDS = 30.0  # the machine's resolver does not tell TTLs; this is a common one
RETRY_SECONDS = 5.0
_AT_ONCE = 4
_ROUND_SECONDS = 0.05
_FAMILIES = {Type.A: socket.AF_INET, Type.AAAA: socket.AF_INET6}
# What says that a name has no such addresses; everything else says that nobody knows.
_NOTHING = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
}


class Failure(NamedTuple):
    """That a host name cannot be resolved: of which types, since when (Unix time), and why."""

    types: str
    since: float
    reason: str


class HostResolver:
    """Keeps the addresses of host names current.

    Args:
        table: tells which names are wanted, and what is known of them.
        publish: called in the event loop with what was found, whether or not it is new.
        find: asks upstreams; where it does not know, or is None, the machine's own resolver is asked.
    """

    def __init__(
        self,
        table: Table,
        publish: Callable[[list[HostResolved]], None],
        find: Callable[[str], Awaitable[HostAddresses | None]] | None = None,
    ) -> None:
        self._table = table
        self._find = find
        self._publish = publish
        self._due: dict[str, float] = {}
        self.failures: dict[str, Failure] = {}
        """Of those names that cannot be resolved at the moment, by name."""
        self.resolved: dict[str, float] = {}
        """When addresses of a name were last found (Unix time), by name."""
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Say that other names may be wanted now."""
        self._wake.set()

    async def run(self) -> None:
        """Look names up for ever, each again when its time has come."""
        clock = asyncio.get_running_loop().time
        while True:
            self._wake.clear()
            wanted = self._table.hosts
            for host in self._due.keys() - wanted:
                del self._due[host]
                self.failures.pop(host, None)
                self.resolved.pop(host, None)
            for host in wanted - self._running.keys():
                is_due = self._due.setdefault(host, 0.0) <= clock()
                # A name that was out of use for a moment has lost its addresses in the table.
                is_lost = host not in self.failures and not self._table.addresses_of(host)
                if is_due or is_lost:
                    self._running[host] = asyncio.create_task(self._look_up(host))
            with contextlib.suppress(TimeoutError):
                # Not wait_for, which before Python 3.12 loses a cancellation that comes with the event.
                async with asyncio.timeout(1.0):
                    await self._wake.wait()
            await asyncio.sleep(_ROUND_SECONDS)  # a storm of changes is looked at in rounds

    async def _look_up(self, host: str) -> None:
        try:
            async with self._room:
                found = await self._find(host) if self._find else None
                found = found or await _find_as_the_machine_does(host, self._table.addresses_of(host))
        except OSError as error:
            self._tell(host, "A, AAAA", str(error))
            pause = RETRY_SECONDS
        else:
            self._tell(host, ", ".join(qtype.name for qtype in found.failed), found.reason)
            pause = found.seconds
            if found.addresses and host in self._due:
                self.resolved[host] = time.time()
            self._publish([HostResolved(host, found.beside(self._table.addresses_of(host)))])
        finally:
            del self._running[host]
        if host in self._due:
            self._due[host] = asyncio.get_running_loop().time() + pause

    def _tell(self, host: str, failed: str, reason: str) -> None:
        """Take notice of which types there was no answer about; it is told once."""
        if host not in self._due:  # it was forgotten meanwhile
            return
        if not failed:
            self.failures.pop(host, None)
            return
        before = self.failures.get(host)
        self.failures[host] = Failure(failed, before.since if before else time.time(), reason)
        if before is None or before.types != failed:
            log.warning("host_resolution_failed", host=host, types=failed, reason=reason)


async def _find_as_the_machine_does(host: str, known: Sequence[str]) -> HostAddresses:
    """All addresses of a host name, of which these were known before.

    In a thread that nobody waits for at exit: the resolver takes its own time, and cannot be interrupted.

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
            outcome: HostAddresses | OSError = _ask_the_machine(host, known)
        except OSError as error:
            outcome = error
        except UnicodeError as error:
            outcome = OSError(str(error))
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=work, name=f"resolve {host}", daemon=True).start()
    return await result


def _ask_the_machine(host: str, known: Sequence[str]) -> HostAddresses:
    """What the machine's resolver says, to whom a family that fails is as good as one that has nothing.

    So a family that had addresses, and has none, is asked for by itself.

    Raises:
        OSError: it knows of no address.
    """
    addresses = _addresses_of(host)
    failed: list[Type] = []
    reason = ""
    for qtype, family in _FAMILIES.items():
        if qtype not in map(type_of, known) or qtype in map(type_of, addresses):
            continue
        try:
            addresses |= _addresses_of(host, family)
        except socket.gaierror as error:
            if error.errno not in _NOTHING:
                failed.append(qtype)
                reason = str(error)
    seconds = RETRY_SECONDS if failed else REFRESH_SECONDS
    return HostAddresses(tuple(sorted(addresses)), seconds, tuple(failed), reason)


def _addresses_of(host: str, family: int = socket.AF_UNSPEC) -> set[str]:
    found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    return {str(entry[4][0]).partition("%")[0] for entry in found}
