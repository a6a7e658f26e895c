"""Clients of many libraries and tools get correct results from a real server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import pytest

from tests.clients.client import Case, Client, ClientEnvironment, LookupResult, MissingProgramError
from tests.clients.environment import (
    HUNDRED,
    IPV4,
    IPV6,
    LINK,
    MANY,
    NONE,
    OLD,
    OLD_IPV4,
    WEB,
    Served,
    serving,
    srv,
)
from tests.clients.library_clients import LIBRARIES
from tests.clients.systemd_resolved import RESOLVED, resolvectl, resolved
from tests.clients.tool_clients import TOOLS
from tests.support.machine import Machine
from tests.support.server import ZkdnsServer

pytestmark = pytest.mark.processes

CLIENTS = (*LIBRARIES, *TOOLS, *RESOLVED)

# Shorter than the retry interval of all clients (musl 2.5 s, glibc 5 s).
MAX_DELAY_SECONDS = 2.0
TRIES = 5  # on a busy machine a program may be slow once; a retry happens each time


class ClientMachines:
    """The machines that clients run on, with and without systemd-resolved."""

    def __init__(self, directory: Path, served: Served, stack: contextlib.ExitStack) -> None:
        self.server = served.server
        self._directory, self._port, self._stack = directory, served.web_port, stack
        self._plain = Machine(directory / "plain")
        self._resolved: Machine | Exception | None = None

    def environment(self, client: Client) -> ClientEnvironment:
        """The environment of a client. Raises MissingProgramError."""
        client.require()
        machine = self.through_resolved() if client.resolved else self._plain
        return ClientEnvironment(self._directory, self._port, machine.run)

    def through_resolved(self) -> Machine:
        """The machine with systemd-resolved, which is started on first use. Raises MissingProgramError."""
        if self._resolved is None:
            try:
                self._resolved = self._stack.enter_context(resolved(self._directory / "resolved"))
            except (
                MissingProgramError,
                AssertionError,
            ) as failure:  # so that the next client does not try again
                self._resolved = failure
        if isinstance(self._resolved, Exception):
            raise self._resolved
        return self._resolved


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientMachines]:
    directory = tmp_path_factory.mktemp("clients")
    with serving(directory) as served, contextlib.ExitStack() as stack:
        yield ClientMachines(directory, served, stack)


@dataclass(frozen=True)
class Lookup:
    """A client in its environment."""

    client: Client
    environment: ClientEnvironment

    def __call__(self, query_type: str, name: str) -> LookupResult:
        return self.client.look_up(self.environment, query_type, name)

    def finds(self, query_type: str, name: str, wanted: tuple[str, ...]) -> None:
        """Check that the client finds exactly these records; above its limit, different ones each time."""
        found = self(query_type, name)
        max_records = self.client.max_records(query_type)
        if max_records is None or len(wanted) <= max_records:
            assert found == LookupResult(tuple(sorted(wanted)))
        else:
            assert found.failure == ""
            assert len(set(found.records)) == len(found.records) == max_records
            assert set(found.records) <= set(wanted)
            # A client that returns only one address has sorted all of them, and may return the same one.
            assert max_records == 1 or self(query_type, name) != found


def finds_ipv4(look_up: Lookup) -> None:
    look_up.finds("A", WEB, IPV4)


def finds_ipv6(look_up: Lookup) -> None:
    look_up.finds("AAAA", WEB, IPV6)


def is_not_delayed_by_a_missing_aaaa(look_up: Lookup) -> None:
    """A missing AAAA record is NODATA. After NXDOMAIN some clients would not look up A records."""
    assert look_up("AAAA", OLD) == LookupResult(failure=look_up.client.nodata)
    query_type = "both" if look_up.client.queries_both_families else "A"
    delays: list[float] = []
    while len(delays) < TRIES and min(delays, default=MAX_DELAY_SECONDS) >= MAX_DELAY_SECONDS:
        started_at = time.monotonic()
        look_up(query_type, NONE)  # the time that the program takes without a delay
        found_at = time.monotonic()
        look_up.finds(query_type, OLD, OLD_IPV4)
        delays.append((time.monotonic() - found_at) - (found_at - started_at))
    assert min(delays) < MAX_DELAY_SECONDS, delays


def finds_srv(look_up: Lookup) -> None:
    look_up.finds("SRV", WEB, srv(WEB))


def reports_a_missing_name(look_up: Lookup) -> None:
    assert look_up("both" if look_up.client.queries_both_families else "A", NONE) == LookupResult(
        failure=look_up.client.nxdomain
    )


def finds_a_hundred_addresses(look_up: Lookup) -> None:
    look_up.finds("A", MANY, HUNDRED)


def finds_a_hundred_srv(look_up: Lookup) -> None:
    look_up.finds("SRV", MANY, srv(MANY))


def finds_by_search(look_up: Lookup) -> None:
    look_up.finds("A", "web", IPV4)


CASES: dict[Case, Callable[[Lookup], None]] = {
    Case.A: finds_ipv4,
    Case.AAAA: finds_ipv6,
    Case.WITHOUT_AAAA: is_not_delayed_by_a_missing_aaaa,
    Case.SRV: finds_srv,
    Case.NXDOMAIN: reports_a_missing_name,
    Case.HUNDRED: finds_a_hundred_addresses,
    Case.HUNDRED_SRV: finds_a_hundred_srv,
    Case.SEARCH: finds_by_search,
}


@pytest.mark.parametrize("case", CASES, ids=attrgetter("value"))
@pytest.mark.parametrize("client", CLIENTS, ids=attrgetter("name"))
def test_a_client(machines: ClientMachines, client: Client, case: Case) -> None:
    if case in client.unsupported:
        pytest.skip(client.unsupported[case])
    try:
        CASES[case](Lookup(client, machines.environment(client)))
    except MissingProgramError as missing:
        pytest.skip(str(missing))


def test_systemd_resolved_routes_only_the_zone_to_zkdns(machines: ClientMachines, tmp_path: Path) -> None:
    others = tmp_path / "others.toml"
    others.write_text('[services."www.all"]\nmembers = ["203.0.113.80:80"]\n')
    try:
        machine = machines.through_resolved()
    except MissingProgramError as missing:
        pytest.skip(str(missing))
    with ZkdnsServer(
        "--static", str(others), "--zone", "example", "--listen", "127.0.0.2:53"
    ) as other_server:
        other_server.wait_ready()
        machine.output(*resolvectl("dns", LINK, "127.0.0.2"))
        try:
            for name, found in (
                (WEB, {*IPV4, *IPV6}),
                ("www.all.example", {"203.0.113.80"}),
                (OLD, {*OLD_IPV4}),
            ):
                output = machine.output("getent", "ahosts", name)
                assert {line.split()[0] for line in output.splitlines()} == found
                # Each server refuses the names of the other one.
                for server in (machines.server, other_server):
                    refuses = name.endswith(".example") == (server is machines.server)
                    assert server.rcode(name) == ("REFUSED" if refuses else "NOERROR")
        finally:
            machine.output(*resolvectl("revert", LINK))
