"""Held members while the machine is suspended: their time goes on, although the event loop's clock stops."""

import asyncio

from tests.daemon.ipc.feed_helpers import until
from zkdns.config import Config, GuardSettings
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import SetChanged, SetPut
from zkdns.serverset.member import Endpoint, Member

ORIGIN = "/discovery/prod/web"
HOLD_SECONDS = 600


def test_held_time_goes_on_during_a_suspend() -> None:
    now = 1000.0

    async def scenario() -> None:
        nonlocal now
        publisher = Publisher()
        guarded = GuardedPublisher(
            Config(listen=(), namespaces=(), guard=GuardSettings(seconds=HOLD_SECONDS)),
            publisher,
            lambda _ready, _stale: None,
            session_timeout=10.0,
            clock=lambda: now,
            max_timer_seconds=0.01,
        )
        members = tuple(Member(f"member_{n}", Endpoint(f"10.0.0.{n}", 80)) for n in range(1, 7))
        guarded.publish([SetPut(ORIGIN, ServiceName("web", "prod"), members)])
        guarded.set_health(ready=True, stale=True)
        guarded.set_health(ready=True, stale=False)
        guarded.publish([SetChanged(ORIGIN, (), tuple(member.name for member in members))])
        assert len(guarded.guard.held) == len(members)
        await asyncio.sleep(0.05)
        assert len(guarded.guard.held) == len(members)
        now += HOLD_SECONDS + 1.0  # the machine was suspended
        await until(lambda: not guarded.guard.held)
        member_set = publisher.table.set_of(ORIGIN)
        assert member_set is not None
        assert not member_set.members
        guarded.close()

    asyncio.run(scenario())
