"""Status lines for systemd."""

import pytest

from zkdns.daemon.supervisor.systemd_notifier import describe
from zkdns.telemetry.stats import WatcherStats

NOW = 10_000.0
TABLE = "212 services, 1,034 members"
WAITING = "loading the table; names in the zones get SERVFAIL until then"


def stats(state: str | None, stale: float | None = None, **others: int) -> WatcherStats:
    since = None if stale is None else NOW - stale
    return WatcherStats(state=state, stale_since=since, **{"services": 212, "alive": 1034, **others})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reported", "sentence"),
    [
        (stats("live"), f"live: {TABLE}; ZooKeeper connected"),
        (stats("live", services=1, alive=1), "live: 1 service, 1 member; ZooKeeper connected"),
        (stats("live", held=7), f"live: {TABLE}, 7 held; ZooKeeper connected"),
        (stats("away", 4), f"ZooKeeper disconnected; serving the last table: {TABLE}"),
        (stats("away", 47), f"ZooKeeper disconnected for 40s; serving the last table: {TABLE}"),
        (
            stats("away", 119),
            f"ZooKeeper disconnected for 1m; serving the last table: {TABLE}",
        ),
        (
            stats("away", 7200),
            f"ZooKeeper disconnected for 2h; serving the last table: {TABLE}",
        ),
        (
            stats("readonly", 60),
            f"ZooKeeper without a quorum for 1m; serving its read-only data: {TABLE}",
        ),
        (
            stats("reading", 3),
            f"serving the snapshot until ZooKeeper has been read: {TABLE}",
        ),
        (stats(None), f"live: {TABLE}"),
        (None, WAITING),
    ],
)
def test_status_line_of_each_state(reported: WatcherStats | None, sentence: str) -> None:
    assert describe(reported, is_ready=True, now=NOW) == sentence


def test_the_table_is_loading_until_every_worker_has_it() -> None:
    assert describe(stats("live"), is_ready=False, now=NOW) == WAITING
