"""Two primaries of the same zone for the benchmark of secondaries, each with secondaries of its own.

zkdns follows a ZooKeeper in which members join, change and leave. Knot gets the same differences afterwards
from its command `knotc`. A poller notes when each secondary shows which serial.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dns.zone
from dns.rdatatype import to_text
from kazoo.client import KazooClient

from tests.bench.fleet_secondaries import TransferError, encode_query, first_record, serial_of
from tests.bench.processes import cpu_seconds, find_program, memory
from tests.bench.table import ROOT
from tests.serverset.sync_helpers import data
from tests.support.authorities import Knot
from tests.support.background import Background
from tests.support.control_secondary import ControlSecondary, Version, soa_serial
from tests.support.loopback import free_port
from tests.support.secondaries import SECONDARIES, Secondary
from tests.support.server import ZkdnsServer
from tests.support.transfers import ZONE, records_of, transfer_stats
from tests.support.waiting import PATIENCE, eventually
from zkdns.daemon.ipc.zone_serial import version_of_zxid
from zkdns.dns.message import Type
from zkdns.dns.serial import is_newer

POLL_SECONDS: Final = 0.005
_APEX: Final = b"\x09discovery\0"


@dataclass(frozen=True)
class Change:
    """A change that the primary's source, or the primary, has acknowledged."""

    serial: int
    at: float
    """Monotonic time of the acknowledgement in seconds."""


class SerialPoller(Background):
    """Queries the serials of servers at 127.0.0.1 every `POLL_SECONDS`, while the context is open.

    Args:
        ports: of the servers, by name.

    Attributes:
        seen: for each server its serials, with the times at which they were seen first.
    """

    def __init__(self, ports: Mapping[str, int]) -> None:
        super().__init__("serial poller")
        self.ports = ports
        self.seen: dict[str, list[tuple[float, int]]] = {name: [] for name in ports}

    def last(self, name: str) -> int | None:
        """The last serial that was seen. None: there is none yet."""
        seen = self.seen[name]
        return seen[-1][1] if seen else None

    def _run(self) -> None:
        with ExitStack() as stack, selectors.DefaultSelector() as selector:
            socks = []
            for name, port in self.ports.items():
                socks.append(sock := stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)))
                sock.setblocking(False)
                sock.connect(("127.0.0.1", port))
                selector.register(sock, selectors.EVENT_READ, (name, sock))
            while not self._has_ended.wait(POLL_SECONDS):
                for key, _ in selector.select(0):
                    self._receive(*key.data)
                for sock in socks:
                    with contextlib.suppress(OSError):  # it starts
                        sock.send(encode_query(_APEX, Type.SOA))

    def _receive(self, name: str, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, TransferError):  # it starts, or has no zone yet
            serial = serial_of(first_record(sock.recv(4096), len(_APEX)))
            if self.last(name) != serial:
                self.seen[name].append((time.monotonic(), serial))


def delays_of(changes: Sequence[Change], seen: Sequence[tuple[float, int]]) -> list[float]:
    """For each change that a server has had: seconds from the acknowledgement until it showed the serial.

    Args:
        changes: in order.
        seen: as in `SerialPoller`.
    """
    delays, later = [], iter(seen)
    at, serial = next(later, (0.0, None))
    for change in changes:
        while serial is not None and serial != change.serial and not is_newer(serial, change.serial):
            at, serial = next(later, (0.0, None))
        if serial is None:
            break
        delays.append(max(0.0, at - change.at))
    return delays


class Rig:
    """A primary with its secondaries.

    Attributes:
        port: of the primary.
        secondaries: all of them.
        changes: all changes so far.
        cpu: CPU seconds of the measured process while there were changes.

    Args:
        port: as above.
        pid: the process of which CPU time and memory are measured.
        secondaries: as above.
        poller: queries their serials.
    """

    def __init__(self, port: int, pid: int, secondaries: Sequence[Secondary], poller: SerialPoller) -> None:
        self.port, self.secondaries = port, secondaries
        self.changes: list[Change] = []
        self.cpu = 0.0
        self._pid, self._poller = pid, poller

    def run(self, changes: Iterator[Change], count: int, rate: float) -> None:
        """Make some changes at a steady rate, and wait until all secondaries have them.

        Raises:
            AssertionError: they have not after a minute.
        """
        before, started_at = cpu_seconds([self._pid]), time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, started_at + number / rate - time.monotonic()))
            self.changes.append(next(changes))
        eventually(self._is_equal, PATIENCE)
        self.cpu += cpu_seconds([self._pid]) - before

    def _is_equal(self) -> bool:
        last = self.changes[-1].serial
        return all(self._poller.last(one.name) == last for one in self.secondaries)

    def delays(self) -> dict[str, list[float]]:
        """The delays of all changes by secondary."""
        return {one.name: delays_of(self.changes, self._poller.seen[one.name]) for one in self.secondaries}

    def megabytes(self) -> float:
        """Memory of the measured process (PSS)."""
        return memory([self._pid]).proportional

    def differing(self, expected: dns.zone.Zone) -> dict[str, int]:
        """The number of records that differ from those of a zone, by secondary."""
        records = records_of(expected)
        names = sorted({(name, qtype) for name, qtype, _, _ in records})
        return {one.name: len(one.records(names) ^ records) for one in self.secondaries}


