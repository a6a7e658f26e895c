"""Every way in which a memcached server fails, with small servers that fail so: no failure is a success."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymemcache.exceptions import (  # type: ignore[import-untyped]
    MemcacheError,
    MemcacheIllegalInputError,
    MemcacheUnexpectedCloseError,
    MemcacheUnknownError,
)

from tests.support.memcached import MemcachedServer, memcached_is_missing
from tests.support.scripted import (
    Script,
    ScriptedServer,
    closing,
    receive,
    replying,
    resetting,
    silent_script,
)
from tests.support.waiting import eventually
from tests.support.web import refusing, silent
from zkdns.errors import BadValueError, NoEndpointsError
from zkdns.fixedset import FixedSet
from zkdns.mcset import BadKeyError, Client, MCSet

needs_memcached = pytest.mark.skipif(bool(memcached_is_missing()), reason=memcached_is_missing())

SHORT, LONG = 0.3, 20.0  # timeouts of commands to servers that never reply, and to all others
Endpoint = Callable[[], contextlib.AbstractContextManager[str]]


def scripted(script: Script) -> Endpoint:
    @contextlib.contextmanager
    def run() -> Iterator[str]:
        with ScriptedServer(script) as server:
            yield server.endpoint

    return run


def half_a_line(connection: socket.socket) -> None:
    receive(connection)
    connection.sendall(b"STOR")
    silent_script(connection)


# A server that closes a connection with unread bytes resets it.
CLOSED = (MemcacheUnexpectedCloseError, ConnectionResetError)
FAILURES: dict[str, tuple[Endpoint, type[Exception] | tuple[type[Exception], ...]]] = {
    "refuses connections": (refusing, ConnectionRefusedError),
    "drops connection attempts": (silent, TimeoutError),
    "accepts and is silent": (scripted(silent_script), TimeoutError),
    "resets after the command": (scripted(resetting), ConnectionResetError),
    "closes after the command": (scripted(closing), CLOSED),
    "sends half a line": (scripted(replying(b"VALUE us")), CLOSED),
    "sends half a reply": (scripted(replying(b"NOT_")), CLOSED),
    "sends half a line and is silent": (
        scripted(half_a_line),
        TimeoutError,
    ),
    "sends garbage": (scripted(replying(b"\xff\x00\xfe\r\n" * 3)), MemcacheUnknownError),
    "sends a line of HTTP": (scripted(replying(b"HTTP/1.1 400 Bad Request\r\n\r\n")), MemcacheUnknownError),
    "sends an error": (scripted(replying(b"SERVER_ERROR out of memory\r\n")), MemcacheError),
}  # fmt: skip
READS = {
    "sends half a value": b"VALUE user:1 0 9\r\nhal",
    "sends a value without a length": b"VALUE user:1 0\r\nabc\r\nEND\r\n",
    "sends a value with a negative length": b"VALUE user:1 0 -3\r\nabc\r\nEND\r\n",
    "sends the value of another key": b"VALUE other 0 3\r\nabc\r\nEND\r\n",
    "sends a CAS token that nobody asked for": b"VALUE user:1 0 3 9\r\nabc\r\nEND\r\n",
}


def sockets_with(endpoint: str, expected: object) -> Any:
    """A socket module with the short timeout for a server that never replies, and the long one for others."""

    class Socket(socket.socket):
        def connect(self, address: Any) -> None:
            never_replies = expected is TimeoutError and endpoint == f"{address[0]}:{address[1]}"
            super().settimeout(SHORT if never_replies else LONG)
            super().connect(address)

        def settimeout(self, _: object) -> None:
            """Keep the timeout of `connect`."""

    return type("sockets", (), {**vars(socket), "socket": Socket})


def client_of(endpoint: str, expected: object = None, **options: Any) -> Client:
    """A client of one server, which fails as expected."""
    options = {"socket_module": sockets_with(endpoint, expected), **options}
    return MCSet(FixedSet([endpoint])).client(**options)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_command_to_a_failing_server_raises_in_time(failure: str) -> None:
    make, expected = FAILURES[failure]
    commands: dict[str, Callable[[Client], object]] = {
        "get": lambda client: client.get("user:1"),
        "gets": lambda client: client.gets("user:1"),
        "set": lambda client: client.set("user:1", b"value"),
        "add": lambda client: client.add("user:1", b"value"),
        "cas": lambda client: client.cas("user:1", b"value", b"1"),
        "delete": lambda client: client.delete("user:1"),
        "touch": lambda client: client.touch("user:1"),
        "incr": lambda client: client.incr("user:1", 1),
        "get_many": lambda client: client.get_many(["user:1"]),
        "set_many": lambda client: client.set_many({"user:1": b"value"}),
        "delete_many": lambda client: client.delete_many(["user:1"]),
        "flush_all": lambda client: client.flush_all(),
    }
    outcomes = {}
    with make() as endpoint, client_of(endpoint, expected) as client:
        begun = time.monotonic()
        for name, run in commands.items():
            try:
                outcomes[name] = repr(run(client))
            except expected:
                continue
            except Exception as error:  # noqa: BLE001 - reported below
                outcomes[name] = repr(error)
        assert time.monotonic() - begun < 20  # far above the sum of the timeouts, far below "for ever"
    assert outcomes == {}


@pytest.mark.parametrize("failure", READS)
def test_a_malformed_value_is_an_error(failure: str) -> None:
    with ScriptedServer(replying(READS[failure])) as server, client_of(server.endpoint) as client:
        expected = CLOSED if failure == "sends half a value" else MemcacheUnknownError
        with pytest.raises(expected):
            client.get("user:1")
        with pytest.raises(expected):
            client.get_many(["user:1"])


@pytest.mark.parametrize("failure", FAILURES)
def test_with_ignore_exc_a_failure_is_a_miss_for_reads_only(failure: str) -> None:
    make, expected = FAILURES[failure]
    with make() as endpoint, client_of(endpoint, expected, ignore_exc=True) as client:
        assert client.get("user:1") is None
        assert client.get("user:1", b"-") == b"-"
        assert client.gets("user:1") == (None, None)
        assert client.get_many(["user:1"]) == {}
        assert client.gets_many(["user:1"]) == {}
        with pytest.raises(expected):
            client.set("user:1", b"value")


@needs_memcached
@pytest.mark.parametrize("failure", FAILURES)
def test_commands_for_many_keys_use_the_living_servers(failure: str) -> None:
    make, expected = FAILURES[failure]
    keys = [f"user:{number}" for number in range(40)]
    with make() as failing, MemcachedServer() as living:
        mcset = MCSet(FixedSet([failing, living.endpoint]))
        lost = [key for key in keys if mcset.pick(key) == failing]
        kept = [key for key in keys if key not in lost]
        with mcset.client(socket_module=sockets_with(failing, expected)) as client:
            assert sorted(client.set_many(dict.fromkeys(keys, b"value"))) == sorted(lost)
            assert client.get_many(keys) == dict.fromkeys(kept, b"value")
            assert sorted(client.gets_many(keys)) == sorted(kept)
            with pytest.raises((OSError, MemcacheError)):
                client.delete_many(keys)
            assert client.get_many(kept) == {}
            client.set(kept[0], b"value")
            with pytest.raises((OSError, MemcacheError)):
                client.flush_all()
            assert client.get(kept[0]) is None


@needs_memcached
def test_a_set_to_a_dead_server_is_never_true() -> None:
    with MemcachedServer() as server, client_of(server.endpoint) as client:
        assert client.set("key", b"1") is True
        server.kill()  # its connection in the pool is now closed
        for _ in range(3):
            with pytest.raises((OSError, MemcacheUnexpectedCloseError)):
                client.set("key", b"2")


@needs_memcached
def test_without_a_reply_the_result_is_not_known() -> None:
    with MemcachedServer() as server, client_of(server.endpoint) as client:
        assert client.set("key", b"1", noreply=True) is None
        assert client.get("key") == b"1"  # on the same connection, so it was stored before
        assert client.touch("key", 9, noreply=True) is None
        assert client.delete("key", noreply=True) is None
        assert client.delete_many(["key"], noreply=True) is None
        with client_of(server.endpoint, default_noreply=True) as unconfirmed:
            assert unconfirmed.set("key", b"2") is None
            assert unconfirmed.set("key", b"3", noreply=False) is True
            assert unconfirmed.cas("key", b"4", b"0") is False


def memcached_script(connection: socket.socket) -> None:
    """A server with one value."""
    while True:
        data = receive(connection)
        connection.sendall(b"STORED\r\n" if data.startswith(b"set") else b"VALUE key 0 1\r\n7\r\nEND\r\n")


def test_a_connection_closed_while_idle_is_replaced() -> None:
    one_reply = replying(b"VALUE key 0 1\r\n7\r\nEND\r\n")
    with ScriptedServer(one_reply) as server, client_of(server.endpoint) as client:
        for count in range(1, 6):
            assert client.get("key") == b"7"
            assert server.accepted == count
            eventually(lambda: server.ended == count)  # noqa: B023 - called here only


def test_a_reply_that_nobody_waits_for_is_never_read() -> None:
    go_on, sent = threading.Event(), threading.Event()

    def late(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(b"VALUE key 0 3\r\nold\r\nEND\r\n")
        go_on.wait(20)
        connection.sendall(b"VALUE key 0 5\r\nstale\r\nEND\r\n")
        sent.set()
        server.done.wait(20)

    with ScriptedServer(late) as server, client_of(server.endpoint) as client:
        assert client.get("key") == b"old"
        server.script = memcached_script
        go_on.set()
        assert sent.wait(20)
        assert client.get("key") == b"7"


def test_a_slow_server_is_waited_for_within_the_timeout() -> None:
    def slow(connection: socket.socket) -> None:
        while True:
            receive(connection)
            server.done.wait(0.1)
            connection.sendall(b"VALUE key 0 1\r\n7\r\nEND\r\n")

    with (
        ScriptedServer(slow) as server,
        MCSet(FixedSet([server.endpoint])).client(timeout=20.0) as client,
    ):
        assert client.get("key") == b"7"
        assert client.get_many(["key"]) == {"key": b"7"}


def test_after_a_failure_the_next_command_uses_a_new_connection() -> None:
    for script in (resetting, closing, replying(b"garbage\r\n")):
        with ScriptedServer(script) as server, client_of(server.endpoint) as client:
            with pytest.raises((OSError, MemcacheError)):
                client.get("key")
            server.script = memcached_script
            assert client.get("key") == b"7"
            assert client.set("key", b"1") is True


@pytest.mark.parametrize(
    "key",
    ["", b"", " ", "two words", "a\nb", "a\r\nflush_all", "\x00", "tab\t", "\x7f", "k" * 251, "ключ" * 40],
)
def test_an_invalid_key_raises_before_anything_is_sent(key: str | bytes) -> None:
    with ScriptedServer(memcached_script) as server, client_of(server.endpoint, ignore_exc=True) as client:
        for run in (
            lambda: client.get(key),
            lambda: client.gets(key),
            lambda: client.set(key, b"1", noreply=True),
            lambda: client.delete(key),
            lambda: client.incr(key, 1),
            lambda: client.get_many(["good", key]),
            lambda: client.set_many({"good": b"", key: b""}),
            lambda: client.delete_many([key]),
        ):
            with pytest.raises(BadKeyError, match=r"a key has 1 to 250 bytes, without spaces"):
                run()
        assert server.accepted == 0
    assert issubclass(BadKeyError, BadValueError)
    assert issubclass(BadKeyError, MemcacheIllegalInputError)


def test_the_prefix_counts_for_the_length_of_a_key() -> None:
    with ScriptedServer(memcached_script) as server, client_of(server.endpoint, key_prefix=b"app:") as client:
        assert client.set("k" * 246, b"1") is True
        for key in ("k" * 247, ""):
            with pytest.raises(BadKeyError):
                client.set(key, b"1")


@pytest.mark.parametrize("key", [7, None, ["a"], 1.5])
def test_a_key_of_another_type_raises(key: Any) -> None:
    mcset = MCSet(FixedSet(["a:1"]))
    with pytest.raises(BadValueError, match=r"a key is str or bytes"):
        mcset.pick(key)
    with mcset.client() as client, pytest.raises(BadValueError, match=r"a key is str or bytes"):
        client.get(key)


def test_reads_from_an_empty_set_are_misses_only_with_ignore_exc() -> None:
    mcset = MCSet()
    with mcset.client(ignore_exc=True) as client:
        assert client.get("key") is None
        assert client.get("key", 5) == 5
        assert client.gets("key") == (None, None)
        assert client.get_many(["key"]) == {}
        assert client.gets_many(["key"]) == {}
        for run in (lambda: client.set("key", b"1"), lambda: client.set_many({"key": b"1"})):
            with pytest.raises(NoEndpointsError):
                run()
    with mcset.client() as client, pytest.raises(NoEndpointsError):
        client.get_many(["key"])


def test_a_failing_server_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedServer(closing) as server, client_of(server.endpoint, ignore_exc=True) as client:
        with caplog.at_level(logging.INFO, "zkdns.mcset"):
            for _ in range(3):
                client.get("key")
            server.script = memcached_script
            for _ in range(3):
                client.get("key")
        events = [record.getMessage().split()[1] for record in caplog.records]
        assert events == ["memcached_server_failed", "memcached_server_recovered"]
        assert f"server={server.endpoint}" in caplog.text


def test_a_connection_that_cannot_be_polled_is_replaced() -> None:
    """A socket module of another library may have closed the socket by itself."""
    made: list[socket.socket] = []

    class RememberedSocket(socket.socket):
        def connect(self, address: Any) -> None:
            made.append(self)
            super().connect(address)

    module = type("sockets", (), {**vars(socket), "socket": RememberedSocket})
    with (
        ScriptedServer(memcached_script) as server,
        client_of(server.endpoint, socket_module=module) as client,
    ):
        assert client.get("key") == b"7"
        made[0].close()
        assert client.get("key") == b"7"
        assert server.accepted == 2
