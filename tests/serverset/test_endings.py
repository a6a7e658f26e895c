"""Programs that exit or stop waiting: their members are removed at once, and nothing stays open."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.serverset.session_helpers import is_waiting, session_threads
from tests.serverset.session_internals import claimed_paths, unfinished_count
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns import ServerSet
from zkdns.serverset.session import Session

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Sets = Callable[..., ServerSet]

# The session timeout is half a minute: members that are gone earlier did not wait for it.
_BEGINNING = """
import os, signal, sys, time
from zkdns import ServerSet
hosts, namespace = sys.argv[1:]
web = ServerSet("test", "web", hosts, namespace=namespace, session_timeout=30.0)
registration = web.register("a", 1, ping=lambda: True)
watch = web.watch()
print(registration.path, flush=True)
"""


@contextlib.contextmanager
def program(hosts: str, zk_root: str, rest: str) -> Iterator["subprocess.Popen[str]"]:
    """A program that registers, watches, and then runs `rest`. It prints whether it has registered."""
    with subprocess.Popen(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            _BEGINNING + rest,
            hosts,
            f"{zk_root}/{{environment}}/{{service}}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == f"{zk_root}/test/web/member_0000000000"
            yield process
        finally:
            process.kill()


ENDS: dict[str, tuple[str, Callable[[Any], None], int, str]] = {
    "the last line": ("sys.stdin.read()", lambda process: process.stdin.close(), 0, ""),
    "sys.exit()": ("sys.stdin.read(); sys.exit(3)", lambda process: process.stdin.close(), 3, ""),
    "an exception": (
        "sys.stdin.read(); 1 / 0",
        lambda process: process.stdin.close(),
        1,
        "ZeroDivisionError",
    ),
    "Ctrl-C": (
        "time.sleep(60)",
        lambda process: process.send_signal(signal.SIGINT),
        -signal.SIGINT,
        "KeyboardInterrupt",
    ),
}


@pytest.mark.parametrize("ending", ENDS)
def test_a_member_of_an_exiting_program_is_removed_at_once(
    zk: Any, zookeeper: ZooKeeperServer, zk_root: str, ending: str
) -> None:
    rest, end, status, expected_error = ENDS[ending]
    with program(zookeeper.address, zk_root, rest) as process:
        began = time.monotonic()
        end(process)
        assert process.wait(20.0) == status
        assert time.monotonic() - began < 10.0
        assert zk.get_children(f"{zk_root}/test/web") == []
        assert process.stderr is not None
        error = process.stderr.read()
        assert expected_error in error if expected_error else error == ""


def test_a_program_exits_in_bounded_time_without_zookeeper(
    zookeeper: ZooKeeperServer, zk_root: str, zk: Any
) -> None:
    zk.ensure_path(zk_root)
    with (
        FaultProxy(zookeeper.port) as proxy,
        program(proxy.address, zk_root, "sys.stdin.read()") as process,
    ):
        proxy.stall()
        began = time.monotonic()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20.0) == 0
        assert time.monotonic() - began < 10.0
        proxy.resume()


_FORKS = """
child = os.fork()
if not child:
    began = time.monotonic()
    registration.close()
    watch.close()
    assert time.monotonic() - began < 10.0
    own = web.register("b", 2)
    print(own.path, flush=True)
    assert web.watch().endpoints == ("a:1", "b:2")
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
print("child ended", flush=True)
sys.stdin.read()
assert registration.is_registered
until = time.monotonic() + 10.0
while watch.endpoints != ("a:1",) and time.monotonic() < until:  # the child's member may just have been seen
    time.sleep(0.01)
assert watch.endpoints == ("a:1",), watch.endpoints
registration.close()
watch.close()
"""


def test_a_forked_process_has_its_own_session(zk: Any, zookeeper: ZooKeeperServer, zk_root: str) -> None:
    with program(zookeeper.address, zk_root, _FORKS) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        assert process.stdout.readline().strip() == f"{zk_root}/test/web/member_0000000001"
        assert process.stdout.readline().strip() == "child ended"
        assert zk.get_children(f"{zk_root}/test/web") == ["member_0000000000"]
        process.stdin.close()
        assert process.wait(20.0) == 0
        # The child logs this if it lives long enough.
        expected = f"zkdns: registration_closed_by_fork path={zk_root}/test/web\n"
        assert process.stderr.read() in {"", expected}
        assert zk.get_children(f"{zk_root}/test/web") == []


# -- interrupts and cancellation -----------------------------------------------------------------------------


@contextlib.contextmanager
def interrupted(when: Callable[[], object] = lambda: True) -> Iterator[None]:
    """Interrupt the block with Ctrl-C as soon as the condition holds, while it waits."""

    def interrupt() -> None:
        eventually(lambda: when() and is_waiting(threading.main_thread()))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the interrupt may be ignored
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
        interrupting.join()
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def interrupted_at_its_first_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupt the block once, when it posts a job to a session."""
    run_soon = Session.run_soon

    def interrupting(session: Session, job: Callable[[], None]) -> None:
        if threading.current_thread() is not threading.main_thread():
            run_soon(session, job)
            return
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "run_soon", interrupting)
    with pytest.raises(KeyboardInterrupt):
        yield


