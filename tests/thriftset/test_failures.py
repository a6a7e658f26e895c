"""Every way in which a Thrift server fails: the call raises in time, and its connection is not used again."""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import thriftpy2.rpc

from tests.support.scripted import (
    Script,
    ScriptedServer,
    closing,
    receive,
    replying,
    resetting,
    silent_script,
)
from tests.support.thrift import EchoClient, EchoServer, echo_thrift
from tests.support.waiting import eventually
from tests.support.web import refusing, silent
from zkdns.address import parse_host_port
from zkdns.fixedset import FixedSet
from zkdns.thriftset import NoConnectionError, ThriftSet

FAILED: type[Exception] = Exception  # any: the Thrift library of the caller decides


def connecting(failing: str) -> Callable[[str, int], Any]:
    """Makes clients that send nothing when they connect, with a short timeout for the failing endpoint."""

    def connect(host: str, port: int) -> Any:
        milliseconds = 300 if f"{host}:{port}" == failing else 20_000
        return thriftpy2.rpc.make_client(echo_thrift.Echo, host, port, timeout=milliseconds)

    return connect


def half_a_reply(connection: socket.socket) -> None:
    """The begin of a reply to `echo`: version, name, a length of a string that does not follow."""
    receive(connection)
    connection.sendall(struct.pack("!IIs", 0x80010002, 4, b"e"))


FAILURES: dict[str, Script] = {
    "accepts and is silent": silent_script,
    "resets after the call": resetting,
    "closes after the call": closing,
    "sends half a reply": half_a_reply,
    "sends garbage": replying(b"\xff\xfe\xfd\xfc" * 8),
    "sends a negative length": replying(struct.pack("!II", 0x80010002, 0xFFFFFFF0)),
    "speaks HTTP": replying(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
}


@pytest.fixture
def living() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_call_raises_in_time_and_its_connection_is_closed(failure: str, living: EchoServer) -> None:
    with ScriptedServer(FAILURES[failure]) as server:
        watch = FixedSet([server.endpoint])
        with ThriftSet(watch, connecting(server.endpoint), max_active=1) as connections:
            for count in range(1, 4):
                begun = time.monotonic()
                with pytest.raises(FAILED), connections.connection(0) as client:
                    client.echo("hello")
                assert time.monotonic() - begun < 10
                assert server.accepted == count  # a new connection each time
            eventually(lambda: server.ended == 3)
            watch.set_endpoints([living.endpoint])
            with connections.connection(0) as client:
                assert client.echo("hello") == "hello"


@pytest.mark.parametrize("kind", [refusing, silent])
def test_another_endpoint_is_used_if_one_cannot_be_connected_to(kind: Any, living: EchoServer) -> None:
    with kind() as nobody, ThriftSet(FixedSet([nobody, living.endpoint]), connecting(nobody)) as connections:
        for _ in range(3):
            with connections.connection() as client:
                assert client.echo("hello") == "hello"
    with kind() as nobody, ThriftSet(FixedSet([nobody]), connecting(nobody)) as connections:
        begun = time.monotonic()
        with pytest.raises(NoConnectionError) as raised:
            connections.take()
        assert time.monotonic() - begun < 10
        assert list(raised.value.failures) == [nobody]


def test_a_slow_server_is_waited_for_within_the_timeout(living: EchoServer) -> None:
    """Between the client and the server, a proxy passes single bytes."""
    address = parse_host_port(living.endpoint)

    def slow(connection: socket.socket) -> None:
        with socket.create_connection((address.host, address.port)) as upstream:
            while True:
                upstream.sendall(receive(connection))
                for byte in receive(upstream):
                    proxy.done.wait(0.005)
                    connection.sendall(bytes([byte]))

    with (
        ScriptedServer(slow) as proxy,
        ThriftSet(FixedSet([proxy.endpoint]), EchoClient) as connections,
        connections.connection() as client,
    ):
        assert client.echo("hello") == "hello"


def test_a_connection_closed_while_idle_fails_once(living: EchoServer) -> None:
    with ThriftSet(FixedSet([living.endpoint]), EchoClient) as connections:
        with connections.connection() as first:
            pass
        living.disconnect()
        assert first.sock.fileno() > 0  # the client has not noticed
        with pytest.raises(FAILED), connections.connection() as client:
            client.echo("hello")
        with connections.connection() as client:
            assert client.echo("hello") == "hello"


def test_an_interrupted_check_closes_the_connection(living: EchoServer) -> None:
    def is_usable(_: EchoClient) -> bool:
        raise KeyboardInterrupt

    with ThriftSet(FixedSet([living.endpoint]), EchoClient, is_usable=is_usable, max_active=1) as connections:
        with connections.connection():
            pass
        with pytest.raises(KeyboardInterrupt):
            connections.take(0)
        eventually(lambda: living.open == 0)
        with connections.connection(0) as client:
            assert client.echo("hello") == "hello"


def test_a_check_replaces_connections_closed_while_idle(living: EchoServer) -> None:
    def is_usable(client: EchoClient) -> bool:
        """Whether there is nothing to read, not even the end."""
        if client is raising:
            raise OSError("cannot be checked")
        sock = client.sock
        sock.setblocking(False)
        try:
            sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            sock.settimeout(10.0)
        return False

    raising = None
    with ThriftSet(FixedSet([living.endpoint]), EchoClient, is_usable=is_usable) as connections:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connections.connection()) for _ in range(3)]
        living.disconnect()
        with connections.connection() as client:
            assert client not in clients
            assert client.echo("hello") == "hello"
        with connections.connection() as again:  # it is usable
            assert again is client
        raising = client
        with connections.connection() as client:
            assert client is not raising
            assert client.echo("hello") == "hello"
        eventually(lambda: living.open == 1)
