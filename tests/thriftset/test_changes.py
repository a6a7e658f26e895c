"""ThriftSet against real thriftpy2 servers: waiting, and changing endpoints."""

import contextlib
import threading
from collections import Counter

import pytest

from tests.support.thrift import (
    EchoClient,
    EchoServer,
    Holder,
    endpoints_of,
    set_of,
    wait_for_no_connections,
    wait_for_waiters,
)
from tests.support.waiting import eventually
from zkdns.errors import BadValueError, NoEndpointsError, ZkdnsError
from zkdns.fixedset import FixedSet
from zkdns.thriftset import BusyError, ThriftSet

# -- waiting ---------------------------------------------------------------------------------------------


def test_when_all_are_full_it_waits_for_a_slot(server: EchoServer) -> None:
    with set_of(server.endpoint, max_active=1) as connections, Holder(connections) as first:
        first.wait_for_client()
        with Holder(connections) as second:
            wait_for_waiters(connections, 1)
            assert second.client is None
            first.stop()
            assert second.wait_for_client() is first.client
    assert server.opened == 1


def test_waiting_ends_at_the_timeout(servers: list[EchoServer]) -> None:
    with set_of(*endpoints_of(servers), max_active=1) as connections:
        with contextlib.ExitStack() as stack:
            for _ in servers:
                stack.enter_context(connections.connection())
            for timeout in (0, 0.01):
                with (
                    pytest.raises(
                        BusyError, match="in time: all endpoints have 1 active connections"
                    ) as raised,
                    connections.connection(timeout),
                ):
                    pass
                assert isinstance(raised.value, TimeoutError)
                assert isinstance(raised.value, ZkdnsError)
        with connections.connection(0) as client:
            assert client.echo("hello") == "hello"


def test_slots_are_assigned_in_order_of_arrival(server: EchoServer) -> None:
    with contextlib.ExitStack() as stack:
        connections = stack.enter_context(set_of(server.endpoint, max_active=1))
        holders = []
        for count in range(5):
            holders.append(stack.enter_context(Holder(connections)))
            if count:
                wait_for_waiters(connections, count)
            else:
                holders[0].wait_for_client()
        for count, holder in enumerate(holders, 1):
            holder.wait_for_client()
            assert [other.client is not None for other in holders].count(True) == count
            holder.stop()


def test_a_new_endpoint_serves_waiting_requests(servers: list[EchoServer]) -> None:
    watch = FixedSet([servers[0].endpoint])
    with contextlib.ExitStack() as stack:
        connections = stack.enter_context(ThriftSet(watch, EchoClient, max_active=2))
        holders = [stack.enter_context(Holder(connections)) for _ in range(4)]
        wait_for_waiters(connections, 2)
        watch.set_endpoints(endpoints_of(servers[:2]))
        eventually(lambda: all(holder.client for holder in holders))
        assert Counter(holder.client.endpoint for holder in holders if holder.client) == {
            servers[0].endpoint: 2,
            servers[1].endpoint: 2,
        }


def test_waiting_requests_fail_when_the_set_becomes_empty(server: EchoServer) -> None:
    watch = FixedSet([server.endpoint])
    with contextlib.ExitStack() as stack:
        connections = stack.enter_context(ThriftSet(watch, EchoClient, max_active=1))
        stack.enter_context(connections.connection())
        holders = [stack.enter_context(Holder(connections)) for _ in range(3)]
        wait_for_waiters(connections, 3)
        watch.set_endpoints([])
        eventually(lambda: all(isinstance(holder.error, NoEndpointsError) for holder in holders))


# -- endpoints that change -------------------------------------------------------------------------------


def test_without_a_watch_endpoints_are_set(servers: list[EchoServer]) -> None:
    with ThriftSet(None, EchoClient) as connections:
        assert not connections.endpoints
        with (
            pytest.raises(NoEndpointsError, match="the set is empty"),
            connections.connection(),
        ):
            pass
        connections.set_endpoints(endpoints_of(servers[:1]))
        with connections.connection() as client:
            assert client.endpoint == servers[0].endpoint
        with pytest.raises(BadValueError, match="'nowhere' has no port"):
            connections.set_endpoints([servers[1].endpoint, "nowhere"])
        assert connections.endpoints == (servers[0].endpoint,)
        connections.set_endpoints(endpoints_of(servers[1:2]))
        wait_for_no_connections(servers[0])
        with connections.connection() as client:
            assert client.endpoint == servers[1].endpoint


def test_a_departed_endpoint_closes_idle_connections_at_once(
    servers: list[EchoServer],
) -> None:
    leaver = servers[0]
    watch = FixedSet([leaver.endpoint])
    with ThriftSet(watch, EchoClient) as connections:
        with connections.connection() as client:
            with connections.connection():
                pass
            assert leaver.open == 2
            watch.set_endpoints(endpoints_of(servers[1:]))
            eventually(lambda: leaver.open == 1)
            assert client.echo("hello") == "hello"
        wait_for_no_connections(leaver)
        assert leaver.opened == 2


def test_an_endpoint_that_returns_gets_new_connections_within_its_limit(server: EchoServer) -> None:
    watch = FixedSet([server.endpoint])
    with ThriftSet(watch, EchoClient, max_active=2) as connections:
        with connections.connection() as old:
            watch.set_endpoints([])
            watch.set_endpoints([server.endpoint])
            with connections.connection() as new:
                assert new is not old
                with pytest.raises(BusyError), connections.connection(0):
                    pass
        eventually(lambda: server.open == 1)
        with connections.connection() as client:
            assert client is new


def test_an_endpoint_that_leaves_under_load_does_not_affect_others(servers: list[EchoServer]) -> None:
    watch = FixedSet(endpoints_of(servers))
    calls: Counter[str] = Counter()
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            try:
                with connections.connection() as client:
                    assert client.echo("hello") == "hello"
                calls[client.endpoint] += 1
            except BaseException as error:  # noqa: BLE001 - no exception may occur
                errors.append(error)
                return

    with ThriftSet(watch, EchoClient, max_active=4) as connections:
        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        try:
            for leaver in servers * 3:
                eventually(lambda: errors or len(calls) == len(servers))
                watch.set_endpoints(set(endpoints_of(servers)) - {leaver.endpoint})
                wait_for_no_connections(leaver)
                watch.set_endpoints(endpoints_of(servers))
                calls.clear()
            eventually(lambda: errors or len(calls) == len(servers))
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert errors == []


def test_a_server_that_dies_under_load_fails_only_its_own_connections(servers: list[EchoServer]) -> None:
    dying = servers[0]
    watch = FixedSet(endpoints_of(servers))
    calls: Counter[str] = Counter()
    failed: list[str] = []
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            client = None
            try:
                with connections.connection() as client:
                    assert client.echo("hello") == "hello"
                calls[client.endpoint] += 1
            except Exception as error:  # noqa: BLE001 - the origin of any exception is checked
                failed.append(client.endpoint if client else repr(error))

    with ThriftSet(watch, EchoClient, max_active=4) as connections:
        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: len(calls) == len(servers))
            dying.kill()
            # It refuses connections now, and other endpoints are used instead.
            calls.clear()
            eventually(lambda: sum(calls.values()) > 100)
            watch.set_endpoints(endpoints_of(servers[1:]))
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert set(failed) <= {dying.endpoint}
    assert len(failed) <= 4  # each former connection, once
