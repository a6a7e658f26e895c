"""Registrations and watches in event loops: nothing blocks a loop, uses its executor or outlives it."""

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.serverset.asyncio_helpers import address_of, expect_destruction, run, silent_server, until
from tests.serverset.session_helpers import session_threads
from tests.serverset.session_internals import claimed_paths, unfinished_count
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import PATIENCE, eventually, in_time, repeated_if_late
from tests.support.zookeeper import ZooKeeperServer
from zkdns import FixedSet, Registration, ServerSet, UnreachableError, Watch, ZooKeeperError

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Sets = Callable[..., ServerSet]
Proxied = tuple[FaultProxy, ServerSet]

PROMPT = 10.0
"""Seconds: far more than a cancellation takes, and far less than the time-outs that it does not wait for."""


@pytest.fixture
def proxied(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> Iterator[Proxied]:
    """A set with a proxy before ZooKeeper, which can stall."""
    zk.ensure_path(zk_root)
    with FaultProxy(zookeeper.port) as proxy:
        yield proxy, ServerSet("test", "web", proxy.address + zk_root, session_timeout=40.0)


async def cancel(task: "asyncio.Task[Any]") -> float:
    """Cancel a waiting task. Returns the seconds until its end."""
    assert not task.done()
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - began


def begin(web: ServerSet, call: str, timeout: float) -> "asyncio.Task[Registration | Watch]":
    async def work() -> Registration | Watch:
        if call == "register":
            return await web.register_async("a", 1, timeout=timeout)
        return await web.watch_async(timeout=timeout)

    return asyncio.create_task(work())


def members(zk: Any, path: str) -> list[str]:
    return list(zk.get_children(path)) if zk.exists(path) else []


# -- time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False], ids=["one-set", "thirty-sets"])
@repeated_if_late
def test_thirty_calls_wait_at_the_same_time(shared: bool) -> None:
    """They used to wait in the default executor, so that all of them took 10 s."""
    with silent_server() as listening:
        sets = [ServerSet("test", "web", address_of(listening)) for _ in range(1 if shared else 30)]

        async def program() -> list[object]:
            calls = [sets[port % len(sets)].register_async("a", 1 + port, timeout=2.0) for port in range(30)]
            return list(await asyncio.gather(*calls, return_exceptions=True))

        began = time.monotonic()
        results = run(program())
        assert [type(result) for result in results] == [UnreachableError] * 30
        assert time.monotonic() - began >= 2.0
        in_time(began, 8.0)
        eventually(lambda: not session_threads())


def test_the_executor_stays_free_for_name_lookups() -> None:
    with silent_server() as listening:
        web = ServerSet("test", "web", address_of(listening))

        async def program() -> None:
            waiting = [begin(web, call, 60.0) for call in ("register", "watch") for _ in range(40)]
            await asyncio.sleep(0.05)
            async with asyncio.timeout(20.0):
                await asyncio.get_running_loop().getaddrinfo("localhost", 1)
            for task in waiting:
                await cancel(task)

        asyncio.run(program())


@pytest.mark.parametrize("call", ["register", "watch"])
def test_the_error_names_the_cause(call: str) -> None:
    async def program(web: ServerSet) -> str:
        with pytest.raises(UnreachableError) as error:
            await begin(web, call, 2.0)
        return str(error.value)

    assert run(program(ServerSet("test", "web", "127.0.0.1:1"))).endswith("connection refused")
    with silent_server() as listening:
        web = ServerSet("test", "web", address_of(listening))
        # The search for the cause has a time limit, which a busy machine may exceed.
        eventually(lambda: "accepts connections, but sends nothing" in run(program(web)), PATIENCE)


def test_calls_that_fail_together_search_for_the_cause_once() -> None:
    with silent_server() as listening:
        web = ServerSet("test", "web", address_of(listening))

        async def program() -> None:
            await asyncio.gather(*(begin(web, "watch", 1.0) for _ in range(30)), return_exceptions=True)

        run(program())
        eventually(lambda: not session_threads())
        listening.setblocking(False)
        connections = 0
        with contextlib.suppress(BlockingIOError):
            while connections < 100:
                listening.accept()[0].close()
                connections += 1
        assert 0 < connections < 15  # kazoo's own, and those of the search


def test_a_refusal_arrives_before_the_timeout(zk: Any, zookeeper: ZooKeeperServer, zk_root: str) -> None:
    web = ServerSet("test", "web", f"{zookeeper.address}{zk_root}/missing")

    async def program() -> None:
        for call in ("register", "watch"):
            with pytest.raises(ZooKeeperError, match="chroot"):
                await begin(web, call, 60.0)

    began = time.monotonic()
    run(program())
    assert time.monotonic() - began < 30.0
    assert zk.exists(f"{zk_root}/missing") is None


# -- what programs do ----------------------------------------------------------------------------------------


def test_registrations_and_watches_need_no_executor(zk: Any, server_set: Sets) -> None:
    web = server_set()

    async def program() -> list[tuple[str, ...]]:
        seen = []
        async with await web.watch_async() as watch:
            registration = await web.register_async("a", 1, timeout=None)
            assert await registration.wait_async(20.0)
            async with await web.register_async("b", 2, ping=lambda: True):
                async for endpoints in watch:
                    seen.append(endpoints)
                    if len(endpoints) == 2:
                        break
            await registration.close_async()
            while watch.endpoints:
                assert await watch.wait_async(20.0)
        assert watch.is_closed
        return seen

    assert run(program())[-1] == ("a:1", "b:2")
    assert members(zk, web.path) == []
    assert not session_threads()


def test_wait_async_ends_with_its_time_and_with_close() -> None:
    web = ServerSet("test", "web", "127.0.0.1:1")

    async def program() -> None:
        registration = await web.register_async("a", 1, timeout=None)
        watch = await web.watch_async(timeout=None)
        assert not await registration.wait_async(0.01)
        assert not await watch.wait_async(0.01)
        assert not await registration.wait_closed_async(0.01)
        waiting = [asyncio.create_task(one.wait_async()) for one in (registration, watch)]
        waiting.append(asyncio.create_task(registration.wait_closed_async()))
        await asyncio.sleep(0)
        await registration.close_async()
        await watch.close_async()
        assert await asyncio.gather(*waiting) == [False, False, True]

    run(program())


def test_async_for_ends_when_the_watch_is_closed(server_set: Sets) -> None:
    web = server_set()

    async def follow(watch: Watch) -> list[tuple[str, ...]]:
        return [endpoints async for endpoints in watch]

    async def program() -> list[list[tuple[str, ...]]]:
        watch = await web.watch_async()
        following = [asyncio.create_task(follow(watch)) for _ in range(3)]
        await asyncio.sleep(0)
        await watch.close_async()
        return await asyncio.gather(*following)

    assert run(program()) == [[()]] * 3


def test_a_fixed_set_can_be_closed_asynchronously() -> None:
    async def program() -> bool:
        async with FixedSet(["a:1"]) as watch:
            assert not watch.is_closed
        return watch.is_closed

    assert run(program())


# -- cancellation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["register", "watch"])
def test_cancelling_leaves_nothing(call: str) -> None:
    with silent_server() as listening:
        web = ServerSet("test", "web", address_of(listening), session_timeout=40.0)

        async def program() -> None:
            tasks = [begin(web, call, 60.0) for _ in range(30)]
            await asyncio.sleep(0.05)
            assert sum([await cancel(task) for task in tasks]) < PROMPT

        run(program())
        eventually(lambda: not session_threads())


def test_a_stalled_create_is_undone_after_a_cancellation(proxied: Proxied, zk: Any, zk_root: str) -> None:
    proxy, web = proxied

    async def program() -> None:
        async with await web.watch_async():
            proxy.stall()
            task = begin(web, "register", 60.0)
            await asyncio.sleep(0.1)
            assert await cancel(task) < PROMPT
            proxy.resume()
            await until(lambda: "zkdns close" not in [each.name for each in threading.enumerate()])
            await until(lambda: not unfinished_count(web))
            await until(lambda: not members(zk, f"{zk_root}/discovery/test/web"))

    run(program())
    assert not claimed_paths(web)


def test_a_registration_that_succeeds_before_the_cancellation_is_undone(zk: Any, server_set: Sets) -> None:
    web = server_set()

    async def program() -> None:
        task = begin(web, "register", 60.0)
        await asyncio.sleep(0)
        eventually(lambda: len(members(zk, web.path)) == 1)  # this blocks the loop: the task cannot go on
        await cancel(task)

    run(program())
    eventually(lambda: members(zk, web.path) == [])
    eventually(lambda: not session_threads())


def test_a_cancelled_close_goes_on_in_the_background(proxied: Proxied, zk: Any, zk_root: str) -> None:
    proxy, web = proxied

    async def program() -> None:
        registration = await web.register_async("a", 1)
        proxy.stall()
        task = asyncio.create_task(registration.close_async())
        await asyncio.sleep(0.05)
        assert await cancel(task) < PROMPT

    run(program())
    proxy.resume()
    eventually(lambda: members(zk, f"{zk_root}/discovery/test/web") == [])
    eventually(lambda: not session_threads())


def test_a_cancelled_block_closes_its_registration(zk: Any, server_set: Sets) -> None:
    web = server_set()

    async def block() -> None:
        async with await web.register_async("a", 1), await web.watch_async():
            await asyncio.sleep(60.0)

    async def program() -> None:
        task = asyncio.create_task(block())
        await until(lambda: members(zk, web.path))
        await cancel(task)

    run(program())
    eventually(lambda: members(zk, web.path) == [])
    eventually(lambda: not session_threads())


# -- several loops -------------------------------------------------------------------------------------------


def test_a_set_is_used_by_several_loops_in_turn(zk: Any, server_set: Sets) -> None:
    web = server_set()

    async def program(port: int) -> tuple[str, ...]:
        async with await web.register_async("a", port), await web.watch_async() as watch:
            return watch.endpoints

    assert [run(program(port)) for port in (1, 2, 3)] == [("a:1",), ("a:2",), ("a:3",)]
    assert members(zk, web.path) == []


def test_a_registration_may_outlive_its_loop(zk: Any, server_set: Sets) -> None:
    web = server_set()
    registration, watch = run(web.register_async("a", 1)), run(web.watch_async())
    assert watch.endpoints == ("a:1",)
    run(registration.close_async())
    assert members(zk, web.path) == []
    run(watch.close_async())


def test_two_loops_in_two_threads_share_a_watch(server_set: Sets) -> None:
    web = server_set()
    seen: list[tuple[str, ...]] = []

    async def follow(watch: Watch, port: int) -> None:
        async with await web.register_async("a", port):
            async for endpoints in watch:
                if len(endpoints) == 2:
                    seen.append(endpoints)
                    break
            await until(lambda: len(seen) == 2)  # otherwise the other loop might never see two members

    with web.watch() as watch:
        threads = [threading.Thread(target=lambda port=port: run(follow(watch, port))) for port in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30.0)
    assert seen == [("a:1", "a:2")] * 2


@pytest.mark.parametrize("call", ["register", "watch"])
def test_a_loop_that_is_closed_while_a_call_waits(call: str) -> None:
    """The garbage collector ends the coroutine, which nothing can resume."""
    with silent_server() as listening:
        web = ServerSet("test", "web", address_of(listening), session_timeout=40.0)
        loop = asyncio.new_event_loop()

        async def program() -> None:
            task = begin(web, call, 60.0)
            expect_destruction(task)
            await asyncio.sleep(0.05)

        loop.run_until_complete(program())
        assert session_threads()
        loop.close()
        gc.collect()
        eventually(lambda: not session_threads())


def test_a_registration_for_a_closed_loop_is_undone(proxied: Proxied, zk: Any, zk_root: str) -> None:
    """Its success finds the loop closed, although the program still refers to the task."""
    proxy, web = proxied
    loop = asyncio.new_event_loop()
    proxy.stall()

    async def program() -> list["asyncio.Task[Any]"]:
        tasks = [begin(web, call, 60.0) for call in ("register", "watch")]
        await asyncio.sleep(0.05)
        return tasks

    tasks = loop.run_until_complete(program())
    loop.close()
    proxy.resume()
    eventually(lambda: not session_threads())
    assert members(zk, f"{zk_root}/discovery/test/web") == []
    for task in tasks:
        assert not task.done()
        expect_destruction(task)


def test_a_change_finds_the_loop_of_an_iteration_closed() -> None:
    watch = FixedSet()

    async def first() -> tuple[str, ...]:
        await anext(iteration)
        task = asyncio.ensure_future(anext(iteration))
        expect_destruction(task)
        await asyncio.sleep(0)
        return watch.endpoints

    loop = asyncio.new_event_loop()
    iteration = aiter(watch)
    loop.run_until_complete(first())
    loop.close()
    watch.set_endpoints(["a:1"])
    assert watch.endpoints == ("a:1",)
    watch.close()
