"""Standard secondaries follow the zone of a real server under changes: Knot, NSD, BIND and unbound."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.support.secondaries import SECONDARIES, Bind, Knot, Nsd, Secondary
from tests.support.transfers import ALLOWED, KEY_NAME, KEYS, Primary, records_of, transfer
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.processes

CHANGES = 6
# Differences are smaller than the zone, so that IXFR has a use.
UNCHANGED = {"db.prod": [f"10.2.0.{host}:5432" for host in range(1, 9)]}


def requests_of(server: Primary) -> Counter[tuple[str, str]]:
    """Requests for transfers by type and result."""
    with urllib.request.urlopen(f"{server.admin}/api/stats", timeout=20.0) as response:  # noqa: S310 - a local URL
        counts = json.load(response)["transfer"]["requests"]
    return Counter({(each["type"], each["result"]): each["count"] for each in counts})


def is_equal(server: Primary, secondary: Secondary) -> bool:
    """Whether the secondary has the primary's serial and all its records."""
    if secondary.serial() != server.serial():
        return False
    expected = records_of(transfer(server))
    names = {(name, qtype) for name, qtype, _, _ in expected}
    found = set().union(*(secondary.answers(name, qtype) for name, qtype in names))
    # A response for the apex or a DNS-SD name may have more; each record must be the primary's.
    return found == expected


def follow(server: Primary, secondary: Secondary) -> None:
    """Change the services, and wait each time until the secondary is equal to the primary."""
    secondary.primary = server.port
    with secondary:
        eventually(partial(is_equal, server, secondary), PATIENCE)
        for number in range(CHANGES):
            before = server.serial()
            server.write(
                {
                    "web.staging": [f"10.0.{number}.{host}:80" for host in range(1, 4 + number % 2)],
                    f"job{number}.prod": ["10.1.0.1:5432"],
                    **UNCHANGED,
                }
            )
            eventually(lambda: server.serial() != before, PATIENCE)  # noqa: B023 - called in this iteration
            eventually(partial(is_equal, server, secondary), PATIENCE)
        assert not secondary.has_ended


@pytest.mark.parametrize("kind", SECONDARIES, ids=lambda kind: kind.name)
def test_a_secondary_follows_by_ixfr(kind: type[Secondary], tmp_path: Path) -> None:
    secondary = kind(tmp_path)
    with Primary(tmp_path, f'{ALLOWED}notify = ["127.0.0.1:{secondary.port}"]\n') as server:
        server.wait_transferable()
        follow(server, secondary)
        # The comparison itself transfers the whole zone; the secondary gets differences.
        eventually(lambda: requests_of(server)["IXFR", "incremental"] >= CHANGES)  # reported each second
        assert not requests_of(server)["IXFR", "full"]


@pytest.mark.parametrize("kind", [Knot, Nsd, Bind], ids=lambda kind: kind.name)
def test_a_secondary_with_a_key_follows_signed(kind: type[Secondary], tmp_path: Path) -> None:
    """The primary accepts the key only. Its own NOTIFY messages are signed too."""
    secondary = kind(tmp_path, signed=True)
    with Primary(tmp_path, f'notify = ["127.0.0.1:{secondary.port}#{KEY_NAME}"]\n{KEYS}') as server:
        server.wait_transferable()
        secondary.primary = server.port
        with secondary:
            eventually(lambda: secondary.serial() == server.serial(), PATIENCE)
            for number in range(3):
                before = server.serial()
                server.write({"web.staging": [f"10.0.{number}.1:80"], **UNCHANGED})
                eventually(lambda: server.serial() != before, PATIENCE)  # noqa: B023 - called in this iteration
                eventually(lambda: secondary.serial() == server.serial(), PATIENCE)
                assert secondary.answers("web.staging.discovery.", "A") == {
                    ("web.staging.discovery.", "A", 5, f"10.0.{number}.1")
                }
            eventually(lambda: requests_of(server)["IXFR", "incremental"] >= 3)  # reported each second
        assert not server.events("transfer_refused")
