"""Sends a NOTIFY (RFC 1996) to each secondary after a new version of a zone.

    new version ──▶ all workers have it ──▶ pending (an entry for each zone) ──▶ NOTIFY ──▶ done, or
                                                                                   again after 1, 2 … s

Versions that come while a NOTIFY is pending share it. The secondaries are independent of each other. Most of
them query the SOA record first, which a worker answers: if it had the previous serial, they would wait for
another NOTIFY or their refresh time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig
import structlog

from zkdns.address import HostPort
from zkdns.config.model import NotifyTarget
from zkdns.dns.tsig import FUDGE
from zkdns.names import Labels, to_text

log = structlog.get_logger("zkdns.transfer")

RESPONSE_SECONDS: Final = 1.0
PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each repetition. After the last one, the secondary learns of the version when it polls."""


class Notifier:
    """Notifies all secondaries.

    Attributes:
        results: messages by result: `acknowledged`, `refused`, `unanswered`.

    Args:
        targets: the secondaries.
        keys: TSIG keys by name.
        listening: the server's DNS addresses. Secondaries accept a NOTIFY only from the primary's address.
        until_answered: returns when the workers answer with the newest version.
        pauses: as `PAUSES`.
        response_seconds: as `RESPONSE_SECONDS`.
    """

    def __init__(
        self,
        targets: Sequence[NotifyTarget],
        keys: Mapping[dns.name.Name, dns.tsig.Key],
        listening: Sequence[HostPort],
        until_answered: Callable[[], Awaitable[object]],
        *,
        pauses: Sequence[float] = PAUSES,
        response_seconds: float = RESPONSE_SECONDS,
    ) -> None:
        self.results: Counter[str] = Counter(acknowledged=0, refused=0, unanswered=0)
        self._secondaries = [
            _Secondary(target, _key_of(target, keys), _source_for(target, listening), self)
            for target in targets
        ]
        self.pauses, self.response_seconds = pauses, response_seconds
        self._until_answered = until_answered
        self._changed: dict[Labels, None] = {}
        self._has_changed = asyncio.Event()

    def notify(self, apex: Labels) -> None:
        """Notify all secondaries that this zone has a new version."""
        self._changed[apex] = None
        self._has_changed.set()

    async def run(self) -> None:
        """Send, without end."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pass_on())
            for secondary in self._secondaries:
                tasks.create_task(secondary.run())

    async def _pass_on(self) -> None:
        """Pass new versions on to the secondaries when the workers answer with them, without end."""
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            changed, self._changed = self._changed, {}
            await self._until_answered()
            for secondary in self._secondaries:
                secondary.pending |= changed
                secondary.has_pending.set()


class _Secondary:
    """One secondary.

    Attributes:
        pending: the zones of which it has to be notified.
        has_pending: set when a zone is added.
    """

    def __init__(
        self, target: NotifyTarget, key: dns.tsig.Key | None, source: str | None, notifier: Notifier
    ) -> None:
        self.pending: dict[Labels, None] = {}
        self.has_pending = asyncio.Event()
        self._target, self._key, self._source, self._notifier = target, key, source, notifier
        self._has_logged = False

    async def run(self) -> None:
        """Notify the secondary of pending zones, without end."""
        while True:
            await self.has_pending.wait()
            self.has_pending.clear()
            while self.pending:
                apex = next(iter(self.pending))
                await self._notify(apex)

    async def _notify(self, apex: Labels) -> None:
        """Notify the secondary of a zone, until it responds or all repetitions are over."""
        for pause in (*self._notifier.pauses, None):
            self.pending.pop(apex, None)  # a version that comes from now on needs another NOTIFY
            reason = await self._send(apex)
            if reason is None:
                self._has_logged = False
                return
            if not self._has_logged:
                self._has_logged = True
                log.warning("notify_failed", secondary=str(self._target), zone=to_text(apex), reason=reason)
            if pause is not None and await self._has_version_within(pause):
                self.pending[apex] = None  # its repetitions begin again
                return
        self.pending.pop(apex, None)

    async def _has_version_within(self, seconds: float) -> bool:
        """Wait before a repetition. Returns True at once if a zone has another version meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self.has_pending.wait()
        except TimeoutError:
            return False
        self.has_pending.clear()
        return True

    async def _send(self, apex: Labels) -> str | None:
        """Send one NOTIFY. Returns None, or why it failed."""
        results = self._notifier.results
        query = dns.message.make_query(dns.name.Name((*apex, b"")), dns.rdatatype.SOA)
        query.set_opcode(dns.opcode.NOTIFY)
        query.flags = dns.flags.AA | (query.flags & 0x7800)
        if self._key is not None:
            query.use_tsig(self._key, fudge=FUDGE)
        try:
            async with asyncio.timeout(self._notifier.response_seconds):
                response = await _exchange(query, self._key, self._target, self._source)
        except (TimeoutError, OSError) as error:
            results["unanswered"] += 1
            return "no response" if isinstance(error, TimeoutError) else str(error)
        if response.rcode() == dns.rcode.NOERROR:
            results["acknowledged"] += 1
            return None
        results["refused"] += 1
        return dns.rcode.to_text(response.rcode())


async def _exchange(
    query: dns.message.Message, key: dns.tsig.Key | None, target: NotifyTarget, source: str | None
) -> dns.message.Message:
    """Send a query over UDP, and return its response.

    Messages from other addresses do not arrive at a connected socket. Any that is no response is ignored.

    Raises:
        OSError: it cannot be sent, or the host reports that nothing listens.
    """
    loop = asyncio.get_running_loop()
    protocol = _Protocol()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: protocol,
        local_addr=None if source is None else (source, 0),
        remote_addr=(target.address.host, target.address.port),
    )
    try:
        wire = query.to_wire()
        transport.sendto(wire)
        while True:
            data = await protocol.received.get()
            if isinstance(data, OSError):
                raise data
            with contextlib.suppress(dns.exception.DNSException, ValueError):
                response = dns.message.from_wire(data, keyring=key, request_mac=query.mac)
                if query.is_response(response) and (key is None or response.had_tsig):
                    return response
    finally:
        transport.close()


class _Protocol(asyncio.DatagramProtocol):
    """Puts messages and errors into a queue."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes | OSError] = asyncio.Queue(maxsize=16)

    def datagram_received(self, data: bytes, addr: object) -> None:
        del addr
        with contextlib.suppress(asyncio.QueueFull):
            self.received.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError):
            with contextlib.suppress(asyncio.QueueFull):
                self.received.put_nowait(exc)


def _key_of(target: NotifyTarget, keys: Mapping[dns.name.Name, dns.tsig.Key]) -> dns.tsig.Key | None:
    return None if target.key is None else keys[dns.name.from_text(target.key).canonicalize()]


def _source_for(target: NotifyTarget, listening: Sequence[HostPort]) -> str | None:
    """The address of this server that a secondary at this address uses. None: the kernel chooses one."""
    host = ipaddress.ip_address(target.address.host)
    for listener in listening:
        own = ipaddress.ip_address(listener.host)
        if own.version == host.version and own.is_loopback == host.is_loopback and not own.is_unspecified:
            return listener.host
    return None
