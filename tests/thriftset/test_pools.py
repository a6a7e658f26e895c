"""ThriftSet against real thriftpy2 servers on loopback: its pools."""

import contextlib
import gc
import logging
import socket
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from thriftpy2.transport import TTransportException

from tests.support.thrift import (
    EchoClient,
    EchoServer,
    Holder,
    echo_thrift,
    endpoints_of,
    set_of,
    wait_for_no_connections,
    wait_for_waiters,
)
from tests.support.waiting import eventually
from zkdns.errors import BadValueError, ClosedError
from zkdns.fixedset import FixedSet
from zkdns.thriftset import BusyError, NoConnectionError, ThriftSet


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# -- pools -----------------------------------------------------------------------------------------------


def test_a_connection_calls_the_server_and_is_used_again(server: EchoServer) -> None:
    with set_of(server.endpoint) as connections:
        for _ in range(3):
            with connections.connection() as client:
                assert client.echo("hello") == "hello"
        assert server.opened == 1
    wait_for_no_connections(server)


def test_ipv6_endpoints_are_connected_to() -> None:
    with EchoServer("::1") as server, set_of(server.endpoint) as connections:
        assert server.endpoint.startswith("[::1]:")
        with connections.connection() as client:
            assert client.echo("hello") == "hello"


def test_the_endpoint_with_the_fewest_active_connections_is_chosen(servers: list[EchoServer]) -> None:
    with set_of(*endpoints_of(servers)) as connections, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connections.connection()) for _ in range(9)]
        assert Counter(client.endpoint for client in held) == dict.fromkeys(endpoints_of(servers), 3)
    with set_of(*endpoints_of(servers)) as connections, contextlib.ExitStack() as stack:
        blocks = [contextlib.ExitStack() for _ in range(6)]
        held = [block.enter_context(connections.connection()) for block in blocks]
        least = held[0].endpoint
        for client, block in zip(held, blocks, strict=True):
            if client.endpoint == least:
                block.close()
            stack.push(block)
        following = [stack.enter_context(connections.connection()).endpoint for _ in range(2)]
        assert following == [least, least]


def test_the_defaults_are_ten_active_ten_idle_and_five_minutes(server: EchoServer) -> None:
    clock = Clock()
    with set_of(server.endpoint, clock=clock) as connections:
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(connections.connection(0))
            with pytest.raises(BusyError), connections.connection(0):
                pass
        assert (server.opened, server.open) == (10, 10)
        clock.now += 299.9
        with connections.connection():
            pass
        assert (server.opened, server.open) == (10, 10)
        clock.now += 0.2
        with connections.connection():
            eventually(lambda: server.open == 1)
        assert server.opened == 10


def test_at_most_max_idle_connections_are_kept(server: EchoServer) -> None:
    with set_of(server.endpoint, max_idle=2) as connections:
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(connections.connection())
            assert server.opened == 5
        eventually(lambda: server.open == 2)
    with set_of(server.endpoint, max_idle=0, max_active=0) as connections:  # no limits, as in Go
        with contextlib.ExitStack() as stack:
            for _ in range(15):
                stack.enter_context(connections.connection(0))
        assert server.open == 15
        connections.max_idle = 3
        eventually(lambda: server.open == 3)


def test_limits_can_be_changed_while_requests_wait(server: EchoServer) -> None:
    clock = Clock()
    with set_of(server.endpoint, max_active=1, clock=clock) as connections:
        assert (connections.max_active, connections.max_idle, connections.idle_timeout) == (1, 10, 300.0)
        with contextlib.ExitStack() as stack:
            stack.enter_context(connections.connection())
            holders = [stack.enter_context(Holder(connections)) for _ in range(3)]
            wait_for_waiters(connections, 3)
            connections.max_active = 3
            wait_for_waiters(connections, 1)
            connections.max_active = 0
            eventually(lambda: all(holder.client for holder in holders))
        assert server.open == 4
        clock.now += 10.0
        connections.idle_timeout = 60.0
        assert server.open == 4
        connections.idle_timeout = 10.0
        wait_for_no_connections(server)
        connections.idle_timeout = 0
        assert connections.idle_timeout == 0
        for name, wrong in (("max_active", -1), ("max_idle", 1.5), ("idle_timeout", -1)):
            before = getattr(connections, name)
            with pytest.raises(BadValueError, match=f"{name} is {wrong}; it is a number of"):
                setattr(connections, name, wrong)
            assert getattr(connections, name) == before