@contextlib.contextmanager
def following(secondaries: Sequence[Secondary], port: int) -> Iterator[SerialPoller]:
    """Start the secondaries of a primary, and wait until they have its zone."""
    with ExitStack() as stack:
        for secondary in secondaries:
            secondary.primary = port
            stack.enter_context(secondary)
        poller = stack.enter_context(SerialPoller({one.name: one.port for one in secondaries}))
        serial = soa_serial(port)
        eventually(lambda: all(poller.last(name) == serial for name in poller.ports), PATIENCE)
        yield poller


def make_secondaries(directory: Path) -> list[Secondary]:
    """A secondary of each kind, with files in this directory."""
    directory.mkdir()
    return [kind(directory) for kind in SECONDARIES]


# -- zkdns -------------------------------------------------------------------------------------------------


def changes_in_zookeeper(client: KazooClient, services: int) -> Iterator[Change]:
    """Members that join, get another address, and leave, in one service after the other."""
    for number in itertools.cycle(range(services)):
        service = f"{ROOT}/staging/service{number}"
        address = f"10.200.{number // 250 % 250}.{number % 250 + 1}"
        path, stat = client.create(f"{service}/member_", data(address), sequence=True, include_data=True)
        yield _acknowledged(stat.czxid)
        yield _acknowledged(client.set(path, data(address, 81)).mzxid)
        client.delete(path)
        at = time.monotonic()
        yield _acknowledged(client.exists(service).pzxid, at)


def _acknowledged(zxid: int, at: float | None = None) -> Change:
    return Change(version_of_zxid(zxid), time.monotonic() if at is None else at)


class ZkdnsRig(Rig):
    """zkdns with its secondaries. Its transfer process is measured.

    Args:
        server: the zkdns.
        control: one more secondary, which records the differences.
        secondaries: the others.
        poller: queries their serials.
    """

    def __init__(
        self,
        server: ZkdnsServer,
        control: ControlSecondary,
        secondaries: Sequence[Secondary],
        poller: SerialPoller,
    ) -> None:
        super().__init__(server.port, server.pid_of("transfer"), secondaries, poller)
        self.server, self.control = server, control


@contextlib.contextmanager
def zkdns_rig(directory: Path, zookeeper: str) -> Iterator[ZkdnsRig]:
    """Start zkdns, its secondaries, and one that records the differences."""
    port = free_port()
    secondaries = make_secondaries(directory / "of-zkdns")
    control = ControlSecondary(port)
    targets = [f"127.0.0.1:{each}" for each in (control.port, *(one.port for one in secondaries))]
    config = directory / "zkdns.toml"
    config.write_text(f'[transfer]\nallow = ["127.0.0.1"]\nnotify = {targets}\n')
    options = ("--config", str(config), "--zookeeper", zookeeper, "--listen", f"127.0.0.1:{port}")
    with control, ZkdnsServer(*options) as server:
        server.wait_ready(PATIENCE)
        eventually(lambda: server.events("zone_transferable"), PATIENCE)
        with following(secondaries, port) as poller:
            # A NOTIFY of the first version that was sent too early is repeated, and later ones wait for it.
            eventually(lambda: transfer_stats(server).acknowledged >= len(targets), PATIENCE)
            yield ZkdnsRig(server, control, secondaries, poller)


# -- Knot --------------------------------------------------------------------------------------------------


class KnotRig(Rig):
    """Knot with its secondaries.

    Args:
        server: the Knot.
        secondaries: all of them.
        poller: queries their serials.
    """

    def __init__(self, server: Knot, secondaries: Sequence[Secondary], poller: SerialPoller) -> None:
        super().__init__(server.port, server.pid, secondaries, poller)
        self._command = [str(find_program("knotc")), "--socket", str(server.directory / "knot.sock")]

    def changes_of(self, versions: Iterable[Version]) -> Iterator[Change]:
        """Apply versions.

        Raises:
            subprocess.CalledProcessError: Knot refuses one.
        """
        for version in versions:
            deleted = (
                f"zone-unset {ZONE} {rrset.name} {to_text(rrset.rdtype)} {rrset[0].to_text()}"
                for rrset in version.deleted
            )
            added = (
                f"zone-set {ZONE} {rrset.name} {rrset.ttl} {to_text(rrset.rdtype)} {rrset[0].to_text()}"
                for rrset in version.added
            )
            lines = [f"zone-begin {ZONE}", *deleted, *added, f"zone-commit {ZONE}", ""]
            subprocess.run(self._command, input="\n".join(lines), text=True, check=True, capture_output=True)
            at = time.monotonic()
            yield Change(soa_serial(self.port), at)


@contextlib.contextmanager
def knot_rig(directory: Path, zone: dns.zone.Zone) -> Iterator[KnotRig]:
    """Start Knot with a zone, and its secondaries."""
    file = directory / "discovery.zone"
    zone.to_file(str(file), relativize=False)
    secondaries = make_secondaries(directory / "of-knot")
    server = Knot({ZONE: file}, directory, secondaries=[one.port for one in secondaries])
    with server, following(secondaries, server.port) as poller:
        yield KnotRig(server, secondaries, poller)
