"""A large loss is published in parts, with the same result as at once, whatever happens between two parts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import Worker, contents, running_publisher, until, watcher_context
from tests.guard.helpers import SESSION_TIMEOUT, member, members, origin_of, put
from zkdns.admin.api_types import LossesAccepted
from zkdns.config import Config, GuardSettings, SnapshotSettings
from zkdns.daemon.ipc.feed import Publisher, PublisherListener
from zkdns.daemon.ipc.feed_messages import SourceHealth
from zkdns.daemon.ipc.request_messages import AcceptLosses
from zkdns.daemon.ipc.table_copies import read_copy
from zkdns.daemon.ipc.zone_serial import version_of_zxid
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.history import History
from zkdns.daemon.watcher.request_handlers import respond_when_applied
from zkdns.daemon.watcher.snapshot_store import SnapshotStore
from zkdns.guard import WAIT_SECONDS, WINDOW_SECONDS
from zkdns.namespace import parse_namespace
from zkdns.serverset.changes import Change, SetChanged, SetDropped
from zkdns.serverset.ensemble import Ensemble
from zkdns.serverset.member import Status
from zkdns.snapshot import expected_by, read_snapshot
from zkdns.table import Table

NAMESPACE = parse_namespace("/discovery/{environment}/{service}")
HOLD_SECONDS = 600
AT_ONCE, IN_PARTS = math.inf, 0.0
"""Seconds of a piece. A piece without time has the changes of one set."""
MANY = [f"s{number}" for number in range(30)]
ALL_DROPPED: list[Change] = [
    change
    for name in MANY
    for change in (SetChanged(origin_of(name), (), (member(1).name,)), SetDropped(origin_of(name)))
]


class ChangeRecorder(PublisherListener):
    """Records the changes of a publisher."""

    def __init__(self, log: list[object]) -> None:
        self._log = log

    def before_change(self, change: Change) -> None:
        self._log.append(change)


class RecordingPublisher(Publisher):
    """Records all that is published, in order."""

    def __init__(self) -> None:
        super().__init__([NAMESPACE.template])
        self.log: list[object] = []
        self.add_listener(ChangeRecorder(self.log))

    def set_version(self, source: str, version: int) -> None:
        self.log.append(version)
        super().set_version(source, version)

    def set_health(self, health: SourceHealth) -> None:
        self.log.append(health)
        super().set_health(health)


class Watcher:
    """The publishing part of a watcher, on a simulated clock."""

    def __init__(self, piece_seconds: float, publisher: Publisher | None = None) -> None:
        self.now = 1000.0
        self.config = Config(
            listen=(), namespaces=(NAMESPACE,), guard=GuardSettings(seconds=HOLD_SECONDS), statuses=("ALIVE",)
        )
        self.publisher = publisher or RecordingPublisher()
        self.history = History(self.publisher, NAMESPACE.zone)
        self.publisher.add_listener(self.history)
        self.guarded = GuardedPublisher(
            self.config,
            NAMESPACE,
            self.publisher,
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
            max_timer_seconds=0.0,
            piece_seconds=piece_seconds,
        )

    @property
    def log(self) -> list[object]:
        assert isinstance(self.publisher, RecordingPublisher)
        return self.publisher.log

    async def fill(self) -> None:
        """Publish `MANY` services that are older than the guard's period."""
        self.guarded.publish([put(name, member(1)) for name in MANY])
        self.guarded.set_health(ready=True, stale=False)
        await self.settle()
        await self.pass_time(2 * SESSION_TIMEOUT)

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds
        await self.settle()

    async def settle(self) -> None:
        """Wait until all is published that is due now."""

        def is_settled() -> bool:
            due = self.guarded.guard.next_deadline()
            return not self.guarded.is_busy and (due is None or due > self.now)

        await until(is_settled)

    @property
    def answered(self) -> set[str]:
        return {origin.rpartition("/")[2] for origin in self.publisher.table.origins}

    @property
    def state(self) -> dict[str, object]:
        """All that the guard and the table know."""
        guard = self.guarded.guard
        return {
            "table": sorted(self.publisher.table.contents(), key=repr),
            "held": sorted(guard.held, key=repr),
            "total": guard.holds_total,
            "waiting": guard.is_waiting,
            "window": self.guarded.is_in_window,
            "health": self.guarded.health,
            "ensemble": self.guarded.ensemble,
        }