def test_idle_connections_stay_without_a_timeout(server: EchoServer) -> None:
    for timeout in (0, None):
        clock = Clock()
        with set_of(server.endpoint, idle_timeout=timeout, clock=clock) as connections:
            with connections.connection() as first:
                pass
            clock.now += 1e9
            with connections.connection() as second:
                assert second is first


def test_a_connection_is_closed_after_its_idle_timeout(server: EchoServer) -> None:
    clock = Clock()
    with set_of(server.endpoint, idle_timeout=300.0, clock=clock) as connections:
        with connections.connection() as last, connections.connection():
            pass
        assert server.opened == 2
        clock.now += 200.0
        with connections.connection() as client:
            assert client is last  # so that the other one stays unused
        clock.now += 150.0
        with connections.connection() as client:
            eventually(lambda: server.open == 1)
            assert client.echo("hello") == "hello"
        assert server.opened == 2
        clock.now += 300.0
        with connections.connection() as client:
            assert client.echo("hello") == "hello"
        assert server.opened == 3
        eventually(lambda: server.open == 1)


def test_idle_connections_may_be_kept_for_ever(server: EchoServer) -> None:
    clock = Clock()
    with set_of(server.endpoint, idle_timeout=None, clock=clock) as connections:
        for _ in range(2):
            with connections.connection():
                pass
            clock.now += 1e9
    assert server.opened == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_a_connection_is_closed_when_its_block_raises(server: EchoServer, error: type[BaseException]) -> None:
    with set_of(server.endpoint, max_active=1) as connections:
        with pytest.raises(error), connections.connection():
            raise error
        wait_for_no_connections(server)
        with connections.connection(0) as client:  # and its slot is free again
            assert client.echo("hello") == "hello"
    assert server.opened == 2


def test_a_service_exception_caught_inside_keeps_the_connection(server: EchoServer) -> None:
    with set_of(server.endpoint) as connections:
        with connections.connection() as client, pytest.raises(echo_thrift.Refused):
            client.refuse()
        with connections.connection() as client:
            assert client.echo("hello") == "hello"
    assert server.opened == 1


def test_many_threads_share_few_connections(servers: list[EchoServer]) -> None:
    peak: Counter[str] = Counter()
    active: Counter[str] = Counter()
    lock = threading.Lock()

    def work(name: int) -> None:
        for turn in range(50):
            with connections.connection() as client:
                with lock:
                    active[client.endpoint] += 1
                    peak[client.endpoint] = max(peak[client.endpoint], active[client.endpoint])
                assert client.echo(f"{name}.{turn}") == f"{name}.{turn}"
                with lock:
                    active[client.endpoint] -= 1

    with set_of(*endpoints_of(servers), max_active=3) as connections:
        with ThreadPoolExecutor(30) as threads:
            list(threads.map(work, range(30)))  # raises the block's exception
        assert all(0 < peak[server.endpoint] <= 3 for server in servers)
        assert all(server.opened <= 3 for server in servers)
    wait_for_no_connections(*servers)


def test_calls_run_at_the_same_time(servers: list[EchoServer]) -> None:
    meeting = threading.Barrier(12)  # of all servers: no call ends before all have arrived
    for server in servers:
        server.meeting = meeting

    def meet(_: int) -> str:
        with connections.connection() as client:
            return str(client.meet())

    # They meet only if all twelve are at a server at once, four at each because of the limit.
    with set_of(*endpoints_of(servers), max_active=4) as connections, ThreadPoolExecutor(12) as threads:
        assert list(threads.map(meet, range(12))) == ["met"] * 12


