"""Balancers in forked child processes: a child uses no connection of its parent.

Each test is a program of its own, because a fork of the test process would copy the threads of other tests.
"""

import subprocess
import sys

import pytest

from tests.support.memcached import MemcachedServer, memcached_is_missing
from tests.support.thrift import EchoServer
from tests.support.web import WebServer

pytestmark = pytest.mark.processes

_BEGINNING = """
import os, sys, threading
from tests.support.forks import in_child, sockets, until
from zkdns import FixedSet
from zkdns.errors import BadValueError

endpoint = sys.argv[1]
"""


def run(program: str, endpoint: str = "127.0.0.1:1") -> None:
    """Run a program to its end."""
    result = subprocess.run(
        [sys.executable, "-c", _BEGINNING + program, endpoint],
        capture_output=True,
        text=True,
        timeout=150.0,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_thriftset_opens_connections_of_its_own() -> None:
    with EchoServer() as server:
        run(
            """
from tests.support.thrift import EchoClient
from zkdns.thriftset import ThriftSet

closed = []
geo = ThriftSet(FixedSet([endpoint]), EchoClient, max_active=2, close=closed.append)
busy, idle = geo.take(), geo.take()
geo.give_back(idle)
before = {f"socket:[{os.fstat(client.sock.fileno()).st_ino}]" for client in (busy, idle)}
del idle

def work():
    global busy
    with geo.connection() as client, geo.connection() as other:  # the parent's take no slots here
        assert busy not in (client, other)
        assert (client.echo("a"), other.echo("b")) == ("a", "b")
    geo.give_back(busy)
    busy = None
    until(lambda: not sockets() & before)
    assert not closed  # closing could shut the parent's connections down
    geo.close()
    assert len(closed) == 2

in_child(work)
assert busy.echo("c") == "c"
with geo.connection() as client:
    assert client.echo("d") == "d"
assert not closed
""",
            server.endpoint,
        )
        assert server.opened == 4


@pytest.mark.parametrize("kind", ["httpx", "httpx2", "requests"])
def test_httpset_opens_connections_of_its_own(kind: str) -> None:
    with WebServer() as server:
        run(
            f"""
import {kind} as library
from zkdns.httpset import Adapter, Transport

if {kind!r} == "requests":
    client = library.Session()
    client.mount("http://web/", Adapter(FixedSet([endpoint])))
else:
    client = library.Client(transport=Transport(FixedSet([endpoint])), trust_env=False)

def get():
    assert client.get("http://web/").text == endpoint

get()
before = sockets()
assert before

def work():
    until(lambda: not sockets() & before)
    get()
    get()

in_child(work)
get()
assert sockets() == before
""",
            server.endpoint,
        )
        assert server.accepted == 2


def test_httpset_does_not_share_a_used_inner_transport() -> None:
    with WebServer() as server:
        run(
            """
import httpx
from zkdns.httpset.httpx import Transport

used, unused = (
    httpx.Client(transport=Transport(FixedSet([endpoint]), inner=httpx.HTTPTransport())) for _ in range(2)
)
used.get("http://web/")

def work():
    assert unused.get("http://web/").text == endpoint
    try:
        used.get("http://web/")
    except BadValueError as error:
        assert "parent" in str(error)
    else:
        sys.exit("it shares the connection")
    used.close()

in_child(work)
used.get("http://web/")
""",
            server.endpoint,
        )
        assert server.accepted == 2


@pytest.mark.skipif(bool(memcached_is_missing()), reason=memcached_is_missing())
def test_mcset_opens_connections_of_its_own() -> None:
    with MemcachedServer() as server:
        run(
            """
from zkdns.mcset import MCSet

client = MCSet(FixedSet([endpoint])).client()
client.set("a", b"1")
before = sockets()
assert before

def work():
    until(lambda: not sockets() & before)
    assert client.get("a") == b"1"
    assert not sockets() & before
    client.close()

in_child(work)
assert client.get("a") == b"1"
assert sockets() == before
""",
            server.endpoint,
        )


def test_a_choice_that_another_thread_makes_at_the_fork_does_not_block_the_child() -> None:
    run(
        """
from zkdns.balance import LeastRequest, RoundRobin
from zkdns.mcset import MCSet

class Slow(FixedSet):
    '''A source that blocks the thread of a choice, which holds the balancer's lock.'''

    @property
    def endpoints(self):
        if threading.current_thread() in choosing:
            held.release()
            goes_on.wait(30.0)
        return super().endpoints

held, goes_on = threading.Semaphore(0), threading.Event()
source = Slow(["a:1", "b:2"])
choices = [RoundRobin(source).pick, LeastRequest(source).acquire, lambda: mcset.pick("k")]
mcset = MCSet(source)
choosing = [threading.Thread(target=choice, daemon=True) for choice in choices]
for one in choosing:
    one.start()
    held.acquire()

def work():
    for choice in choices:
        assert choice() in ("a:1", "b:2")

in_child(work)
goes_on.set()
"""
    )


def test_a_child_counts_its_own_requests() -> None:
    run(
        """
from zkdns.balance import LeastRequest

balancer = LeastRequest(FixedSet(["a:1"]))
busy = balancer.acquire()

def work():
    assert balancer.active("a:1") == 0
    with balancer.request():
        assert balancer.active("a:1") == 1
    balancer.release(busy)  # acquired before the fork
    try:
        balancer.release(busy)
    except BadValueError:
        return
    sys.exit("it was released twice")

in_child(work)
assert balancer.active("a:1") == 1
"""
    )


def test_children_start_with_different_endpoints() -> None:
    run(
        """
from zkdns.balance import RoundRobin

balancer = RoundRobin(FixedSet([f"a:{port}" for port in range(1, 1001)]))
balancer.pick()
read, write = os.pipe()
for _ in range(4):
    in_child(lambda: os.write(write, balancer.pick().encode() + b" "))
assert len(set(os.read(read, 100).split())) > 1
"""
    )
