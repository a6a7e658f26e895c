"""`NotifyReceiver`: answers the NOTIFY messages that the workers of a secondary relay (RFC 1996).

    primary ── NOTIFY ──▶ worker ── relay ──▶ NotifyReceiver ──▶ ZoneSource: query the serial now

They are accepted from the addresses of the primaries, from permitted networks, and with the TSIG key.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

import structlog

from zkdns.config import Config
from zkdns.daemon.ipc.relay import RelayedQuery, RelayServer
from zkdns.dns.message import AA, HEADER, HEADER_SIZE, QR, Rcode, Type, end_of_question
from zkdns.names import to_text
from zkdns.secondary.access import load_primary_access
from zkdns.secondary.records import BadTransferError, TransferMessage, read_message
from zkdns.transport.local_addresses import unmapped

if TYPE_CHECKING:
    from zkdns.daemon.watcher.primary_source import PrimarySource
    from zkdns.dns.tsig import Signer

log = structlog.get_logger("zkdns.watcher")

MAX_SECONDS: Final = 5.0
MAX_LOGGED: Final = 1000
"""Addresses of which a refused NOTIFY is logged."""

_OPCODE = 0x7800
_NOTIFY = 4 << 11
_ID = 2


class NotifyReceiver:
    """Listens at a Unix socket.

    Args:
        path: of the socket. A previous watcher's is replaced.
        config: the primaries, and other permitted senders.
        source: is notified.
    """

    def __init__(self, path: str, config: Config, source: PrimarySource) -> None:
        self._server = RelayServer(path, self._answer, max_seconds=MAX_SECONDS)
        primary = config.primary
        self._addresses = {ipaddress.ip_address(server.host.partition("%")[0]) for server in primary.servers}
        self._networks = [ipaddress.ip_network(network) for network in primary.allow_notify]
        self._key = load_primary_access(primary).key
        self._source = source
        self._logged: set[str] = set()

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    def close(self) -> None:
        """Accept no more messages."""
        self._server.stop_accepting()

    async def _answer(self, query: RelayedQuery) -> AsyncGenerator[bytes, None]:
        yield self.respond(query.message, str(ipaddress.ip_address(unmapped(query.address))))

    def respond(self, message: bytes, address: str) -> bytes:
        """The response to a NOTIFY from this address."""
        try:
            read = read_message(message)
        except BadTransferError:
            return _response(message, Rcode.FORMERR)
        if read.question is None or read.flags & (QR | _OPCODE) != _NOTIFY:
            return _response(message, Rcode.FORMERR)
        signer = None
        if read.tsig_at is not None:
            signer = self._verify(message, read.tsig_at)
            if signer is None:
                return _response(message, Rcode.FORMERR)
        rcode = Rcode.NOTAUTH if signer is not None and signer.error else self._handle(read, address, signer)
        response = _response(message, rcode)
        return signer.sign(response) if signer is not None else response

    def _handle(self, read: TransferMessage, address: str, signer: Signer | None) -> Rcode:
        assert read.question is not None  # noqa: S101 - the caller has checked it
        apex, qtype = read.question
        if qtype != Type.SOA:
            return Rcode.NOTIMP
        zone = self._source.zone_at(apex)
        if signer is None and not self._is_permitted(address):
            self._log_refused(address, to_text(apex))
            return Rcode.REFUSED
        if zone is None:
            return Rcode.NOTAUTH
        serials = [
            record.soa.serial for record in read.answers if record.soa is not None and record.owner == apex
        ]
        zone.notify(address, serials[0] if serials else None)
        return Rcode.NOERROR

    def _is_permitted(self, address: str) -> bool:
        parsed = ipaddress.ip_address(address)
        return parsed in self._addresses or any(parsed in network for network in self._networks)

    def _log_refused(self, address: str, zone: str) -> None:
        """Log the first refused NOTIFY of each address."""
        if address not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(address)
            log.warning("notify_refused", client=address, zone=zone)

    def _verify(self, message: bytes, at: int) -> Signer | None:
        """Verify a signature, and return the signer of the response. None: its record is malformed."""
        from zkdns.dns.tsig import MalformedTsigError, read_tsig, verify  # noqa: PLC0415 - rare

        keys = {self._key.name: self._key} if self._key is not None else {}
        try:
            return verify(read_tsig(message, at), keys, int(time.time()))
        except MalformedTsigError:
            return None


def _response(message: bytes, rcode: Rcode) -> bytes:
    """A response with the question of a message."""
    ident, flags, *_ = HEADER.unpack_from(message.ljust(HEADER_SIZE, b"\0"))
    end = end_of_question(message[_ID:]) + _ID
    question = message[HEADER_SIZE:end]
    head = HEADER.pack(ident, QR | AA | flags & _OPCODE | rcode, bool(question), 0, 0, 0)
    return head + question