# -- connecting ------------------------------------------------------------------------------------------


def test_after_a_failed_connection_another_endpoint_is_tried(server: EchoServer, refusing: list[str]) -> None:
    tried: Counter[int] = Counter()

    def connect(host: str, port: int) -> EchoClient:
        tried[port] += 1
        return EchoClient(host, port)

    with ThriftSet(
        FixedSet([refusing[0], server.endpoint]), connect, is_usable=lambda _: False
    ) as connections:
        for _ in range(10):
            with connections.connection() as client:
                assert client.endpoint == server.endpoint
    assert tried[server.port] == 10
    assert 0 < tried.total() - 10 <= 10  # at most once each time


def test_when_all_fail_the_error_names_each_endpoint(refusing: list[str]) -> None:
    tried: Counter[str] = Counter()

    def connect(host: str, port: int) -> EchoClient:
        tried[f"{host}:{port}"] += 1
        return EchoClient(host, port)

    watch = FixedSet(refusing)
    with ThriftSet(watch, connect, max_active=1) as connections:
        for count in (1, 2):  # again: the slots are free
            with pytest.raises(NoConnectionError) as raised, connections.connection(0):
                pass
            assert tried == dict.fromkeys(refusing, count)
            assert raised.value.failures.keys() == tried.keys()
            assert all(endpoint in str(raised.value) for endpoint in refusing)
            assert "TTransportException" in str(raised.value)
            assert isinstance(raised.value, ConnectionError)
            assert isinstance(raised.value.__cause__, TTransportException)


def test_while_one_is_full_and_the_other_refuses_it_waits(server: EchoServer, refusing: list[str]) -> None:
    refused = refusing[0]
    with set_of(refused, server.endpoint, max_active=1) as connections, Holder(connections) as first:
        first.wait_for_client()
        with (
            pytest.raises(BusyError, match=f"except those .* connected to: {refused}"),
            connections.connection(0.01),
        ):
            pass
        with Holder(connections) as second:
            wait_for_waiters(connections, 1)
            first.stop()
            assert second.wait_for_client() is first.client


def test_a_request_that_waits_for_one_endpoint_does_not_block_others(
    servers: list[EchoServer], refusing: list[str]
) -> None:
    """A request that could not connect waits for the other endpoint. A later one may connect."""
    full, back = servers[:2]
    ports = {int(refusing[0].rpartition(":")[2]): 0}

    def connect(host: str, port: int) -> EchoClient:
        return EchoClient(host, ports.get(port) or port)

    watch = FixedSet([refusing[0], full.endpoint])
    with ThriftSet(watch, connect, max_active=1) as connections, contextlib.ExitStack() as stack:
        first = stack.enter_context(Holder(connections))
        assert first.wait_for_client().endpoint == full.endpoint
        second = stack.enter_context(Holder(connections))
        wait_for_waiters(connections, 1)
        ports |= dict.fromkeys(ports, back.port)  # it is running again
        third = stack.enter_context(Holder(connections))
        assert third.wait_for_client().endpoint == back.endpoint
        fourth = stack.enter_context(Holder(connections))
        wait_for_waiters(connections, 2)
        first.stop()
        assert second.wait_for_client().endpoint == full.endpoint  # still before later requests
        third.stop()
        assert fourth.wait_for_client().endpoint == back.endpoint


def test_an_interrupt_while_connecting_frees_the_slot(server: EchoServer) -> None:
    interrupts = [KeyboardInterrupt()]

    def connect(host: str, port: int) -> EchoClient:
        if interrupts:
            raise interrupts.pop()
        return EchoClient(host, port)

    with ThriftSet(FixedSet([server.endpoint]), connect, max_active=1) as connections:
        with pytest.raises(KeyboardInterrupt), connections.connection():
            pass
        with connections.connection(0) as client:
            assert client.echo("hello") == "hello"


