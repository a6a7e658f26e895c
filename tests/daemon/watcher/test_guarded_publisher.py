"""The publisher of a namespace: its guard, its state, and the data from another process."""

import asyncio
import math
from collections.abc import Sequence

from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import until
from zkdns.config import Config, GuardSettings
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.ipc.feed_messages import SourceHealth
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.namespace import ServiceName, parse_namespace
from zkdns.serverset.changes import Change, MembersHeld, SetChanged, SetPut
from zkdns.serverset.ensemble import Ensemble
from zkdns.serverset.member import Endpoint, Member

ORIGIN = "/discovery/prod/web"
NAMESPACE = parse_namespace("/discovery/{environment}/{service}")
OTHER = parse_namespace("/aurora/{job}")
HOLD_SECONDS = 600
MEMBERS = tuple(Member(f"member_{n}", Endpoint(f"10.0.0.{n}", 80)) for n in range(1, 7))
NAMES = tuple(member.name for member in MEMBERS)
PUT = SetPut(ORIGIN, ServiceName("web", "prod"), MEMBERS)
LEFT = SetChanged(ORIGIN, (), NAMES)


class Clocks:
    """The clock of the guard, and the time of day."""

    def __init__(self) -> None:
        self.now, self.time = 1000.0, 1_700_000_000.0

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.time += seconds


def make(publisher: Publisher, clocks: Clocks) -> GuardedPublisher:
    return GuardedPublisher(
        Config(listen=(), namespaces=(NAMESPACE,), guard=GuardSettings(seconds=HOLD_SECONDS)),
        NAMESPACE,
        publisher,
        clock=lambda: clocks.now,
        wall_clock=lambda: clocks.time,
        max_timer_seconds=0.01,
        piece_seconds=math.inf,
    )


def answered(publisher: Publisher) -> set[str]:
    """The names of the members in the table."""
    owner = publisher.table.set_of(ORIGIN)
    return set(owner.members) if owner is not None else set()


def health(stale_since: float | None, ensemble: Ensemble | None = None) -> SourceHealth:
    return SourceHealth(True, stale_since, NAMESPACE.template, ensemble)


def test_held_time_goes_on_during_a_suspend() -> None:
    async def scenario() -> None:
        clocks, publisher = Clocks(), Publisher()
        guarded = make(publisher, clocks)
        guarded.publish([PUT])
        guarded.set_health(ready=True, stale=True)
        guarded.set_health(ready=True, stale=False)
        guarded.publish([LEFT])
        assert len(guarded.guard.held) == len(MEMBERS)
        await asyncio.sleep(0.05)
        assert len(guarded.guard.held) == len(MEMBERS)
        clocks.advance(HOLD_SECONDS + 1.0)  # the machine was suspended
        await until(lambda: not guarded.guard.held)
        assert not answered(publisher)
        guarded.close()

    asyncio.run(scenario())


def test_members_lost_in_a_disturbance_without_a_stale_table_are_held() -> None:
    async def scenario() -> None:
        clocks, publisher = Clocks(), Publisher([NAMESPACE.template])
        guarded = make(publisher, clocks)
        guarded.publish([PUT])
        guarded.set_health(ready=True, stale=False)
        clocks.advance(100.0)
        guarded.disturb("zookeeper replied late")
        clocks.advance(30.0)  # a window without an end
        guarded.settle()
        clocks.advance(9.0)
        guarded.publish([LEFT])
        assert len(guarded.guard.held) == len(MEMBERS)
        assert not publisher.health.stale
        guarded.close()

    asyncio.run(scenario())


def test_a_late_reply_that_arrives_ends_no_other_disturbance() -> None:
    async def scenario() -> None:
        clocks, publisher = Clocks(), Publisher()
        guarded = make(publisher, clocks)
        guarded.publish([PUT])
        guarded.set_health(ready=True, stale=True)
        guarded.disturb("zookeeper replied late")
        guarded.settle()
        clocks.advance(60.0)
        guarded.publish([LEFT])
        assert len(guarded.guard.held) == len(MEMBERS)
        guarded.close()

    asyncio.run(scenario())


def test_the_state_has_the_time_at_which_the_sets_were_last_current() -> None:
    async def scenario() -> None:
        clocks, publisher = Clocks(), Publisher([NAMESPACE.template, OTHER.template])
        guarded = make(publisher, clocks)
        assert guarded.health == SourceHealth(False, None, NAMESPACE.template)
        guarded.set_health(ready=True, stale=False)
        assert publisher.sources[NAMESPACE.template] == health(None)
        assert not publisher.sources[OTHER.template].ready
        lost = clocks.time
        guarded.set_health(ready=True, stale=True)
        clocks.advance(100.0)
        guarded.set_health(ready=True, stale=True)
        assert guarded.health == health(lost)
        guarded.set_health(ready=True, stale=False)
        assert guarded.health == health(None)
        guarded.close()

    asyncio.run(scenario())


