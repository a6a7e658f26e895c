"""ThriftSet with Apache Thrift's sockets and protocol, against real servers."""

import contextlib
from collections import Counter

import pytest
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TTransportException

from tests.support.apache_thrift import ApacheEchoClient, close, connect
from tests.support.thrift import EchoServer, endpoints_of, wait_for_no_connections
from tests.support.waiting import eventually
from zkdns.errors import BadValueError
from zkdns.fixedset import FixedSet
from zkdns.thriftset import NoConnectionError, ThriftSet


def test_its_clients_call_the_servers_and_are_used_again(servers: list[EchoServer]) -> None:
    with ThriftSet(FixedSet(endpoints_of(servers)), connect, close=close) as connections:
        for text in ("hello", "", "ключ") * 5:
            with connections.connection() as client:
                assert client.echo(text) == text
        assert [server.opened for server in servers] == [1, 1, 1]
    wait_for_no_connections(*servers)


def test_its_clients_connect_to_ipv6() -> None:
    with EchoServer("::1") as server, ThriftSet(None, connect, close=close) as connections:
        connections.set_endpoints([server.endpoint])
        with connections.connection() as client:
            assert client.echo("hello") == "hello"


def test_its_clients_without_close_are_reported(server: EchoServer) -> None:
    made = []

    def remembering(host: str, port: int) -> ApacheEchoClient:
        made.append(connect(host, port))
        return made[-1]

    watch = FixedSet([server.endpoint])
    with (
        ThriftSet(watch, remembering) as connections,
        pytest.raises(BadValueError, match="made a ApacheEchoClient, which has no method close"),
        connections.connection(),
    ):
        pass
    close(made[0])


def test_its_sockets_need_no_close_function(server: EchoServer) -> None:
    def opened(host: str, port: int) -> TSocket:
        made = TSocket(host, port)
        made.open()
        return made

    with ThriftSet(FixedSet([server.endpoint]), opened) as connections, connections.connection() as one:
        assert one.isOpen()
    assert not one.isOpen()
    wait_for_no_connections(server)


def test_after_a_failed_connection_another_endpoint_is_tried(server: EchoServer, refusing: list[str]) -> None:
    watch = FixedSet([*refusing, server.endpoint])
    with ThriftSet(watch, connect, close=close) as connections:
        for _ in range(4):
            with connections.connection() as client:
                assert client.echo("hello") == "hello"
        watch.set_endpoints(refusing)
        with pytest.raises(NoConnectionError) as raised, connections.connection():
            pass
        assert {endpoint: type(error) for endpoint, error in raised.value.failures.items()} == dict.fromkeys(
            refusing, TTransportException
        )


def test_a_failed_call_closes_only_its_connection(servers: list[EchoServer]) -> None:
    dying = servers[0]
    with ThriftSet(FixedSet(endpoints_of(servers)), connect, close=close) as connections:
        with contextlib.ExitStack() as stack:
            for _ in servers:
                assert stack.enter_context(connections.connection()).echo("hello") == "hello"
        dying.kill()
        results: Counter[str | None] = Counter()
        for _ in range(6):
            try:
                with connections.connection() as client:
                    results[client.echo("hello")] += 1
            except TTransportException:
                results["failed"] += 1
        assert results == {"hello": 5, "failed": 1}
        eventually(lambda: [server.open for server in servers] == [0, 1, 1])
        assert [server.opened for server in servers] == [1, 1, 1]
