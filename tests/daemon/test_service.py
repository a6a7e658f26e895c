"""What the service manager is told of a server, in sentences."""

import pytest

from zkdns.daemon.service import describe
from zkdns.observe.figures import AnswererFigures, WatcherFigures

NOW = 10_000.0
TABLE = "212 services, 1,034 members"
WAITING = "waiting for the table; until it is there, names of the zones are SERVFAIL"


def figures(state: str | None, stale: float | None = None, **others: int) -> WatcherFigures:
    since = None if stale is None else NOW - stale
    return WatcherFigures(state=state, stale_since=since, **{"services": 212, "alive": 1034, **others})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (figures("live"), f"live: {TABLE}; ZooKeeper in reach"),
        (figures("live", services=1, alive=1), "live: 1 service, 1 member; ZooKeeper in reach"),
        (figures("live", held=7), f"live: {TABLE}, 7 held; ZooKeeper in reach"),
        (figures("away", 4), f"ZooKeeper out of reach; answers stay: {TABLE}"),
        (figures("away", 47), f"ZooKeeper out of reach for 40s; answers stay: {TABLE}"),
        (
            figures("away", 119),
            f"ZooKeeper out of reach for 1m; answers stay: {TABLE}",
        ),
        (
            figures("away", 7200),
            f"ZooKeeper out of reach for 2h; answers stay: {TABLE}",
        ),
        (
            figures("readonly", 60),
            f"ZooKeeper without a quorum for 1m; answers as it tells readers: {TABLE}",
        ),
        (
            figures("reading", 3),
            f"answers from the snapshot, until ZooKeeper has been read: {TABLE}",
        ),
        (figures(None), f"live: {TABLE}"),
        (None, WAITING),
        (AnswererFigures(), WAITING),
    ],
)
def test_the_state_is_a_sentence(known: WatcherFigures | AnswererFigures | None, sentence: str) -> None:
    assert describe(known, is_ready=True, now=NOW) == sentence


def test_until_every_answerer_has_its_table_it_is_waited_for() -> None:
    assert describe(figures("live"), is_ready=False, now=NOW) == WAITING