def in_event_loop(scenario: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(scenario())  # type: ignore[arg-type]

    run.__name__, run.__doc__ = scenario.__name__, scenario.__doc__
    return run


# -- every sequence of events --------------------------------------------------------------------------------

SERVICES = ("web", "api", "db")
entries = st.builds(
    lambda number, host, is_alive: member(
        number, host=f"10.0.0.{host}", status=Status.ALIVE if is_alive else Status.STARTING
    ),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([True, True, True, False]),
)
several = st.lists(entries, max_size=6, unique_by=lambda entry: entry.name).map(tuple)
services = st.sampled_from(SERVICES)
names = st.lists(st.integers(1, 6).map(lambda number: member(number).name), max_size=6).map(tuple)
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(lambda service, found: put(service, *found), services, several),
    st.builds(lambda service, new, old: SetChanged(origin_of(service), new, old), services, several, names),
    st.builds(lambda service: SetDropped(origin_of(service)), services),
)
Step: TypeAlias = float | Callable[[GuardedPublisher], None]
"""Seconds that pass, or an event."""
events: st.SearchStrategy[Callable[[GuardedPublisher], None]] = st.one_of(
    st.lists(changes, max_size=8).map(lambda found: lambda guarded: guarded.publish(found)),
    st.lists(changes, max_size=8).map(lambda found: lambda guarded: guarded.publish(found)),
    st.booleans().map(lambda stale: lambda guarded: guarded.set_health(True, stale)),
    st.integers(1, 9).map(lambda zxid: lambda guarded: guarded.set_zxid(zxid)),
    st.integers(1, 2).map(lambda root: lambda guarded: guarded.set_ensemble(Ensemble(root, root, 9))),
    st.sampled_from(
        [
            lambda guarded: guarded.disturb("a late reply"),
            lambda guarded: guarded.settle(),
            lambda guarded: guarded.end_waits(),
        ]
    ),
)
times = st.sampled_from([0.01, WAIT_SECONDS, 1.0, SESSION_TIMEOUT, WINDOW_SECONDS, float(HOLD_SECONDS)])


@given(st.lists(st.one_of(events, events, events, times), max_size=20))
@settings(max_examples=60, deadline=None)
def test_everything_is_published_in_the_order_and_with_the_result_of_at_once(walk: list[Step]) -> None:
    """Events arrive while the changes of earlier ones are being published."""

    async def perform(piece_seconds: float) -> Watcher:
        watcher = Watcher(piece_seconds)
        for step in walk:
            if isinstance(step, float):
                await watcher.settle()
                await watcher.pass_time(step)
            else:
                step(watcher.guarded)
        await watcher.settle()
        watcher.guarded.close()
        return watcher

    at_once, in_parts = asyncio.run(perform(AT_ONCE)), asyncio.run(perform(IN_PARTS))
    assert in_parts.log == at_once.log
    assert in_parts.state == at_once.state


# -- a mass loss ---------------------------------------------------------------------------------------------


@in_event_loop
async def test_no_removal_takes_effect_before_the_guard_has_seen_the_whole_loss() -> None:
    """The wait of the first removals is over long before the last ones are admitted."""
    watcher = Watcher(IN_PARTS)
    await watcher.fill()
    del watcher.log[:]
    watcher.guarded.publish(ALL_DROPPED)
    while watcher.guarded.is_busy:
        watcher.now += WAIT_SECONDS
        assert watcher.answered == set(MANY)
        await asyncio.sleep(0)
    await watcher.settle()
    assert watcher.answered == set(MANY)
    assert len(watcher.guarded.guard.held) == len(MANY)
    assert not [entry for entry in watcher.log if isinstance(entry, SetDropped)]
    watcher.guarded.close()


@in_event_loop
async def test_a_wait_ends_only_after_what_has_arrived_meanwhile() -> None:
    """The source has not passed on the second half of the loss when the wait of the first one is over."""
    watcher = Watcher(IN_PARTS)
    await watcher.fill()
    arrived: list[Callable[[], None]] = []
    watcher.guarded.run_after_arrived = arrived.append
    half = len(ALL_DROPPED) // 3
    watcher.guarded.publish(ALL_DROPPED[:half])
    watcher.now += 10 * WAIT_SECONDS
    await until(lambda: arrived)
    assert watcher.answered == set(MANY)
    watcher.guarded.publish(ALL_DROPPED[half:])
    await until(lambda: not watcher.guarded.is_busy)
    assert len(arrived) == 1  # not again and again while the arrived changes are published
    for call in arrived:
        call()
    await until(lambda: not watcher.guarded.is_busy)
    assert len(watcher.guarded.guard.held) == len(MANY)
    watcher.guarded.close()


