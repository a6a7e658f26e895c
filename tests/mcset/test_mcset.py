"""The memcached set, with real memcached servers where needed."""

import contextlib
import logging
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pymemcache.client.base import Client as PlainClient  # type: ignore[import-untyped]
from pymemcache.client.hash import HashClient  # type: ignore[import-untyped]
from pymemcache.exceptions import MemcacheUnexpectedCloseError  # type: ignore[import-untyped]

from tests.support.memcached import MemcachedServer, memcached_is_missing
from tests.support.waiting import eventually
from zkdns.balance.ring import Ring
from zkdns.errors import BadValueError, ClosedError, NoEndpointsError
from zkdns.fixedset import FixedSet
from zkdns.mcset import Hasher, MCSet
from zkdns.serverset.member import decode_member
from zkdns.serverset.watch import Watch

needs_memcached = pytest.mark.skipif(bool(memcached_is_missing()), reason=memcached_is_missing())

KEYS = [f"user:{i}" for i in range(200)]


@pytest.fixture
def servers() -> Iterator[list[MemcachedServer]]:
    """Three running servers."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(MemcachedServer()) for _ in range(3)]


def endpoints_of(servers: list[MemcachedServer]) -> list[str]:
    return [server.endpoint for server in servers]


@contextlib.contextmanager
def asking(server: MemcachedServer) -> Iterator[Any]:
    """A client of this server alone."""
    client = PlainClient(("127.0.0.1", server.port), timeout=5.0, allow_unicode_keys=True)
    try:
        yield client
    finally:
        client.close()


def contents(servers: list[MemcachedServer], keys: list[str]) -> dict[str, dict[str, bytes]]:
    """The values of these keys on each server, by endpoint."""
    found = {}
    for server in servers:
        with asking(server) as client:
            found[server.endpoint] = client.get_many(keys)
    return found


def wait_for_no_connections(*servers: MemcachedServer) -> None:
    eventually(lambda: [server.connections for server in servers] == [0] * len(servers))


# -- the choice of the server ------------------------------------------------------------------------------


def test_keys_are_picked_as_by_the_ring() -> None:
    endpoints = ["10.0.0.1:11211", "10.0.0.2:11211", "[2001:db8::1]:11211"]
    mcset = MCSet()
    mcset.set_endpoints(endpoints)
    assert mcset.each() == tuple(sorted(endpoints))
    assert [mcset.pick(key) for key in KEYS] == [Ring(endpoints).pick(key) for key in KEYS]
    assert mcset.pick("ключ") == mcset.pick("ключ".encode())


SPELLINGS = {  # as written, and as an endpoint
    "[2001:DB8::1]:11211": "[2001:db8::1]:11211",
    "[2001:db8:0:0::2]:11211": "[2001:db8::2]:11211",
    "[::ffff:10.0.0.3]:11211": "10.0.0.3:11211",
    "cache4.example.:11211": "cache4.example:11211",
    "Cache5.example:11211": "Cache5.example:11211",
    "10.0.0.6:11211": "10.0.0.6:11211",
}


def test_the_ring_has_the_endpoints_as_they_are_written() -> None:
    """go.serversets hashes net.JoinHostPort of the host and port in the znode."""
    ring = Ring(SPELLINGS)
    fed = MCSet(FixedSet(SPELLINGS))
    own = MCSet()
    own.set_endpoints(reversed(SPELLINGS))
    for mcset in (fed, own):
        assert mcset.endpoints == tuple(sorted(SPELLINGS.values()))
        assert [mcset.pick(key) for key in KEYS] == [SPELLINGS[ring.pick(key)] for key in KEYS]


def test_the_ring_of_a_watch_has_the_hosts_of_the_znodes() -> None:
    """A host in brackets in the znode has two pairs in Go, so Go cannot connect to it, but has its points."""
    hosts = {
        "2001:DB8::1": ("[2001:DB8::1]:80", "[2001:db8::1]:80"),
        "[2001:db8::2]": ("[[2001:db8::2]]:80", "[2001:db8::2]:80"),
        "::ffff:10.0.0.3": ("[::ffff:10.0.0.3]:80", "10.0.0.3:80"),
        "10.0.0.4": ("10.0.0.4:80", "10.0.0.4:80"),
        "db.example.": ("db.example.:80", "db.example:80"),
    }

    class Znodes(Watch):
        def publish(self, *hosts: str, extra: str = "") -> None:
            self._publish(
                decode_member(
                    f"member_{number:010}",
                    b'{"serviceEndpoint":{"host":"%s","port":80},"additionalEndpoints":{},"status":"ALIVE"%s}'
                    % (host.encode(), extra.encode()),
                )
                for number, host in enumerate(hosts)
            )

    watch = Znodes()
    mcset = MCSet(watch)
    endpoint_of = dict(hosts.values())
    ring = Ring(endpoint_of)
    for extra in ("", ',"unknown":1'):  # which the fast and the tolerant decoder read
        watch.publish(*hosts, extra=extra)
        assert mcset.endpoints == tuple(sorted(endpoint_of.values()))
        assert [mcset.pick(key) for key in KEYS] == [endpoint_of[ring.pick(key)] for key in KEYS]
    # Two spellings of one address are two servers in Go. Here they are one endpoint with the points of both.
    watch.publish("2001:DB8::1", "2001:db8::1", "10.0.0.4")
    ring = Ring(["[2001:DB8::1]:80", "[2001:db8::1]:80", "10.0.0.4:80"])
    assert mcset.endpoints == ("10.0.0.4:80", "[2001:db8::1]:80")
    assert [mcset.pick(key) for key in KEYS] == [ring.pick(key).lower() for key in KEYS]
    # A change of the spelling alone moves keys.
    watch.publish("2001:db8::1", "10.0.0.4")
    ring = Ring(["[2001:db8::1]:80", "10.0.0.4:80"])
    assert [mcset.pick(key) for key in KEYS] == [ring.pick(key) for key in KEYS]


def test_a_source_without_members_is_hashed_as_it_spells_its_endpoints() -> None:
    class Source:
        endpoints = ("10.0.0.1:1", "[2001:DB8::1]:1")
        is_closed = False

        def subscribe(self, on_change: Callable[[], None]) -> Callable[[], None]:
            return on_change

    mcset = MCSet(Source())
    assert [mcset.pick(key) for key in KEYS] == [Ring(Source.endpoints).pick(key) for key in KEYS]
    assert (mcset.members, mcset.event_count, mcset.last_event) == (None, None, None)


def test_moved_keys_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    watch = FixedSet(["a:1", "b:1"])
    mcset = MCSet(watch)
    with caplog.at_level(logging.INFO, "zkdns.mcset"):
        mcset.pick("key")  # the first set moves nothing
        watch.set_endpoints(["b:1", "c:1", "d:1"])
        mcset.pick("key")
        mcset.pick("key")
    (record,) = caplog.records
    assert record.getMessage() == "zkdns: memcached_keys_moved servers=3 joined='c:1 d:1' left=a:1"


def test_a_set_follows_its_watch_and_keeps_the_last_servers_of_a_closed_one() -> None:
    watch = FixedSet(["a:1", "b:1"])
    mcset = MCSet(watch)
    assert {mcset.pick(key) for key in KEYS} == {"a:1", "b:1"}
    watch.set_endpoints(["b:1", "c:1"])
    assert mcset.each() == ("b:1", "c:1")
    assert {mcset.pick(key) for key in KEYS} == {"b:1", "c:1"}
    watch.set_endpoints([])
    with pytest.raises(NoEndpointsError):
        mcset.pick("key")
    watch.set_endpoints(["d:1"])
    watch.close()
    assert mcset.pick("key") == "d:1"


def test_the_endpoints_of_a_watch_cannot_be_set() -> None:
    mcset = MCSet(FixedSet(["a:1", "b:1"]))
    with pytest.raises(BadValueError, match="come from a watch or another source"):
        mcset.set_endpoints(["c:1"])
    assert mcset.endpoints == ("a:1", "b:1")


def test_an_empty_set_is_an_error() -> None:
    with pytest.raises(NoEndpointsError, match="the set is empty"):
        MCSet().pick("key")
    with MCSet(FixedSet()).client() as client, pytest.raises(NoEndpointsError):
        client.get("key")


def test_an_invalid_endpoint_is_rejected_and_changes_nothing() -> None:
    mcset = MCSet()
    mcset.set_endpoints(["a:1"])
    with pytest.raises(BadValueError, match="'b' has no port"):
        mcset.set_endpoints(["c:1", "b"])
    assert mcset.each() == ("a:1",)


# -- the client --------------------------------------------------------------------------------------------


@needs_memcached
def test_every_key_is_on_the_picked_server(servers: list[MemcachedServer]) -> None:
    mcset = MCSet(FixedSet(endpoints_of(servers)))
    with mcset.client() as client:
        for key in KEYS:
            assert client.set(key, key.upper()) is True
        assert {key: client.get(key) for key in KEYS} == {key: key.upper().encode() for key in KEYS}
    found = contents(servers, KEYS)
    assert all(found.values())  # each has some
    assert {key: endpoint for endpoint, values in found.items() for key in values} == {
        key: mcset.pick(key) for key in KEYS
    }


@needs_memcached
def test_all_commands_go_to_the_server_of_the_key(servers: list[MemcachedServer]) -> None:
    mcset = MCSet(FixedSet(endpoints_of(servers)))
    with mcset.client() as client:
        for key in KEYS[:20]:
            assert client.get(key) is None
            assert client.get(key, b"-") == b"-"
            assert client.gets(key) == (None, None)
            assert client.replace(key, b"0") is False
            assert client.add(key, b"5") is True
            assert client.add(key, b"6") is False
            assert client.append(key, b"0") is True
            assert client.prepend(key, b"1") is True
            assert client.incr(key, 3) == 153
            assert client.decr(key, 53) == 100
            value, token = client.gets(key)
            assert value == b"100"
            assert client.cas(key, b"seven", token) is True
            assert client.cas(key, b"eight", token) is False
            assert client.replace(key, b"nine") is True
            assert client.touch(key, 100) is True
            assert client.get(key) == b"nine"
            assert client.delete(key) is True
            assert client.delete(key) is False
            assert client.cas(key, b"ten", token) is None
            assert client.incr(key, 1) is None


@needs_memcached
def test_many_keys_are_grouped_by_server(servers: list[MemcachedServer]) -> None:
    mcset = MCSet(FixedSet(endpoints_of(servers)))
    values = {key: key.upper().encode() for key in KEYS}
    with mcset.client() as client:
        assert client.set_many(values) == []
        assert client.get_many([*KEYS, "absent"]) == values
        assert {key: value for key, (value, _) in client.gets_many(KEYS).items()} == values
        by_server = contents(servers, KEYS)
        assert sum(map(len, by_server.values())) == len(KEYS)  # each in one place
        assert all(mcset.pick(key) == endpoint for endpoint, own in by_server.items() for key in own)
        assert client.delete_many(KEYS[:100]) is True
        assert client.get_many(KEYS) == {key: values[key] for key in KEYS[100:]}
        client.flush_all()
        assert client.get_many(KEYS) == {}
        assert client.get_many([]) == {}
        assert client.set_many({}) == []


@needs_memcached
def test_keys_may_be_any_utf8_or_bytes(servers: list[MemcachedServer]) -> None:
    mcset = MCSet(FixedSet(endpoints_of(servers)))
    with mcset.client() as client:
        for key in ("ключ", "鍵", b"bytes", b"\xff\xfe"):
            client.set(key, b"here")
            assert client.get(key if isinstance(key, bytes) else key.encode()) == b"here"
            home = next(server for server in servers if server.endpoint == mcset.pick(key))
            with asking(home) as alone:
                assert alone.get(key) == b"here"


@needs_memcached
def test_a_key_prefix_counts_when_a_server_is_picked(servers: list[MemcachedServer]) -> None:
    mcset = MCSet(FixedSet(endpoints_of(servers)))
    for prefix in ("app:", b"app:"):
        with mcset.client(key_prefix=prefix) as prefixed, mcset.client() as whole:
            for key in KEYS[:50]:
                prefixed.set(key, prefix)
                assert whole.get(f"app:{key}") == b"app:"
            assert len(prefixed.get_many(KEYS[:50])) == 50


@needs_memcached
def test_servers_join_and_leave_with_the_watch(servers: list[MemcachedServer]) -> None:
    watch = FixedSet(endpoints_of(servers[:2]))
    mcset = MCSet(watch)
    with mcset.client() as client:
        client.set_many(dict.fromkeys(KEYS, b"old"))
        assert not contents(servers[2:], KEYS)[servers[2].endpoint]

        watch.set_endpoints(endpoints_of(servers))
        moved = [key for key in KEYS if mcset.pick(key) == servers[2].endpoint]
        assert sorted(client.get_many(KEYS)) == sorted(set(KEYS) - set(moved))
        client.set_many(dict.fromkeys(moved, b"new"))
        assert sorted(contents(servers[2:], KEYS)[servers[2].endpoint]) == sorted(moved)

        watch.set_endpoints(endpoints_of(servers[:2]))
        assert set(client.get_many(KEYS).values()) == {b"old"}
        wait_for_no_connections(servers[2])


@needs_memcached
def test_a_command_in_flight_to_a_server_that_leaves_is_finished(servers: list[MemcachedServer]) -> None:
    leaver = servers[0]
    watch = FixedSet([leaver.endpoint])
    answers: list[object] = []
    sent = threading.Event()

    class ReportingSocket(socket.socket):
        """A socket that reports that it has sent something."""

        def sendall(self, *arguments: Any) -> None:
            super().sendall(*arguments)
            sent.set()

    sockets = SimpleNamespace(**{**vars(socket), "socket": ReportingSocket})
    mcset = MCSet(watch)
    with mcset.client(timeout=30.0, socket_module=sockets) as client:
        client.set("key", b"value")
        leaver.pause()
        sent.clear()
        thread = threading.Thread(target=lambda: answers.append(client.get("key")))
        thread.start()
        assert sent.wait(10.0)
        watch.set_endpoints(endpoints_of(servers[1:]))
        client.set("key", b"elsewhere")  # the client notices the change
        assert not answers
        leaver.resume()
        thread.join(10.0)
        assert answers == [b"value"]
        wait_for_no_connections(leaver)


@needs_memcached
def test_keys_of_a_server_that_is_down_fail_and_do_not_move(servers: list[MemcachedServer]) -> None:
    watch = FixedSet(endpoints_of(servers))
    mcset = MCSet(watch)
    with mcset.client() as client:
        client.set_many(dict.fromkeys(KEYS, b"1"))
        servers[0].kill()
        lost = [key for key in KEYS if mcset.pick(key) == servers[0].endpoint]
        for key in lost[:5] * 3:
            with pytest.raises((OSError, MemcacheUnexpectedCloseError)):
                client.get(key)
            with pytest.raises(ConnectionRefusedError):
                client.set(key, b"2")
        kept = sorted(set(KEYS) - set(lost))
        assert sorted(client.get_many(kept)) == kept
        assert sorted(client.get_many(KEYS)) == kept
        with pytest.raises(ConnectionRefusedError):
            client.get_many(lost)

        watch.set_endpoints(endpoints_of(servers[1:]))
        for key in lost:
            assert client.set(key, b"3") is True
        assert len(client.get_many(KEYS)) == len(KEYS)


@needs_memcached
def test_a_silent_server_fails_at_the_timeout(servers: list[MemcachedServer]) -> None:
    with MCSet(FixedSet([servers[0].endpoint])).client() as client:
        client.set("key", b"value", noreply=False)
        servers[0].pause()
        with pytest.raises(TimeoutError):
            client.get("key")
        servers[0].resume()
        assert client.get("key") == b"value"  # on a connection of its own, so that it reads no late response


@needs_memcached
def test_threads_use_one_client_while_servers_change(servers: list[MemcachedServer]) -> None:
    everyone = endpoints_of(servers)
    watch = FixedSet(everyone)
    errors: list[object] = []
    rounds: Counter[str] = Counter()
    done = threading.Event()

    def work(name: str) -> None:
        try:
            while not done.is_set():
                rounds[name] += 1
                for key in KEYS[:20]:
                    client.set(f"{name}:{key}", key)
                    value = client.get(f"{name}:{key}")
                    if value not in {key.encode(), None}:  # None: it moved in between
                        errors.append((key, value))
        except Exception as error:  # noqa: BLE001 - no exception may occur
            errors.append(error)

    mcset = MCSet(watch)
    with mcset.client(timeout=10.0) as client:
        threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for turn in range(60):
            watch.set_endpoints(everyone[: 1 + turn % 3])
            enough = sum(rounds.values()) + 2
            eventually(lambda: errors or sum(rounds.values()) >= enough)  # noqa: B023 - called here only
        done.set()
        for thread in threads:
            thread.join(10.0)
    assert errors == []
    wait_for_no_connections(*servers)


@needs_memcached
def test_a_closed_client_has_no_connections_and_raises(servers: list[MemcachedServer]) -> None:
    client = MCSet(FixedSet(endpoints_of(servers))).client()
    client.set_many(dict.fromkeys(KEYS, b""))
    client.close()
    client.close()
    wait_for_no_connections(*servers)
    with pytest.raises(ClosedError, match="memcached client is closed"):
        client.get("key")


def test_an_option_unknown_to_pymemcache_is_rejected_at_once() -> None:
    with pytest.raises(TypeError, match="max_pools"):
        MCSet().client(max_pools=3)


# -- HashClient --------------------------------------------------------------------------------------------


@needs_memcached
def test_a_hash_client_with_our_hasher_agrees(servers: list[MemcachedServer]) -> None:
    mcset = MCSet(FixedSet(endpoints_of(servers)))
    theirs = HashClient(endpoints_of(servers), hasher=Hasher, default_noreply=False)
    with mcset.client() as ours, contextlib.closing(theirs):
        for key in KEYS:
            theirs.set(key, key)
            assert ours.get(key) == key.encode()


def test_the_hasher_accepts_the_hash_clients_ipv6_names() -> None:
    endpoints = ["[2001:db8::1]:11211", "[2001:db8::2]:11211", "10.0.0.1:11211", "/run/memcached.sock"]
    client = HashClient(endpoints, hasher=Hasher)
    names = dict(zip(endpoints, client.clients, strict=True))
    assert names["[2001:db8::1]:11211"] == "2001:db8::1:11211"
    for key in KEYS:
        assert client.hasher.get_node(key) == names[Ring(endpoints).pick(key)]


def test_the_hasher_removes_nodes_and_may_be_empty() -> None:
    hasher = Hasher()
    assert hasher.get_node("key") is None
    hasher.add_node("a:1")
    assert {hasher.get_node(key) for key in KEYS} == {"a:1"}
    hasher.add_node("b:1")
    assert {hasher.get_node(key) for key in KEYS} == {"a:1", "b:1"}
    hasher.remove_node("a:1")
    assert {hasher.get_node(key) for key in KEYS} == {"b:1"}
    with pytest.raises(BadValueError, match="'a:1' is not one of the nodes, which are b:1"):
        hasher.remove_node("a:1")
    hasher.remove_node("b:1")
    assert hasher.get_node("key") is None


# -- without the packages ----------------------------------------------------------------------------------


def test_picking_needs_no_pymemcache_but_the_client_does() -> None:
    script = (
        "import sys; sys.modules['pymemcache'] = None\n"
        "from zkdns.mcset import MCSet\n"
        "mcset = MCSet(); mcset.set_endpoints(['a:1']); print(mcset.pick('key'))\n"
        "mcset.client()\n"
    )
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert outcome.stdout == "a:1\n"
    assert outcome.stderr.splitlines()[-1].endswith(
        "MissingExtraError: zkdns.mcset needs pymemcache: pip install 'zkdns[memcache]'"
    )


def test_the_module_loads_neither_zookeeper_nor_dns() -> None:
    script = (
        "import sys, zkdns.mcset\n"
        "print(*(name for name in sys.modules if name.startswith(('kazoo', 'dns', 'zkdns.dns'))))"
    )
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert outcome.stdout == "\n", outcome.stderr
