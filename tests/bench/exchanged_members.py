"""Exchanges the members of a service, one at a time: in ZooKeeper for zkdns, with DNS updates for Knot."""

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import dns.query
import dns.rcode
import dns.update
from kazoo.client import KazooClient

from tests.bench.answer_checks import send_query
from tests.bench.table import ROOT
from tests.bench.zone import ENVIRONMENT, TTL, ZONE, Service
from tests.serverset.sync_helpers import data
from tests.support.waiting import eventually

_IN_FLIGHT = 500
_TIMEOUT = 5.0
_PORT = 8000


def new_address(number: int) -> str:
    """The address of the member that joins in the exchange of that number."""
    return f"10.250.{number // 250}.{number % 250 + 1}"


class Exchanger(Protocol):
    """Exchanges the oldest member of a service for a new one."""

    def exchange(self, number: int) -> str:
        """Make the exchange of that number, which counts from 0. Returns the label of the new member."""


class ZooKeeperExchanger:
    """Creates the members in ZooKeeper, and exchanges them there."""

    def __init__(self, client: KazooClient, service: Service) -> None:
        self._client = client
        self._path = f"{ROOT}/{ENVIRONMENT}/{service.name}"
        self._members: deque[str] = deque()
        client.ensure_path(self._path)
        for start in range(0, len(service.members), _IN_FLIGHT):
            batch = service.members[start : start + _IN_FLIGHT]
            results = [client.create_async(self._member, data(*member), sequence=True) for member in batch]
            self._members.extend(result.get(_TIMEOUT) for result in results)

    @property
    def _member(self) -> str:
        return f"{self._path}/member_"

    def exchange(self, number: int) -> str:
        joined: str = self._client.create(self._member, data(new_address(number)), sequence=True)
        self._members.append(joined)
        self._client.delete(self._members.popleft())
        return f"m{int(joined.removeprefix(self._member))}"


class UpdateExchanger:
    """Exchanges the members of a zone with DNS updates (RFC 2136)."""

    def __init__(self, port: int, service: Service) -> None:
        self._port = port
        self._service = service

    def exchange(self, number: int) -> str:
        owner, joined = f"{self._service.owner}.", f"m{len(self._service.members) + number}"
        address, port = self._service.members[number]
        update = dns.update.UpdateMessage(ZONE)
        update.add(owner, TTL, "A", new_address(number))
        update.add(owner, TTL, "SRV", f"0 100 {_PORT} {joined}.{owner}")
        update.add(f"{joined}.{owner}", TTL, "A", new_address(number))
        update.delete(owner, "A", address)
        update.delete(owner, "SRV", f"0 100 {port} m{number}.{owner}")
        update.delete(f"m{number}.{owner}")
        response = dns.query.tcp(update, "127.0.0.1", port=self._port, timeout=_TIMEOUT)
        if response.rcode() != dns.rcode.NOERROR:
            raise RuntimeError(f"the update was refused: {dns.rcode.to_text(response.rcode())}")
        return joined


@dataclass
class Exchanges:
    """The exchanges so far."""

    count: int = 0
    joined: str = ""
    """The label of the last member that joined."""
    error: Exception | None = None
    """The error that ended them early."""

    def check_answered(self, server: str, port: int, service: Service) -> None:
        """Check that the last exchange appears in the answers.

        Raises:
            RuntimeError: the exchanges ended early.
            AssertionError: the last one does not appear.
        """
        if self.error is not None or not self.count:
            raise RuntimeError(f"exchanges with {server} ended after {self.count}: {self.error!r}")
        # A response has no room for all addresses of the service.
        owner, address = f"{self.joined}.{service.owner}", socket.inet_aton(new_address(self.count - 1))
        eventually(lambda: address in send_query(port, owner, "A").to_wire())


@contextlib.contextmanager
def exchanging(exchanger: Exchanger, interval: float) -> Iterator[Exchanges]:
    """Exchange a member every `interval` seconds during the `with` block."""
    end, made = threading.Event(), Exchanges()

    def run() -> None:
        while not end.wait(interval):
            try:
                made.joined = exchanger.exchange(made.count)
            except Exception as error:  # noqa: BLE001 - the main thread reports it
                made.error = error
                return
            made.count += 1

    thread = threading.Thread(target=run, name="exchanges", daemon=True)
    thread.start()
    try:
        yield made
    finally:
        end.set()
        thread.join()
