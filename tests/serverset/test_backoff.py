"""Delays between attempts: random, so that a fleet does not try again at the same time."""

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kazoo.security import make_acl

from tests.support.waiting import eventually
from zkdns import Registration, ServerSet
from zkdns.serverset.client import make_client
from zkdns.serverset.session import Backoff, Session
from zkdns.serverset.set_watch import SetWatch

Sets = Callable[..., ServerSet]


@pytest.mark.parametrize(("random", "part"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_a_delay_doubles_up_to_a_minute_and_is_between_its_half_and_whole(random: float, part: float) -> None:
    backoff = Backoff(lambda: random)
    longest = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert [backoff.pause() for _ in longest] == [seconds * part for seconds in longest]
    backoff.reset()
    assert backoff.pause() == part


def test_processes_that_fail_at_the_same_time_spread() -> None:
    fleet = [Backoff() for _ in range(200)]
    for longest in (1.0, 2.0, 4.0):
        pauses = [each.pause() for each in fleet]
        assert len(set(pauses)) > 190
        counts = [
            sum(start <= pause / longest < start + 0.1 for pause in pauses)
            for start in (0.5, 0.6, 0.7, 0.8, 0.9)
        ]
        assert min(counts) > 10  # of 40 on average: with a probability below 1e-9 by chance


def test_clients_that_reconnect_spread_even_with_equal_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: dict[str, list[float]] = {}

    def sleep(seconds: float) -> None:
        delays.setdefault(threading.current_thread().name, []).append(seconds)
        time.sleep(0.001)

    monkeypatch.setattr("zkdns.serverset.client.time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    monkeypatch.setattr("kazoo.retry.random", SimpleNamespace(uniform=lambda low, high: (low + high) / 2))
    clients = [make_client("127.0.0.1:1") for _ in range(2)]
    try:
        for client in clients:
            client.start_async()
        eventually(lambda: len(delays) == 2 and all(len(found) >= 10 for found in delays.values()))
    finally:
        for client in clients:
            client.stop()
            client.close()
    one, other = (found[:10] for found in delays.values())
    assert not set(one) & set(other)
    assert all(0 < seconds <= 0.1 for seconds in (*one, *other))  # kazoo sleeps in pieces


def test_registrations_and_watches_spread(zk: Any, server_set: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [server_set("web", own_session=True) for _ in range(2)]
    zk.ensure_path(sets[0].path)
    zk.set_acls(sets[0].path, [make_acl("world", "anyone", admin=True)])  # no client may read or create
    first: dict[str, dict[Session, float]] = {"Registration": {}, "SetWatch": {}}
    run_later = Session.run_later

    def recording(session: Session, seconds: float, job: Callable[[], None]) -> None:
        kind = job.__qualname__.partition(".")[0]
        if kind in first and seconds:
            first[kind].setdefault(session, seconds)
        run_later(session, seconds, job)

    monkeypatch.setattr(Session, "run_later", recording)
    opened: list[Registration | SetWatch] = [each.register("a", 1, timeout=None) for each in sets]
    opened += [each.watch(timeout=None) for each in sets]
    try:
        eventually(lambda: [len(delays) for delays in first.values()] == [2, 2])
    finally:
        for one in opened:
            one.close()
        zk.set_acls(sets[0].path, [make_acl("world", "anyone", all=True)])
    delays = [delay for found in first.values() for delay in found.values()]
    assert len(set(delays)) == 4
    assert all(0.5 <= delay <= 1.0 for delay in delays)
