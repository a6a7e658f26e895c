"""ThriftSet without a `with` block, its hook, and closed or drained sets."""

import contextlib
import logging
import threading
from collections import Counter

import pytest

from tests.support.thrift import EchoClient, EchoServer, endpoints_of, set_of, wait_for_no_connections
from tests.support.waiting import eventually
from zkdns.errors import BadValueError, ClosedError
from zkdns.fixedset import FixedSet
from zkdns.serverset.member import Endpoint, Member
from zkdns.serverset.watch import Watch
from zkdns.thriftset import BusyError, Event, NoConnectionError, ThriftSet


def test_connections_are_taken_and_given_back(servers: list[EchoServer]) -> None:
    with set_of(*endpoints_of(servers), max_active=1) as connections:
        taken = [connections.take() for _ in servers]
        assert sorted(map(connections.endpoint_of, taken)) == sorted(endpoints_of(servers))
        for client in taken:
            assert connections.endpoint_of(client) == client.endpoint
            assert client.echo("hello") == "hello"
        with pytest.raises(BusyError):
            connections.take(0)
        connections.give_back(taken[0])
        assert connections.take(0) is taken[0]
        connections.give_back(taken[1], is_broken=True)
        fresh = connections.take(0)
        assert fresh is not taken[1]
        assert fresh.endpoint == taken[1].endpoint
        for client in (taken[0], fresh, taken[2]):
            connections.give_back(client)
        eventually(lambda: [server.open for server in servers] == [1, 1, 1])


def test_a_connection_is_given_back_once(server: EchoServer) -> None:
    with set_of(server.endpoint) as connections:
        client = connections.take()
        connections.give_back(client)
        for call in (connections.give_back, connections.endpoint_of):
            with pytest.raises(BadValueError, match=r"is not in use; give back each result of take\(\) once"):
                call(client)
        with connections.connection() as client:
            assert connections.endpoint_of(client) == server.endpoint
        assert server.open == 1


def test_connections_taken_by_one_thread_may_be_given_back_by_another(server: EchoServer) -> None:
    with set_of(server.endpoint, max_active=1) as connections:
        for _ in range(3):
            client = connections.take(0)
            thread = threading.Thread(target=connections.give_back, args=(client,))
            thread.start()
            thread.join()
        assert server.opened == 1


def test_connect_must_make_a_new_connection(server: EchoServer) -> None:
    one = EchoClient(server.host, server.port)
    with ThriftSet(FixedSet([server.endpoint]), lambda _host, _port: one, max_active=2) as connections:
        with connections.connection(), pytest.raises(BadValueError, match="which is in use"):
            connections.take(0)
        with connections.connection(0) as again:  # the slot is free
            assert again is one


def test_a_connection_without_a_truth_value_is_kept(server: EchoServer) -> None:
    class Empty(EchoClient):
        def __bool__(self) -> bool:
            return False

    with ThriftSet(FixedSet([server.endpoint]), Empty) as connections:
        for _ in range(3):
            with connections.connection() as client:
                assert client.echo("hello") == "hello"
    assert server.opened == 1


def test_events_are_reported(servers: list[EchoServer], refusing: list[str]) -> None:
    events: Counter[tuple[Event, str]] = Counter()

    def count(event: Event, endpoint: str) -> None:
        events[event, endpoint] += 1

    one, other = servers[0].endpoint, servers[1].endpoint
    watch = FixedSet([one])
    with ThriftSet(watch, EchoClient, on_event=count) as connections:
        with connections.connection(), connections.connection():
            pass
        connections.give_back(connections.take(), is_broken=True)
        assert events == {
            ("requested", ""): 3,
            ("created", one): 2,
            ("released", one): 2,
            ("closed", one): 1,
        }
        watch.set_endpoints([other])
        assert events["closed", one] == 2
        watch.set_endpoints(refusing)
        with pytest.raises(NoConnectionError):
            connections.take()
        assert [events["create_failed", endpoint] for endpoint in refusing] == [1, 1]


def test_a_hook_that_raises_is_logged(server: EchoServer, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Event, endpoint: str) -> None:
        raise RuntimeError(f"{event} {endpoint}")

    with (
        caplog.at_level(logging.ERROR),
        ThriftSet(FixedSet([server.endpoint]), EchoClient, on_event=fail) as connections,
        connections.connection() as client,
    ):
        assert client.echo("hello") == "hello"
    assert "connection_hook_failed connection_event=requested" in caplog.text


def test_changes_are_counted(server: EchoServer) -> None:
    watch = FixedSet()
    with ThriftSet(watch, EchoClient) as connections:
        watch.set_endpoints([server.endpoint])
        assert (connections.event_count, connections.last_event) == (2, watch.last_event)


def test_the_endpoints_of_a_watch_or_of_a_closed_set_cannot_be_set(server: EchoServer) -> None:
    with (
        set_of(server.endpoint) as connections,
        pytest.raises(BadValueError, match="come from a watch or another source"),
    ):
        connections.set_endpoints(["a:1"])
    assert connections.endpoints == (server.endpoint,)
    with ThriftSet(None, EchoClient) as own:
        own.set_endpoints([server.endpoint])
    with pytest.raises(ClosedError, match="its endpoints cannot be replaced"):
        own.set_endpoints(["a:1"])
    assert own.endpoints == (server.endpoint,)


def test_a_drained_endpoint_gets_no_requests_and_keeps_no_connections(servers: list[EchoServer]) -> None:
    class Weighted(Watch):
        def set(self, *weights: float) -> None:
            self._publish(
                Member(f"m{number}", Endpoint(server.host, server.port), weight=weight)
                for number, (server, weight) in enumerate(zip(servers, weights, strict=True))
            )

    watch = Weighted()
    watch.set(1, 1, -1)
    with ThriftSet(watch, EchoClient) as connections:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connections.connection()) for _ in range(4)]
            watch.set(1, 0, -1)
            assert all(client.echo("hello") == "hello" for client in clients)
        eventually(lambda: [server.open for server in servers] == [2, 0, 0])
        for _ in range(4):
            with connections.connection() as client:
                assert client.endpoint == servers[0].endpoint
    wait_for_no_connections(*servers)
