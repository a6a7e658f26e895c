"""Whoever asks, with whatever library or tool, gets what the standards promise."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import pytest

from tests.clients.client import Case, Client, Found, MissingError, Workplace
from tests.clients.libraries import LIBRARIES
from tests.clients.resolved import RESOLVED, resolvectl, resolved
from tests.clients.scene import (
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
from tests.clients.tools import TOOLS
from tests.support.machine import Machine
from tests.support.server import ZkdnsServer

pytestmark = [pytest.mark.processes, pytest.mark.alone]

CLIENTS = (*LIBRARIES, *TOOLS, *RESOLVED)

# Below what any of these waits before it asks again (musl 2.5 s, glibc 5 s), programs' start included.
AT_ONCE = 2.0  # seconds
TRIES = 3  # who is held up is each time; a program's start may be slow once, where the machine is busy


class World:
    """The network with the server, and the machines in it."""

    def __init__(self, directory: Path, served: Served, stack: contextlib.ExitStack) -> None:
        self.server = served.server
        self._directory, self._port, self._stack = directory, served.web_port, stack
        self._plain = Machine(directory / "plain")
        self._resolved: Machine | Exception | None = None

    def workplace(self, client: Client) -> Workplace:
        """Where that client asks; or MissingError."""
        client.require()
        machine = self.through_resolved() if client.resolved else self._plain
        return Workplace(self._directory, self._port, machine.run)

    def through_resolved(self) -> Machine:
        """The machine with systemd-resolved, which is started when it is first needed; or MissingError."""
        if self._resolved is None:
            try:
                self._resolved = self._stack.enter_context(resolved(self._directory / "resolved"))
            except (MissingError, AssertionError) as failure:  # it would fail for the next client too
                self._resolved = failure
        if isinstance(self._resolved, Exception):
            raise self._resolved
        return self._resolved


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("clients")
    with serving(directory) as served, contextlib.ExitStack() as stack:
        yield World(directory, served, stack)


@dataclass(frozen=True)
class Asking:
    """A client at its workplace."""

    client: Client
    workplace: Workplace

    def __call__(self, kind: str, name: str) -> Found:
        return self.client.ask(self.workplace, kind, name)

    def finds(self, kind: str, name: str, wanted: tuple[str, ...]) -> None:
        """It is told all of these and nothing else; or as many as it can take, and others the next time."""
        found = self(kind, name)
        most = self.client.most(kind)
        if most is None or len(wanted) <= most:
            assert found == Found(tuple(sorted(wanted)))
        else:
            assert found.failure == ""
            assert len(set(found.records)) == len(found.records) == most
            assert set(found.records) <= set(wanted)
            # Of one it says only where it has connected to, having sorted all of them by itself.
            assert most == 1 or self(kind, name) != found


def finds_ipv4(ask: Asking) -> None:
    ask.finds("A", WEB, IPV4)


def finds_ipv6(ask: Asking) -> None:
    ask.finds("AAAA", WEB, IPV6)


def is_not_held_up_by_a_missing_aaaa(ask: Asking) -> None:
    """Not even by being told that the whole name is missing, which ends the search for an A with some."""
    assert ask("AAAA", OLD) == Found(failure=ask.client.nodata)
    took: list[float] = []
    while len(took) < TRIES and min(took, default=AT_ONCE) >= AT_ONCE:
        began = time.monotonic()
        ask.finds("both" if ask.client.asks_both else "A", OLD, OLD_IPV4)
        took.append(time.monotonic() - began)
    assert min(took) < AT_ONCE, took


def finds_srv(ask: Asking) -> None:
    ask.finds("SRV", WEB, srv(WEB))


def learns_that_there_is_no_such_name(ask: Asking) -> None:
    assert ask("both" if ask.client.asks_both else "A", NONE) == Found(failure=ask.client.nxdomain)


def finds_a_hundred_addresses(ask: Asking) -> None:
    ask.finds("A", MANY, HUNDRED)


def finds_a_hundred_srv(ask: Asking) -> None:
    ask.finds("SRV", MANY, srv(MANY))


def finds_by_search(ask: Asking) -> None:
    ask.finds("A", "web", IPV4)


CASES: dict[Case, Callable[[Asking], None]] = {
    Case.A: finds_ipv4,
    Case.AAAA: finds_ipv6,
    Case.WITHOUT_AAAA: is_not_held_up_by_a_missing_aaaa,
    Case.SRV: finds_srv,
    Case.NXDOMAIN: learns_that_there_is_no_such_name,
    Case.HUNDRED: finds_a_hundred_addresses,
    Case.HUNDRED_SRV: finds_a_hundred_srv,
    Case.SEARCH: finds_by_search,
}


@pytest.mark.parametrize("case", CASES, ids=attrgetter("value"))
@pytest.mark.parametrize("client", CLIENTS, ids=attrgetter("name"))
def test_a_client(world: World, client: Client, case: Case) -> None:
    if case in client.cannot:
        pytest.skip(client.cannot[case])
    try:
        CASES[case](Asking(client, world.workplace(client)))
    except MissingError as missing:
        pytest.skip(str(missing))


def test_systemd_resolved_finds_our_zone_here_and_everything_else_elsewhere(
    world: World, tmp_path: Path
) -> None:
    others = tmp_path / "others.toml"
    others.write_text('[services."www.all"]\nmembers = ["203.0.113.80:80"]\n')
    try:
        machine = world.through_resolved()
    except MissingError as missing:
        pytest.skip(str(missing))
    with ZkdnsServer("--static", str(others), "--zone", "example", "--listen", "127.0.0.2:53") as elsewhere:
        elsewhere.wait_ready()
        machine.output(*resolvectl("dns", LINK, "127.0.0.2"))
        try:
            for name, found in (
                (WEB, {*IPV4, *IPV6}),
                ("www.all.example", {"203.0.113.80"}),
                (OLD, {*OLD_IPV4}),
            ):
                told = machine.output("getent", "ahosts", name)
                assert {line.split()[0] for line in told.splitlines()} == found
                # Each server refuses the other's names.
                for server in (world.server, elsewhere):
                    refuses = name.endswith(".example") == (server is world.server)
                    assert server.rcode(name) == ("REFUSED" if refuses else "NOERROR")
        finally:
            machine.output(*resolvectl("revert", LINK))