async def restored(publisher: Publisher, clocks: Clocks, age: float, *changes: Change) -> GuardedPublisher:
    """A publisher that has restored a table that was current `age` seconds ago."""
    guarded = make(publisher, clocks)
    await guarded.restore([PUT, *changes], health(clocks.time - age, Ensemble(1, 2, 3)))
    return guarded


def read(guarded: GuardedPublisher, changes: Sequence[Change]) -> None:
    """Let it read ZooKeeper, which differs from the restored table by these changes."""
    guarded.publish(changes)
    guarded.set_health(ready=True, stale=False)


def test_a_restored_table_is_ready_and_as_old_as_it_was() -> None:
    async def scenario() -> None:
        clocks, publisher = Clocks(), Publisher([NAMESPACE.template])
        guarded = await restored(publisher, clocks, 3600.0)
        assert answered(publisher) == set(NAMES)
        assert guarded.health == health(clocks.time - 3600.0, Ensemble(1, 2, 3))
        assert publisher.health == (True, True)
        guarded.close()

    asyncio.run(scenario())


def test_members_that_left_while_the_host_was_down_are_gone_after_the_read() -> None:
    async def scenario() -> None:
        clocks, publisher = Clocks(), Publisher([NAMESPACE.template])
        guarded = await restored(publisher, clocks, 60.0)
        read(guarded, [LEFT])
        assert not guarded.guard.held
        assert not answered(publisher)
        guarded.close()

    asyncio.run(scenario())


def test_held_time_counts_from_the_time_of_the_restored_table() -> None:
    async def scenario() -> None:
        clocks, publisher = Clocks(), Publisher([NAMESPACE.template])
        guarded = await restored(publisher, clocks, 3.0)
        clocks.advance(2.0)
        read(guarded, [LEFT])
        assert len(guarded.guard.held) == len(MEMBERS)
        owner = publisher.table.set_of(ORIGIN)
        assert owner is not None
        left = clocks.time - 5.0
        assert dict(owner.held) == dict.fromkeys(NAMES, left)
        guarded.close()
        clocks.advance(300.0)
        copy = list(publisher.table.contents())

        again = make(second := Publisher([NAMESPACE.template]), clocks)
        await again.restore(copy, health(None, Ensemble(1, 2, 3)))
        assert [(one.member.name, one.since) for one in again.guard.held] == [
            (name, clocks.now - 305.0) for name in NAMES
        ]
        again.set_health(ready=True, stale=False)
        clocks.advance(HOLD_SECONDS - 305.0 + 1.0)
        await until(lambda: not answered(second))
        again.close()

    asyncio.run(scenario())


def test_a_held_time_in_the_future_begins_now() -> None:
    async def scenario() -> None:
        clocks, publisher = Clocks(), Publisher([NAMESPACE.template])
        held = MembersHeld(ORIGIN, NAMES, clocks.time + 1e6)  # the clock was set back
        guarded = await restored(publisher, clocks, 60.0, held)
        assert {one.since for one in guarded.guard.held} == {clocks.now}
        guarded.close()

    asyncio.run(scenario())


def test_nothing_of_another_ensemble_is_held() -> None:
    async def scenario() -> None:
        for ensemble in (Ensemble(9, 9, 9), Ensemble(1, 2, 2)):  # another root; an older state
            clocks, publisher = Clocks(), Publisher([NAMESPACE.template])
            held = MembersHeld(ORIGIN, NAMES[:3], clocks.time - 5.0)
            guarded = await restored(publisher, clocks, 3.0, held)
            guarded.disturb("a server was unreachable")
            with capture_logs() as logs:
                guarded.set_ensemble(ensemble)
            assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == [
                "zookeeper_ensemble_changed"
            ]
            read(guarded, [LEFT])
            assert not guarded.guard.held
            assert not answered(publisher)
            assert guarded.ensemble == ensemble
            guarded.close()

    asyncio.run(scenario())


def test_the_same_ensemble_at_a_later_time_changes_nothing() -> None:
    async def scenario() -> None:
        clocks, publisher = Clocks(), Publisher([NAMESPACE.template])
        guarded = await restored(publisher, clocks, 3.0)
        guarded.set_ensemble(Ensemble(1, 2, 50))
        read(guarded, [LEFT])
        assert len(guarded.guard.held) == len(MEMBERS)
        assert guarded.ensemble == Ensemble(1, 2, 50)
        guarded.update_ensemble(Ensemble(zxid=60))
        assert guarded.health.ensemble == Ensemble(1, 2, 60)
        with capture_logs() as logs:
            guarded.set_ensemble(Ensemble(1, 2, 55))  # without the latest transactions
        assert logs[0]["event"] == "zookeeper_ensemble_changed"
        guarded.close()

    asyncio.run(scenario())