def test_connecting_does_not_block_others(servers: list[EchoServer]) -> None:
    slow, quick = servers[:2]
    connecting, go_on = threading.Event(), threading.Event()

    def connect(host: str, port: int) -> EchoClient:
        if port == slow.port:
            connecting.set()
            go_on.wait(10.0)
        return EchoClient(host, port)

    watch = FixedSet([slow.endpoint])
    with ThriftSet(watch, connect) as connections, Holder(connections) as holder:
        assert connecting.wait(10.0)
        watch.set_endpoints([quick.endpoint])
        with connections.connection() as client:
            assert client.endpoint == quick.endpoint
            assert holder.client is None
        go_on.set()
        holder.wait_for_client()
        holder.stop()
        eventually(lambda: slow.opened == 1 and slow.open == 0)  # it had left in between


# -- closing ---------------------------------------------------------------------------------------------


def test_close_closes_idle_connections_at_once_and_others_on_return(
    server: EchoServer,
) -> None:
    watch = FixedSet([server.endpoint])
    connections = ThriftSet(watch, EchoClient, max_active=3)
    with connections.connection() as client:
        with connections.connection():
            pass
        assert not connections.is_closed
        connections.close()
        connections.close()
        assert connections.is_closed
        eventually(lambda: server.open == 1)
        assert client.echo("hello") == "hello"
    wait_for_no_connections(server)
    with pytest.raises(ClosedError, match="is closed"), connections.connection():
        pass
    assert not watch.is_closed


def test_a_watch_does_not_keep_a_closed_set(server: EchoServer) -> None:
    watch = FixedSet([server.endpoint])
    connections = ThriftSet(watch, EchoClient)
    kept = weakref.ref(connections)
    connections.close()
    del connections
    gc.collect()
    assert kept() is None


def test_waiting_requests_fail_when_the_set_is_closed(server: EchoServer) -> None:
    with contextlib.ExitStack() as stack:
        connections = stack.enter_context(set_of(server.endpoint, max_active=1))
        stack.enter_context(connections.connection())
        holders = [stack.enter_context(Holder(connections)) for _ in range(3)]
        wait_for_waiters(connections, 3)
        connections.close()
        eventually(lambda: all(isinstance(holder.error, ClosedError) for holder in holders))


def test_a_connection_is_closed_by_the_callers_function(server: EchoServer) -> None:
    # A plain socket in a wrapper without a method close.
    class Box:
        def __init__(self, host: str, port: int) -> None:
            self.inside = socket.create_connection((host, port))

    boxes = ThriftSet(FixedSet([server.endpoint]), Box, close=lambda box: box.inside.close())
    with boxes, boxes.connection() as box:
        eventually(lambda: server.open == 1)
        assert box.inside.fileno() > 0
    wait_for_no_connections(server)
    assert box.inside.fileno() == -1


def test_a_connection_without_close_is_rejected() -> None:
    with ThriftSet(FixedSet(["a:1"]), lambda host, port: (host, port), max_active=1) as connections:
        for _ in range(2):
            with (
                pytest.raises(BadValueError, match="made a tuple, which has no method close"),
                connections.connection(0),
            ):
                pass


def test_an_error_in_closing_is_only_logged(server: EchoServer, caplog: pytest.LogCaptureFixture) -> None:
    def close(client: EchoClient) -> None:
        client.close()
        raise OSError("already gone")

    watch = FixedSet([server.endpoint])
    with caplog.at_level(logging.WARNING), ThriftSet(watch, EchoClient, close=close) as connections:
        with connections.connection():
            pass
        watch.set_endpoints([])
        assert "connection_close_failed" in caplog.text
        assert "already gone" in caplog.text
        assert "subscriber_failed" not in caplog.text
    wait_for_no_connections(server)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_active", -1),
        ("max_active", 2.5),
        ("max_active", True),
        ("max_idle", -1),
        ("idle_timeout", -0.1),
        ("idle_timeout", float("nan")),
    ],
)
def test_a_limit_out_of_range_is_rejected(option: str, value: float) -> None:
    with pytest.raises(BadValueError, match=f"{option} is {value}; it is "):
        set_of("a:1", **{option: value})
