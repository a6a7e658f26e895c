"""The behaviour of every watch, with members that the test publishes."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import pytest

from tests.serverset.session_helpers import is_waiting
from tests.support.waiting import eventually
from zkdns.serverset.member import Endpoint, Member, Status
from zkdns.serverset.watch import Watch

pytestmark = pytest.mark.usefixtures("leaves_nothing")


class Source(Watch):
    """A watch with members that the test sets. It counts its subscriptions."""

    def __init__(self) -> None:
        super().__init__()
        self.subscription_count = 0

    def subscribe(self, on_change: Callable[[], object]) -> Callable[[], None]:
        unsubscribe = super().subscribe(on_change)
        self.subscription_count += 1

        def unsubscribe_and_count() -> None:
            unsubscribe()
            self.subscription_count -= 1

        return unsubscribe_and_count

    def publish_members(self, *members: Member) -> None:
        self._publish(members)

    def publish(self, *endpoints: str, status: Status = Status.ALIVE) -> None:
        members = []
        for number, text in enumerate(endpoints):
            host, _, port = text.rpartition(":")
            members.append(Member(f"m{number}", Endpoint(host, int(port)), status=status))
        self.publish_members(*members)


def test_endpoints_are_sorted_without_duplicates() -> None:
    watch = Source()
    watch.publish("b:2", "a:10", "a:9", "b:2", "::1:80")
    assert watch.endpoints == ("[::1]:80", "a:10", "a:9", "b:2")
    assert [member.name for member in watch.members] == ["m0", "m1", "m2", "m3", "m4"]


def test_only_alive_members_are_members() -> None:
    watch = Source()
    for status in Status:
        watch.publish("a:1", status=status)
        assert bool(watch.members) == (status is Status.ALIVE)


def test_a_member_without_a_service_endpoint_has_no_endpoint() -> None:
    watch = Source()
    watch.publish_members(Member("m0", None, {"admin": Endpoint("a", 9990)}))
    assert (len(watch.members), watch.endpoints) == (1, ())


def test_changes_are_counted_and_dated() -> None:
    watch = Source()
    assert (watch.event_count, watch.last_event) == (0, None)
    watch.publish()  # the first set counts, even if it is empty
    assert watch.event_count == 1
    began = time.time()
    watch.publish("a:1")
    assert watch.event_count == 2
    assert watch.last_event is not None
    assert began <= watch.last_event <= time.time()
    before = watch.last_event
    watch.publish("a:1")  # no change
    assert (watch.event_count, watch.last_event) == (2, before)


def test_a_closed_watch_keeps_its_members() -> None:
    with Source() as watch:
        watch.publish("a:1")
        assert not watch.is_closed
    assert watch.is_closed
    watch.publish("b:2")
    watch.close()
    assert (watch.endpoints, watch.event_count) == (("a:1",), 1)


# -- subscribers ---------------------------------------------------------------------------------------------


def test_subscribers_are_called_after_changes_and_closing() -> None:
    watch, received = Source(), list[tuple[tuple[str, ...], bool]]()
    unsubscribe = watch.subscribe(lambda: received.append((watch.endpoints, watch.is_closed)))
    watch.publish("a:1")
    watch.publish("a:1")
    watch.publish()
    watch.close()
    watch.close()
    assert received == [(("a:1",), False), ((), False), ((), True)]
    unsubscribe()
    unsubscribe()


def test_a_failing_subscriber_does_not_affect_the_others(caplog: pytest.LogCaptureFixture) -> None:
    watch, received = Source(), list[int]()
    watch.subscribe(lambda: 1 / 0)
    watch.subscribe(lambda: received.append(1))
    watch.publish("a:1")
    assert received == [1]
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "zkdns: subscriber_failed")
    ]
    assert caplog.records[0].exc_info
    caplog.clear()


def test_subscriptions_may_change_during_a_call() -> None:
    watch, received = Source(), list[str]()

    def first() -> None:
        received.append("first")
        unsubscribe()
        watch.subscribe(lambda: received.append("third"))

    unsubscribe = watch.subscribe(first)
    watch.subscribe(lambda: received.append("second"))
    watch.publish("a:1")
    assert received == ["first", "second"]
    watch.publish("a:2")
    assert received == ["first", "second", "second", "third"]


def test_two_subscriptions_of_one_function_are_independent() -> None:
    watch, received = Source(), list[int]()

    def record() -> None:
        received.append(1)

    unsubscribe = watch.subscribe(record)
    watch.subscribe(record)
    watch.publish("a:1")
    unsubscribe()
    unsubscribe()  # its own subscription has ended; this must not end the other one
    watch.publish("a:2")
    assert len(received) == 3


def test_a_subscriber_may_close_the_watch() -> None:
    watch = Source()
    watch.subscribe(watch.close)
    watch.publish("a:1")
    assert watch.is_closed


# -- waiting and iterating -----------------------------------------------------------------------------------


def test_wait_returns_after_a_change() -> None:
    watch = Source()
    assert not watch.wait(0)
    watch.publish("a:1")
    assert not watch.wait(0)
    assert watch.wait(0, after=0)
    results: list[bool] = []
    waiting = threading.Thread(target=lambda: results.append(watch.wait(10.0)))
    waiting.start()
    eventually(lambda: is_waiting(waiting))
    watch.publish("a:2")
    waiting.join()
    assert results == [True]


def test_close_wakes_waiting_threads() -> None:
    watch, results = Source(), list[bool]()
    waiting = [threading.Thread(target=lambda: results.append(watch.wait())) for _ in range(3)]
    for thread in waiting:
        thread.start()
    eventually(lambda: all(map(is_waiting, waiting)))
    watch.close()
    for thread in waiting:
        thread.join()
    assert results == [False] * 3


def test_iteration_returns_the_endpoints_now_and_after_each_change() -> None:
    watch = Source()
    watch.publish("a:1")
    changes = iter(watch)
    assert next(changes) == ("a:1",)
    watch.publish("b:2")
    watch.publish("c:3")
    assert next(changes) == ("c:3",)  # quick changes are combined
    watch.publish()
    watch.close()
    assert list(changes) == [()]  # close does not lose the last one


def test_after_a_burst_each_iterator_ends_with_the_last_set() -> None:
    watch, seen = Source(), [list[tuple[str, ...]]() for _ in range(4)]
    threads = [threading.Thread(target=lambda own=own: own.extend(watch)) for own in seen]
    for thread in threads:
        thread.start()
    for number in range(1, 2001):
        watch.publish(f"a:{number}")
    watch.close()
    for thread in threads:
        thread.join()
    for own in seen:
        assert own[-1] == ("a:2000",)
        ports = [int(endpoints[0][2:]) for endpoints in own if endpoints]
        assert ports == sorted(ports)


def test_it_can_be_iterated_asynchronously() -> None:
    watch = Source()

    async def program() -> list[tuple[str, ...]]:
        return [endpoints async for endpoints in watch]

    def change() -> None:
        for number in range(1, 501):
            watch.publish(f"a:{number}")
        watch.close()

    changing = threading.Thread(target=change)
    changing.start()
    seen = asyncio.run(program())
    changing.join()
    assert seen[-1] == ("a:500",)
    assert watch.subscription_count == 0


def test_asynchronous_iteration_may_skip_quick_changes() -> None:
    watch = Source()

    async def program() -> list[tuple[str, ...]]:
        seen = []
        async for endpoints in watch:
            seen.append(endpoints)
            await asyncio.sleep(0)
            if len(seen) == 4:
                watch.close()
            else:
                asyncio.get_running_loop().run_in_executor(None, watch.publish, f"a:{len(seen)}")
        return seen

    assert asyncio.run(program()) == [(), ("a:1",), ("a:2",), ("a:3",)]


def test_asynchronous_iteration_can_be_left_and_cancelled() -> None:
    watch = Source()
    watch.publish("a:1")

    async def follow() -> None:
        async for _ in watch:
            pass

    async def program() -> None:
        async for _ in watch:
            break
        task = asyncio.create_task(follow())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(program())
    assert watch.subscription_count == 0
    watch.publish("a:2")  # no closed event loop is called any more
