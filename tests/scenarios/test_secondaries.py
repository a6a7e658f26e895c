"""Standard secondaries follow the zone of a real server under changes: Knot, NSD, BIND and unbound."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.control_secondary import ControlSecondary
from tests.support.loopback import free_port
from tests.support.secondaries import SECONDARIES, Secondary, Unbound
from tests.support.transfers import ALLOWED, KEY_NAME, KEYS, Primary, records_of, transfer, transfer_stats
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.processes

CHANGES = 4
# Differences are smaller than the zone, so that IXFR has a use.
UNCHANGED = {"db.prod": [f"10.2.0.{host}:5432" for host in range(1, 9)]}
LIMIT = 1.0
"""Seconds within which secondaries are equal to the primary after it answers a change."""
CONTROL_SECONDS = 0.4
"""The longest delay of the control on a machine with free cores: changes are collected for 0.2 s."""


def installed(*, signed: bool) -> list[type[Secondary]]:
    """The secondaries that can be tested here."""
    found = [kind for kind in SECONDARIES if not kind.is_missing() and not (signed and kind is Unbound)]
    if not found:
        names = " ".join(kind.package for kind in SECONDARIES)
        pytest.skip(f"needs one of these (Debian and Ubuntu): apt install {names}")
    return found


def start(stack: ExitStack, server: Primary, secondaries: list[Secondary]) -> None:
    """Start secondaries of a server, and wait until they have its zone."""
    server.wait_transferable()
    for secondary in secondaries:
        secondary.primary = server.port
        stack.enter_context(secondary)
    serial = server.serial()
    for secondary in secondaries:
        eventually(lambda: secondary.serial() == serial, PATIENCE)  # noqa: B023 - called in this iteration


def change(server: Primary, number: int) -> int:
    """Change the services, wait until the server answers this, and return its serial."""
    before = server.serial()
    server.write(
        {
            "web.staging": [f"10.0.{number}.{host}:80" for host in range(1, 4 + number % 2)],
            f"job{number}.prod": ["10.1.0.1:5432"],
            **UNCHANGED,
        }
    )
    return eventually(lambda: serial if (serial := server.serial()) != before else None, PATIENCE, 0.01)


def equal_after(secondaries: list[Secondary], serial: int) -> dict[str, float]:
    """Wait until all secondaries have a serial; return when each had it."""
    missing = list(secondaries)
    found = {}

    def all_have_it() -> bool:
        for secondary in [each for each in missing if each.serial() == serial]:
            found[secondary.name] = time.monotonic()
            missing.remove(secondary)
        return not missing

    eventually(all_have_it, PATIENCE, 0.01)
    return found


def wait_for_requests(server: Primary, count: int) -> None:
    """Wait until the server has reported that many differences."""
    eventually(lambda: transfer_stats(server).requests["IXFR", "incremental"] >= count, PATIENCE)


def test_secondaries_are_equal_within_a_second_by_one_ixfr(tmp_path: Path) -> None:
    """The time is counted from the primary's first answer with the change.

    Each change leads to one NOTIFY and one IXFR of each secondary. Without NOTIFY they would wait a minute.
    A busy machine takes longer: as much longer as the control, compared with a machine that is not busy.
    """
    secondaries = [kind(tmp_path) for kind in installed(signed=False)]
    port = free_port()
    control = ControlSecondary(port)
    notified = [f"127.0.0.1:{each}" for each in (control.port, *(one.port for one in secondaries))]
    delays: dict[str, list[float]] = {each.name: [] for each in secondaries}
    controls = []
    with ExitStack() as stack:
        stack.enter_context(control)
        options = ("--listen", f"127.0.0.1:{port}")
        server = stack.enter_context(Primary(tmp_path, f"{ALLOWED}notify = {notified}\n", *options))
        start(stack, server, secondaries)
        for number in range(CHANGES):
            serial = change(server, number)
            changed_at = time.monotonic()
            for name, at in equal_after(secondaries, serial).items():
                delays[name].append(at - changed_at)
            (version,) = eventually(lambda: [each for each in control.versions if each.serial == serial])  # noqa: B023 - called in this iteration
            controls.append(version.arrived_at - changed_at)
            expected = records_of(transfer(server))
            for secondary in secondaries:
                secondary.wait_for_records(expected)
        followers = len(secondaries) + 1
        eventually(
            lambda: transfer_stats(server).requests["IXFR", "incremental"] >= CHANGES * followers
        )  # each second
        requests = transfer_stats(server).requests
        assert requests["IXFR", "incremental"] == CHANGES * followers
        assert not requests["IXFR", "full"]
        assert not any(secondary.has_ended for secondary in secondaries)
        assert len(control.versions) == CHANGES
    # The median: a secondary that started late is not notified of the first change at once.
    pace = max(1.0, statistics.median(controls) / CONTROL_SECONDS)
    assert max(map(statistics.median, delays.values())) <= LIMIT * pace, (delays, controls)


def test_secondaries_with_a_key_follow_signed(tmp_path: Path) -> None:
    """The primary accepts the key only. Its own NOTIFY messages are signed too."""
    secondaries = [kind(tmp_path, signed=True) for kind in installed(signed=True)]
    notified = [f"127.0.0.1:{each.port}#{KEY_NAME}" for each in secondaries]
    with ExitStack() as stack:
        server = stack.enter_context(Primary(tmp_path, f"notify = {notified}\n{KEYS}"))
        start(stack, server, secondaries)
        for number in range(2):
            equal_after(secondaries, change(server, number))
            for secondary in secondaries:
                name = f"job{number}.prod.discovery."
                secondary.wait_for_records({(name, "A", 5, "10.1.0.1")})
        eventually(
            lambda: transfer_stats(server).requests["IXFR", "incremental"] >= 2 * len(secondaries)
        )  # each second
        assert not server.events("transfer_refused")
