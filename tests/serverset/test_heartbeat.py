"""Pauses of ZooKeeper that leave the connection intact: rules with an injected clock, and paused servers."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from kazoo.client import KazooClient
from structlog.testing import capture_logs

from tests.serverset.sync_helpers import FollowedTree, data, join
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import TooLateError, eventually, repeated_if_late
from tests.support.zookeeper import Ensemble, ZooKeeperServer
from zkdns.serverset.changes import SetChanged
from zkdns.serverset.sync import SyncState
from zkdns.serverset.sync.heartbeat import INTERVAL_SECONDS, LATE_SECONDS, DelayDetector, Heartbeat

TEMPLATE = "/discovery/{environment}/{service}"
PATH = "/discovery/prod/web"


# -- rules -------------------------------------------------------------------------------------------------


def test_a_delay_begins_once_and_ends_with_the_response() -> None:
    detector = DelayDetector()
    detector.sent(10.0)
    assert not detector.begins(10.0 + LATE_SECONDS / 2)
    assert detector.begins(10.0 + LATE_SECONDS)
    assert not detector.begins(10.0 + 2 * LATE_SECONDS)
    assert detector.ends()
    assert not detector.begins(99.0)
    assert detector.delays == 1


def test_a_response_in_time_is_no_delay() -> None:
    detector = DelayDetector()
    for second in range(10):
        detector.sent(float(second))
        assert not detector.begins(second + 0.9 * LATE_SECONDS)
        assert not detector.ends()
    assert detector.delays == 0


def test_the_end_of_the_connection_ends_a_delay() -> None:
    detector = DelayDetector()
    detector.sent(10.0)
    assert detector.begins(20.0)
    detector.reset()
    assert not detector.is_delayed
    assert not detector.begins(30.0)
    assert not detector.ends()


# -- timers and responses ----------------------------------------------------------------------------------


class ManualTimer:
    """A timer of `ManualTimers`."""

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call = call
        self.is_pending = True

    def cancel(self) -> None:
        self.is_pending = False


class ManualTimers:
    """A clock that the test sets, and timers that run when it does."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[ManualTimer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Any:
        timer = ManualTimer(self.now + delay, callback)
        self._timers.append(timer)
        return timer

    @property
    def pending(self) -> int:
        """The number of timers that will run."""
        return sum(timer.is_pending for timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Let time pass, and run the timers whose time has come."""
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer.is_pending and timer.due <= end]:
            timer = min(due, key=lambda one: one.due)
            timer.is_pending = False
            self.now = max(self.now, timer.due)
            timer.call()
        self.now = end

    def block(self, seconds: float) -> None:
        """Let time pass without running timers, as in a busy event loop."""
        self.now += seconds


class BeatingHeart:
    """A Heartbeat, the requests that it has sent, and the delays that it has reported."""

    def __init__(self) -> None:
        self.timers = ManualTimers()
        self.sent_at: list[float] = []
        self.replies: list[Callable[[], None]] = []
        self.answered = 0
        self.posted: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.delays: list[bool] = []
        self.heartbeat = Heartbeat(
            self.timers,
            self._send,
            lambda call, *arguments: self.posted.append((call, arguments)),
            self.delays.append,
        )

    def _send(self, on_reply: Callable[[], None]) -> None:
        self.sent_at.append(self.timers.now)
        self.replies.append(on_reply)

    def run_posted(self) -> None:
        """Run the calls of the other thread in the event loop."""
        while self.posted:
            call, arguments = self.posted.pop(0)
            call(*arguments)

    def reply(self) -> None:
        """Let the response to the last request arrive, and be handled."""
        self.answered += 1
        self.replies[-1]()
        self.run_posted()


def test_a_request_is_sent_at_once_and_then_each_second() -> None:
    heart = BeatingHeart()
    heart.heartbeat.start()
    assert heart.sent_at == [heart.timers.now]
    for _ in range(20):
        heart.timers.advance(0.002)
        heart.reply()
        while len(heart.sent_at) == heart.answered:
            heart.timers.advance(0.01)
    intervals = [after - before for before, after in pairwise(heart.sent_at)]
    assert len(intervals) == 20
    assert 0.89 * INTERVAL_SECONDS < min(intervals) < max(intervals) < 1.11 * INTERVAL_SECONDS
    assert heart.delays == []


def test_at_most_one_request_is_outstanding() -> None:
    heart = BeatingHeart()
    heart.heartbeat.start()
    heart.timers.advance(60.0)
    assert len(heart.replies) == 1
    assert heart.delays == [True]
    heart.reply()
    assert heart.delays == [True, False]
    assert heart.heartbeat.delays == 1
    heart.timers.advance(0.001)
    assert len(heart.replies) == 2  # the interval is over


def test_a_delay_is_logged_once_with_its_duration() -> None:
    heart = BeatingHeart()
    with capture_logs() as logs:
        heart.heartbeat.start()
        heart.timers.advance(5.6)
        heart.heartbeat.check()
        heart.reply()
    assert [(entry["event"], round(entry["seconds"], 1), entry["log_level"]) for entry in logs] == [
        ("zookeeper_reply_late", 1.0, "warning"),
        ("zookeeper_reply_arrived", 5.6, "info"),
    ]


def test_a_check_finds_a_delay_before_the_timer_runs() -> None:
    heart = BeatingHeart()
    heart.heartbeat.start()
    heart.timers.block(2.0)
    heart.heartbeat.check()
    assert heart.delays == [True]
    heart.timers.advance(1.0)
    assert heart.delays == [True]


def test_a_busy_event_loop_is_no_delay() -> None:
    heart = BeatingHeart()
    heart.heartbeat.start()
    heart.timers.block(0.5)
    heart.replies[-1]()  # in kazoo's thread
    heart.timers.block(5.0)
    heart.timers.advance(0.0)
    heart.heartbeat.check()
    heart.run_posted()
    assert heart.delays == []


def test_a_late_response_is_a_delay_even_if_the_event_loop_was_busy() -> None:
    heart = BeatingHeart()
    heart.heartbeat.start()
    heart.timers.block(1.5)
    heart.replies[-1]()  # in kazoo's thread
    heart.run_posted()
    assert heart.delays == [True, False]


def test_after_a_stop_nothing_is_sent_or_reported() -> None:
    heart = BeatingHeart()
    heart.heartbeat.start()
    heart.heartbeat.stop()
    assert heart.timers.pending == 0
    heart.timers.advance(10.0)
    heart.heartbeat.check()
    heart.reply()
    assert heart.delays == []
    assert heart.timers.pending == 0


def test_a_response_of_the_previous_connection_is_ignored() -> None:
    heart = BeatingHeart()
    heart.heartbeat.start()
    heart.timers.advance(2.0)
    heart.heartbeat.start()
    assert heart.timers.pending == 1
    heart.replies[0]()
    heart.run_posted()
    assert heart.delays == [True]
    heart.timers.advance(2.0)
    assert heart.delays == [True, True]


# -- real servers ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def paused(server: ZooKeeperServer, seconds: float) -> Iterator[None]:
    """A server that is paused for this time from the beginning of the block, or longer if the block is."""
    server.pause()
    ends_at = time.monotonic() + seconds
    try:
        yield
        # The duration of the pause is what the test is about; no condition replaces it.
        threading.Event().wait(max(0.0, ends_at - time.monotonic()))
    finally:
        server.resume()


@pytest.fixture
def admin(own_zookeeper: ZooKeeperServer) -> Iterator[Any]:
    """A client whose session survives the pauses."""
    client = KazooClient(own_zookeeper.address, timeout=30.0)
    client.start()
    yield client
    client.stop()
    client.close()


def test_a_delay_begins_during_a_pause_and_ends_after_it(own_zookeeper: ZooKeeperServer, admin: Any) -> None:
    join(admin, PATH)
    with FollowedTree(own_zookeeper.address, TEMPLATE) as tree:
        tree.wait_live()
        with paused(own_zookeeper, 2.5):
            eventually(lambda: tree.delays == [True])
        eventually(lambda: tree.delays == [True, False])
        assert tree.states == [SyncState.LIVE]
        assert tree.read(lambda: tree.sync.delays) == 1


def test_a_disconnect_ends_a_delay_silently_and_the_next_connection_is_watched(
    own_zookeeper: ZooKeeperServer, admin: Any
) -> None:
    join(admin, PATH)
    with FollowedTree(own_zookeeper.address, TEMPLATE, session_timeout=20.0) as tree:
        tree.wait_live()
        with paused(own_zookeeper, 0.0):
            eventually(lambda: tree.delays == [True])
            tree.disconnect()
            eventually(lambda: tree.state is SyncState.UNREACHABLE)
        tree.wait_live()
        assert tree.delays == [True]
        with paused(own_zookeeper, 0.0):
            eventually(lambda: tree.delays == [True, True])
        eventually(lambda: tree.delays == [True, True, False])


def test_a_detached_sync_has_no_timers(own_zookeeper: ZooKeeperServer, admin: Any) -> None:
    join(admin, PATH)
    with FollowedTree(own_zookeeper.address, TEMPLATE) as tree:
        tree.wait_live()
        tree.read(tree.sync.detach)
        assert tree.pending_timers == 0
        tree.disconnect()
        eventually(lambda: tree.client.connected)
        assert tree.states == [SyncState.LIVE]


def test_an_exception_of_the_callback_prevents_no_change(own_zookeeper: ZooKeeperServer, admin: Any) -> None:
    join(admin, PATH)
    with FollowedTree(own_zookeeper.address, TEMPLATE, fail_on_delay=True) as tree, capture_logs() as logs:
        tree.wait_live()
        with paused(own_zookeeper, 0.0):
            eventually(lambda: tree.read(lambda: tree.sync.delays) == 1)
        join(admin, PATH, "10.0.0.2")
        eventually(lambda: len(tree.contents[PATH]) == 2)
    assert "zookeeper_event_failed" in {entry["event"] for entry in logs}


def register_members(hosts: str, count: int) -> list[KazooClient]:
    """Register members with sessions of 5 s, one for each."""
    clients = [KazooClient(hosts, timeout=5.0) for _ in range(count)]
    for number, client in enumerate(clients):
        client.start()
        client.create(f"{PATH}/member_", data(f"10.0.0.{number}"), ephemeral=True, sequence=True)
    return clients


@pytest.mark.parametrize("is_recursive", [True, False])
def test_a_pause_that_expires_members_is_reported_before_their_removal(
    own_zookeeper: ZooKeeperServer, admin: Any, is_recursive: bool
) -> None:
    """The watcher has a longer session, which survives.

    The members lose their connections in the pause, so that none of them returns before ZooKeeper expires it.
    """
    admin.ensure_path(PATH)
    with (
        FaultProxy(own_zookeeper.port) as proxy,
        FollowedTree(own_zookeeper.address, TEMPLATE, recursive=is_recursive, session_timeout=20.0) as tree,
    ):
        members = register_members(proxy.address, 4)
        try:
            tree.wait_live()
            eventually(lambda: len(tree.contents[PATH]) == 4)
            with paused(own_zookeeper, 5.6):
                proxy.go_down()
            eventually(lambda: tree.contents[PATH] == {})
            removals = (one for one in tree.log if isinstance(one, SetChanged) and one.removed)
            assert tree.log.index(True) < tree.log.index(next(removals))
            assert tree.states == [SyncState.LIVE]
        finally:
            for client in members:
                client.stop()
                client.close()


def test_a_removal_is_published_after_the_delay_even_if_the_event_loop_was_busy(
    own_zookeeper: ZooKeeperServer, admin: Any
) -> None:
    """The event of the removal waits in the event loop together with the timer of the late response."""
    leaving, _ = join(admin, PATH, "10.0.0.1"), join(admin, PATH, "10.0.0.2")
    with FollowedTree(own_zookeeper.address, TEMPLATE, start=False) as tree:
        never = tree.client.handler.async_result()
        tree.client.sync_async = lambda _: never  # as if ZooKeeper did not respond to this request only
        tree.client.start_async()

        def block() -> None:
            admin.delete(leaving)
            time.sleep(1.5 * LATE_SECONDS)  # the event arrives meanwhile, and the response becomes late

        tree.wait_live()
        tree.read(block)
        eventually(lambda: len(tree.contents[PATH]) == 1)
        (removal,) = (one for one in tree.log if isinstance(one, SetChanged) and one.removed)
        assert tree.log.index(True) < tree.log.index(removal)


@repeated_if_late
def test_a_paused_leader_is_noticed_by_a_client_of_a_follower(ensemble: Ensemble) -> None:
    leader, follower = ensemble.leader(), eventually(ensemble.followers)[0]
    client = KazooClient(follower.address)
    client.start()
    join(client, PATH)
    client.stop()
    client.close()
    with FollowedTree(follower.address, TEMPLATE, session_timeout=20.0) as tree:
        tree.wait_live()
        with paused(leader, 0.0):
            eventually(lambda: tree.delays or tree.states[-1] is SyncState.UNREACHABLE)
            if not tree.delays:
                raise TooLateError("the follower has closed the connection before the delay was noticed")
        eventually(lambda: tree.delays[-1:] == [False] or tree.states[-1] is SyncState.UNREACHABLE)