@in_event_loop
async def test_other_work_is_done_between_the_parts_and_the_source_waits() -> None:
    watcher = Watcher(IN_PARTS)
    await watcher.fill()
    idle: list[int] = []
    watcher.guarded.on_idle = lambda: idle.append(len(watcher.log))
    rounds = 0
    watcher.guarded.publish(ALL_DROPPED)
    while watcher.guarded.is_busy:
        assert not idle
        await asyncio.sleep(0)
        rounds += 1
    assert rounds >= len(ALL_DROPPED)
    assert len(idle) == 1
    watcher.guarded.close()


@in_event_loop
async def test_a_lost_session_in_the_middle_is_reported_after_the_changes_before_it() -> None:
    watcher = Watcher(IN_PARTS)
    await watcher.fill()
    del watcher.log[:]
    few = ALL_DROPPED[:14]  # no collapse
    watcher.guarded.publish(few)
    watcher.guarded.set_zxid(7)
    watcher.guarded.set_health(ready=True, stale=True)
    assert watcher.guarded.is_busy
    assert not watcher.publisher.health.stale
    assert watcher.guarded.stale_since is None
    await watcher.settle()
    assert watcher.publisher.health.stale
    assert watcher.log[-1] == watcher.guarded.health
    assert len(watcher.guarded.guard.held) == len(few) // 2  # they waited when the session was lost
    watcher.guarded.close()


@in_event_loop
async def test_the_serial_rises_after_the_last_part() -> None:
    watcher = Watcher(IN_PARTS)
    await watcher.fill()
    watcher.guarded.set_zxid(5)
    await watcher.settle()
    await until(lambda: watcher.publisher.table.serial == version_of_zxid(5))
    watcher.guarded.publish([put(f"new{number}", member(1)) for number in range(20)])
    watcher.guarded.set_zxid(9)
    while watcher.guarded.is_busy:
        assert watcher.publisher.table.serial == version_of_zxid(5)
        await asyncio.sleep(0)
    await until(lambda: watcher.publisher.table.serial == version_of_zxid(9))
    assert len(watcher.answered) == len(MANY) + 20
    watcher.guarded.close()


@in_event_loop
async def test_a_stop_in_the_middle_publishes_the_rest() -> None:
    watcher = Watcher(IN_PARTS)
    await watcher.fill()
    watcher.guarded.publish([put("last", *members(1, 2)), *ALL_DROPPED[:6], put("more", member(3))])
    assert "more" not in watcher.answered
    watcher.guarded.close()
    assert {"last", "more"} <= watcher.answered
    assert not watcher.guarded.is_busy


@in_event_loop
async def test_an_internal_error_loses_no_changes_of_other_sets() -> None:
    watcher = Watcher(IN_PARTS)
    await watcher.fill()
    broken = put("broken", member(1))

    class Failing(PublisherListener):
        def before_change(self, change: Change) -> None:
            if change == broken:
                raise RuntimeError("a mistake")

    watcher.publisher.add_listener(Failing())
    with capture_logs() as logs:
        watcher.guarded.publish([broken, put("web", member(1))])
        watcher.guarded.publish([put("api", member(1))])
        await watcher.settle()
    assert [entry["event"] for entry in logs] == ["publication_failed"]
    assert {"web", "api"} <= watcher.answered
    watcher.guarded.close()


# -- readers in the middle -----------------------------------------------------------------------------------


