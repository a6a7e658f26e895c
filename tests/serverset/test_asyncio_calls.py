"""The thread of an event loop makes no call that blocks: no name lookup, connection, file, import or sleep.

The program runs in a process of its own, because an audit hook (PEP 578) cannot be removed.
"""

import subprocess
import sys

import pytest

from tests.serverset.asyncio_helpers import address_of, silent_server
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.processes

PROGRAM = """
import asyncio, importlib, socket, sys, threading
from zkdns import FixedSet, ServerSet, UnreachableError

CALLS = ("import", "open", "os.listdir", "socket.bind", "socket.connect", "socket.getaddrinfo", "time.sleep")
loops_thread, found, elsewhere = None, [], set()

def watch_calls(event, arguments):
    if event.startswith(CALLS):
        if threading.get_ident() == loops_thread:
            found.append((event, *map(repr, arguments)))
        else:
            elsewhere.add(event)

async def main(hosts, namespace, silent):
    global loops_thread
    web = ServerSet("test", "web", hosts, namespace=namespace)
    sys.addaudithook(watch_calls)
    loops_thread = threading.get_ident()
    async with await web.register_async("a", 1, ping=lambda: True) as own, await web.watch_async() as watch:
        watch.subscribe(lambda: None)
        own.subscribe(lambda: None)
        await own.wait_async(20.0)
        async for endpoints in watch:
            if endpoints == ("a:1",):
                break
        other = await web.register_async("b", 2)
        await watch.wait_async(20.0, after=1)
        await other.close_async()
    for hosts in ("127.0.0.1:1", "localhost:1", silent):
        lost = ServerSet("test", "web", hosts)
        for call in (lost.register_async("a", 1, timeout=0.2), lost.watch_async(timeout=0.2)):
            try:
                await call
            except UnreachableError:
                continue
            sys.exit(f"{hosts} was reached")
        calls = lost.register_async("c", 3), lost.watch_async()
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        watch = await lost.watch_async(timeout=None)
        await watch.close_async()
    loops_thread = None

asyncio.run(main(*sys.argv[1:]))
assert {"socket.connect", "socket.getaddrinfo"} <= elsewhere, elsewhere  # in threads of the library
for call in found:
    print(*call)
"""


def test_no_call_that_blocks_is_made_in_the_loops_thread(zookeeper: ZooKeeperServer, zk_root: str) -> None:
    namespace = f"{zk_root}/{{environment}}/{{service}}"
    with silent_server() as listening:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, zookeeper.address, namespace, address_of(listening)],
            capture_output=True,
            text=True,
            timeout=120.0,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