def test_an_interrupted_register_leaves_no_member(zk: Any, server_set: Sets) -> None:
    web, goes_on = server_set(), threading.Event()
    pinging: list[threading.Thread] = []

    def ping() -> None:
        pinging.append(threading.current_thread())
        goes_on.wait(20.0)

    with web.watch():  # so that the member is not removed with the session
        with interrupted(lambda: pinging):
            web.register("a", 1, ping=ping, ping_timeout=20.0, timeout=20.0)
        goes_on.set()
        pinging[0].join()
        # The session executes jobs in order, so the first registration would have a znode before this one.
        with web.register("b", 1) as registration:
            assert registration.path == f"{web.path}/member_0000000000"
            assert zk.get_children(web.path) == ["member_0000000000"]
    assert not session_threads()


@pytest.mark.parametrize("call", ["register", "watch"])
def test_waiting_for_an_unreachable_zookeeper_can_be_interrupted(call: str) -> None:
    web = ServerSet("test", "web", "127.0.0.1:1", session_timeout=2.0)
    with interrupted():
        web.register("a", 1, timeout=20.0) if call == "register" else web.watch(timeout=20.0)
    assert not session_threads()


@pytest.mark.parametrize("call", ["register", "watch"])
def test_an_interrupt_before_the_wait_leaves_nothing(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    web = ServerSet("test", "web", "127.0.0.1:1", session_timeout=2.0)
    with interrupted_at_its_first_job(monkeypatch):
        web.register("a", 1, timeout=20.0) if call == "register" else web.watch(timeout=20.0)
    assert not session_threads()


def test_close_completes_after_an_interrupt_before_its_wait(
    zk: Any, server_set: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = server_set()
    with web.watch():
        registration = web.register("a", 1)
        with interrupted_at_its_first_job(monkeypatch):
            registration.close()
        eventually(lambda: zk.get_children(web.path) == [])
        eventually(lambda: not unfinished_count(web))


def test_close_completes_after_an_interrupt(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> None:
    with FaultProxy(zookeeper.port) as proxy:
        zk.ensure_path(zk_root)
        web = ServerSet("test", "web", proxy.address + zk_root, session_timeout=8.0)
        with web.watch():
            registration = web.register("a", 1)
            proxy.stall()
            with interrupted(lambda: registration.is_closed):
                registration.close()
            proxy.resume()
            eventually(lambda: zk.get_children(f"{zk_root}/discovery/test/web") == [])
            eventually(lambda: not unfinished_count(web))


@pytest.mark.parametrize("keeps", [True, False])
def test_a_cancelled_register_leaves_no_member(zk: Any, server_set: Sets, keeps: bool) -> None:
    web = server_set()

    async def cancelled_after(milliseconds: int) -> bool:
        task = asyncio.create_task(web.register_async("a", 1))
        for _ in range(milliseconds):
            await asyncio.sleep(0.001)
        if task.done():
            await task.result().close_async()
            return False
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return True

    async def all_of_them() -> list[bool]:
        return [await cancelled_after(milliseconds) for milliseconds in range(30)]

    with web.watch() if keeps else contextlib.nullcontext():
        assert any(asyncio.run(all_of_them()))
        eventually(lambda: not zk.exists(web.path) or zk.get_children(web.path) == [])
        eventually(lambda: not claimed_paths(web))
        eventually(lambda: len(session_threads()) == keeps)
    eventually(lambda: not session_threads())


def await_cancelled(begin: Callable[[], Awaitable[object]]) -> float:
    """Cancel a waiting task. Returns the seconds until the end of the loop."""

    async def program() -> float:
        task = asyncio.ensure_future(begin())
        await asyncio.sleep(0.05)
        assert not task.done()
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return began

    began = asyncio.run(program())
    return time.monotonic() - began


@pytest.mark.parametrize("call", ["register", "watch"])
def test_awaiting_an_unreachable_zookeeper_can_be_cancelled(call: str) -> None:
    web = ServerSet("test", "web", "127.0.0.1:1", session_timeout=2.0)
    took = await_cancelled(
        lambda: (
            web.register_async("a", 1, timeout=30.0) if call == "register" else web.watch_async(timeout=30.0)
        )
    )
    assert took < 10.0
    eventually(lambda: not session_threads())


def test_a_stalled_register_can_be_cancelled(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> None:
    with FaultProxy(zookeeper.port) as proxy:
        zk.ensure_path(zk_root)
        web = ServerSet("test", "web", proxy.address + zk_root, session_timeout=2.0)
        with web.watch():
            proxy.stall()
            assert await_cancelled(lambda: web.register_async("a", 1, timeout=40.0)) < 10.0
            proxy.resume()
            eventually(lambda: web.is_connected and not unfinished_count(web))
            path = f"{zk_root}/discovery/test/web"
            assert not zk.exists(path) or zk.get_children(path) == []


def test_awaiting_a_slow_ping_can_be_cancelled(zk: Any, server_set: Sets) -> None:
    web, goes_on = server_set(), threading.Event()
    try:
        took = await_cancelled(
            lambda: web.register_async(
                "a", 1, ping=lambda: goes_on.wait(20.0), ping_timeout=20.0, timeout=30.0
            )
        )
    finally:
        goes_on.set()
    assert took < 10.0
    eventually(lambda: not session_threads())
    assert zk.exists(web.path) is None