async def in_the_middle(watcher: Watcher) -> None:
    """Begin to publish the loss, and return when a third of the services is held."""
    watcher.guarded.publish([*ALL_DROPPED, put("last", member(9))])
    await until(lambda: len(watcher.guarded.guard.held) >= len(MANY) // 3)
    assert watcher.guarded.is_busy


def test_a_worker_that_connects_in_the_middle_gets_everything(short_path: Path) -> None:
    async def scenario() -> None:
        path = str(short_path / "feed")
        watcher = Watcher(IN_PARTS, Publisher([NAMESPACE.template]))
        async with running_publisher(path, watcher.publisher):
            await watcher.fill()
            early = Worker(path, namespaces=(NAMESPACE,))
            await until(lambda: early.table.services)
            await in_the_middle(watcher)
            late = Worker(path, namespaces=(NAMESPACE,))
            await watcher.settle()
            for worker in (early, late):
                await until(lambda: contents(worker.table) == contents(watcher.publisher.table))  # noqa: B023
                await worker.stop()
            watcher.guarded.close()

    asyncio.run(scenario())


def test_a_new_watcher_that_takes_over_in_the_middle_loses_nothing(short_path: Path) -> None:
    """It reads ZooKeeper, and so finds the rest of the loss itself."""

    async def scenario() -> None:
        path = str(short_path / "feed")
        watcher = Watcher(IN_PARTS, Publisher([NAMESPACE.template]))
        async with running_publisher(path, watcher.publisher):
            await watcher.fill()
            await in_the_middle(watcher)
            copy = await read_copy(path)
        assert copy is not None
        watcher.guarded.close()
        new = Watcher(IN_PARTS)
        new.now = watcher.now + 1.0
        await new.guarded.restore(copy.changes, copy.sources[NAMESPACE.template])
        new.guarded.publish([*(SetDropped(origin_of(name)) for name in MANY), put("last", member(9))])
        new.guarded.set_health(ready=True, stale=False)
        await new.settle()
        assert new.answered == {*MANY, "last"}
        assert {one.origin for one in new.guarded.guard.held} == set(map(origin_of, MANY))
        new.guarded.close()

    asyncio.run(scenario())


@in_event_loop
async def test_a_copy_in_the_middle_and_the_later_changes_are_the_table() -> None:
    """As `zkdns dump --zone`, and as a subscriber."""
    watcher = Watcher(IN_PARTS)
    await watcher.fill()
    await in_the_middle(watcher)
    copy, position = watcher.publisher.copy(), len(watcher.log)
    await watcher.settle()
    table = Table(departed_seconds=0)
    for change in [*copy, *watcher.log[position:]]:
        if isinstance(change, Change):
            table.apply(change)
    assert contents(table)[1] == contents(watcher.publisher.table)[1]
    watcher.guarded.close()


def test_a_snapshot_in_the_middle_has_whole_sets_and_a_later_one_the_rest(tmp_path: Path) -> None:
    async def scenario() -> None:
        watcher = Watcher(IN_PARTS)
        file = tmp_path / "table"
        config = Config(listen=(), namespaces=(NAMESPACE,), snapshot=SnapshotSettings(path=str(file)))
        await watcher.fill()
        store = SnapshotStore(
            config, watcher.publisher, lambda: [watcher.guarded.health], snapshot_seconds=0.001
        )
        watcher.publisher.add_listener(store)
        await in_the_middle(watcher)
        store.save()

        def saved() -> Table:
            table = Table(departed_seconds=0)
            for change in read_snapshot(file, expected_by(config, 0.0)).changes:
                table.apply(change)
            return table

        middle = saved()
        assert middle.origins == set(map(origin_of, MANY))
        held = [len(owner.held) for name in MANY if (owner := middle.set_of(origin_of(name))) is not None]
        assert 0 < sum(held) < len(MANY)
        running = asyncio.create_task(store.run())
        await watcher.settle()
        await until(lambda: contents(saved())[1] == contents(watcher.publisher.table)[1])
        running.cancel()
        await asyncio.wait([running])
        watcher.guarded.close()

    asyncio.run(scenario())


@in_event_loop
async def test_losses_are_accepted_when_all_of_them_are_held() -> None:
    """`zkdns accept --all` right after the deletion."""
    watcher = Watcher(IN_PARTS, Publisher([NAMESPACE.template]))
    context = watcher_context(watcher.config, watcher.publisher)
    context.namespaces = (watcher.guarded,)
    await watcher.fill()
    await in_the_middle(watcher)
    accepted = await respond_when_applied(AcceptLosses(None), context)
    assert isinstance(accepted, LossesAccepted)
    assert [one.znode for one in accepted.members] == [
        f"{origin}/{member(1).name}" for origin in sorted(map(origin_of, MANY))
    ]
    assert watcher.answered == {"last"}
    watcher.guarded.close()


@in_event_loop
async def test_the_history_has_every_change_once() -> None:
    at_once, in_parts = Watcher(AT_ONCE), Watcher(IN_PARTS)
    kinds: list[Sequence[tuple[str, str]]] = []
    for watcher in (at_once, in_parts):
        await watcher.fill()
        after = watcher.history.last
        watcher.guarded.publish(ALL_DROPPED)
        await watcher.settle()
        await watcher.guarded.release(map(origin_of, MANY))
        entries_after, _ = watcher.history.read(None, after, 1000)
        kinds.append([(entry.kind, entry.service) for entry in entries_after])
        watcher.guarded.close()
    assert kinds[0] == kinds[1]
    assert {kind for kind, _ in kinds[0]} == {"held", "released", "service gone"}
