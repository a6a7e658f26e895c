"""A small secondary, which shows the time that the primary and this machine need, and records differences."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import dns.message
import dns.query
import dns.rdatatype
import dns.rrset

from tests.support.background import Background
from tests.support.transfers import ZONE
from tests.support.udp_query import query_udp

_TIMEOUT: Final = 30.0
_SOA: Final = dns.rdatatype.SOA


class Version(NamedTuple):
    """The difference of a version to the one before it."""

    serial: int
    deleted: Sequence[dns.rrset.RRset]
    added: Sequence[dns.rrset.RRset]
    arrived_at: float
    """Monotonic time in seconds."""


class ControlSecondary(Background):
    """Requests the differences after each NOTIFY, and keeps them, but no zone.

    While the context is open, a thread does this. Open it before the primary starts, so that the first NOTIFY
    is acknowledged: after one that is not, the primary may wait.

    Args:
        primary: the port of its primary at 127.0.0.1.

    Attributes:
        port: for NOTIFY messages.
        versions: all versions after the first one, in order.
        requests: the number of requests that had differences.
    """

    def __init__(self, primary: int) -> None:
        super().__init__("control secondary")
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._udp.settimeout(0.1)
        self.port: int = self._udp.getsockname()[1]
        self.versions: list[Version] = []
        self.requests = 0
        self._primary = primary
        self._serial: int | None = None

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._udp.close()

    def _run(self) -> None:
        while not self._has_ended.is_set():
            with contextlib.suppress(TimeoutError):
                data, address = self._udp.recvfrom(65535)
                self._udp.sendto(dns.message.make_response(dns.message.from_wire(data)).to_wire(), address)
                if self._serial is None:
                    self._serial = soa_serial(self._primary)
                elif found := differences(self._primary, self._serial):
                    self.requests += 1
                    self.versions += found
                    self._serial = found[-1].serial


def soa_serial(port: int) -> int:
    """The serial of the zone of a server at 127.0.0.1."""
    response = query_udp(dns.message.make_query(ZONE, "SOA"), "127.0.0.1", port)
    return int(response.answer[0][0].serial)


def differences(port: int, serial: int) -> list[Version]:
    """The versions of the zone of a server at 127.0.0.1 since this serial, by IXFR.

    Raises:
        AssertionError: it sends the whole zone, or an error.
    """
    query = dns.message.make_query(ZONE, "IXFR")
    query.authority.append(dns.rrset.from_text(ZONE, 0, "IN", "SOA", f". . {serial} 0 0 0 0"))
    records: list[dns.rrset.RRset] = []
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT) as sock:
        dns.query.send_tcp(sock, query)
        while len(records) < 2 or not _is_whole(records):
            response, _ = dns.query.receive_tcp(sock, one_rr_per_rrset=True)
            records += response.answer
            assert records, response
            if len(records) == 1:
                return []
    arrived_at = time.monotonic()
    _, *records = records
    assert records[0].rdtype == _SOA, "the whole zone was sent"
    starts = [number for number, each in enumerate(records) if each.rdtype == _SOA]
    return [
        Version(int(records[added][0].serial), records[old + 1 : added], records[added + 1 : end], arrived_at)
        for old, added, end in zip(starts[::2], starts[1::2], starts[2::2], strict=False)
    ]


def _is_whole(records: Sequence[dns.rrset.RRset]) -> bool:
    """Whether the newest SOA record has come again: after the last deletions, and at the end."""
    newest = records[0][0]
    same = sum(each.rdtype == _SOA and each[0].serial == newest.serial for each in records)
    return bool(same == 2 + (records[1].rdtype == _SOA))
