"""Binding sockets, and the error messages if that fails."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.loopback import paired_sockets
from tests.support.network import ip, new_network, wait_until_up
from tests.support.waiting import eventually
from zkdns.address import HostPort
from zkdns.errors import ListenError
from zkdns.transport.sockets import (
    SocketPair,
    allow_sharing,
    bind,
    bind_additional,
    bound_address,
    direct_traffic,
    is_wildcard,
)

LOOPBACK = HostPort("127.0.0.1", 0)


@contextlib.contextmanager
def bound(address: HostPort, workers: int = 1) -> Iterator[list[SocketPair]]:
    pairs = bind(address, workers)
    try:
        yield pairs
    finally:
        for pair in pairs:
            pair.close()


def taken(kind: socket.SocketKind, host: str = "127.0.0.1") -> socket.socket:
    """A foreign socket with a port that is free for the other protocol.

    After many connections, a port that is free for UDP may be in TIME_WAIT for TCP.
    """
    udp, tcp = paired_sockets(host=host)
    if kind == socket.SOCK_DGRAM:
        tcp.close()
        return udp
    udp.close()
    tcp.listen()
    return tcp


def refusal(address: HostPort, workers: int = 1) -> str:
    with pytest.raises(ListenError) as caught:
        bind(address, workers)
    return str(caught.value)


def can_be_bound(address: HostPort, workers: int = 1) -> bool:
    """Whether an address can be bound; retry, since any program may use a port for a moment."""
    with bound(address, workers) as pairs:
        return bound_address(pairs[0]) == address


# -- one port, two protocols ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "0.0.0.0", "::"])
@pytest.mark.parametrize("workers", [1, 3])
def test_port_0_gives_udp_and_tcp_of_every_worker_the_same_port(host: str, workers: int) -> None:
    with bound(HostPort(host, 0), workers) as pairs:
        ports = {sock.getsockname()[1] for pair in pairs for sock in (pair.udp, pair.tcp)}
        assert len(pairs) == workers
        assert len(ports) == 1
        assert ports != {0}
        assert bound_address(pairs[0]) == HostPort(host, ports.pop())
        assert is_wildcard(pairs[0].udp) == (host in {"0.0.0.0", "::"})


def test_each_worker_has_sockets_of_its_own_that_do_not_block() -> None:
    with bound(LOOPBACK, 2) as pairs:
        sockets = [sock for pair in pairs for sock in (pair.udp, pair.tcp)]
        assert len({sock.fileno() for sock in sockets}) == 4
        assert not any(map(os.get_blocking, (sock.fileno() for sock in sockets)))
        assert not any(os.get_inheritable(sock.fileno()) for sock in sockets)


def test_ipv4_and_ipv6_wildcards_can_share_a_port() -> None:
    def both() -> bool:
        with bound(HostPort("0.0.0.0", 0)) as ipv4:
            return can_be_bound(HostPort("::", bound_address(ipv4[0]).port))

    eventually(both)


def test_a_closed_port_is_free_despite_a_lingering_connection() -> None:
    with bound(LOOPBACK) as pairs:
        address = bound_address(pairs[0])
        pairs[0].tcp.setblocking(True)
        client = socket.create_connection((address.host, address.port))
        accepted, _ = pairs[0].tcp.accept()
        accepted.close()  # the side that closes first has the port in TIME_WAIT
        assert client.recv(1) == b""
        client.close()
    eventually(lambda: can_be_bound(address))


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_in_use_is_a_clear_error(host: str, kind: socket.SocketKind, workers: int) -> None:
    with taken(kind, host) as other:
        address = HostPort(host, other.getsockname()[1])
        error = refusal(address, workers)
        assert error.startswith(f"cannot listen on {address}: another program listens there")
        assert f"sport = :{address.port}" in error
        assert "--listen" in error


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_a_second_server_on_the_same_port_is_refused(first: int, second: int) -> None:
    with bound(LOOPBACK, first) as pairs:
        assert "another program listens there" in refusal(bound_address(pairs[0]), second)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_sockets_bound_before_an_error_are_closed(kind: socket.SocketKind) -> None:
    with taken(kind) as other:
        address = HostPort("127.0.0.1", other.getsockname()[1])
        refusal(address, 2)
    eventually(lambda: can_be_bound(address, 2))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_link_local_address_is_bound_at_its_interface(workers: int) -> None:
    """Two links have the address; each is reported with its interface, however that was written."""
    with new_network() as network, network.entered():
        ip("link add here type veth peer name there")
        for link in ("here", "there"):
            ip(f"address add fe80::1/64 dev {link} nodad")
            ip(f"link set {link} up")
        wait_until_up("here", "there")
        for link in ("here", "there"):
            for zone in (link, str(socket.if_nametoindex(link))):
                with bound(HostPort(f"fe80::1%{zone}", 0), workers) as pairs:
                    assert {bound_address(pair).host for pair in pairs} == {f"fe80::1%{link}"}
                    for pair in pairs:
                        for sock in (pair.udp, pair.tcp):
                            assert sock.getsockname()[3] == socket.if_nametoindex(link)


def test_a_missing_interface_is_a_clear_error() -> None:
    assert refusal(HostPort("fe80::1%nowhere", 53)) == (
        "cannot listen on [fe80::1%nowhere]:53: this machine does not have that interface "
        "(ip link lists those that it has)"
    )


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_a_missing_address_is_a_clear_error(host: str) -> None:
    address = HostPort(host, 0)
    assert refusal(address) == (
        f"cannot listen on {address}: this machine does not have that address "
        "(ip address lists those that it has)"
    )


# Change the user only after all imports, since that user may not be able to read this tree.
_BIND_AS_ANOTHER = """
import os, pwd, sys
from zkdns.address import HostPort
from zkdns.errors import ListenError
from zkdns.transport.sockets import bind
if os.geteuid() == 0:
    os.setuid(pwd.getpwnam("nobody").pw_uid)
try:
    bind(HostPort("127.0.0.1", int(sys.argv[1])), 1)
except ListenError as error:
    print(error)
"""


def test_a_privileged_port_is_an_error_with_remedies() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if lowest <= 1:
        pytest.skip("every port is free for every user here")
    command = [sys.executable, "-c", _BIND_AS_ANOTHER, str(lowest - 1)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert ended.stdout.startswith(f"cannot listen on 127.0.0.1:{lowest - 1}: ports below 1024 need root")
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in ended.stdout


def test_other_errors_have_the_systems_message() -> None:
    # IPv4-mapped addresses, which the server's IPv6 sockets exclude.
    error = refusal(HostPort("::ffff:127.0.0.1", 0))
    assert error == "cannot listen on [::ffff:127.0.0.1]:0: invalid argument"


def arrivals(pairs: list[SocketPair], count: int = 60) -> list[int]:
    """The number of datagrams and connections that arrived at each pair."""
    address = pairs[0].udp.getsockname()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(address))
            client = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            client.sendto(b"?", address)
        return [_taken(pair.udp.recv, 1) + _taken(pair.tcp.accept) for pair in pairs]


def _taken(take: Callable[..., object], *arguments: int) -> int:
    taken = 0
    with contextlib.suppress(BlockingIOError):
        while got := take(*arguments):
            if isinstance(got, tuple):
                got[0].close()
            taken += 1
    return taken


@pytest.fixture
def one() -> Iterator[list[SocketPair]]:
    """A pair that was bound alone, and pairs that are bound later."""
    pairs = bind(HostPort("127.0.0.1", 0), 1)
    yield pairs
    for pair in pairs:
        pair.close()


def more(pairs: list[SocketPair], count: int) -> list[SocketPair]:
    return [pair for pair in bind_additional(pairs, count) if isinstance(pair, SocketPair)]


def test_more_pairs_can_be_bound_later(one: list[SocketPair]) -> None:
    one += more(one, 2)
    assert len({bound_address(pair) for pair in one}) == 1
    if sys.platform == "linux":
        assert arrivals(one) == [120, 0, 0]  # a worker that has not started to read must not lose anything
    direct_traffic(one, None)
    assert all(arrivals(one))


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_excluded_sockets_receive_nothing_and_the_others_everything(
    one: list[SocketPair],
) -> None:
    one += more(one, 2)
    direct_traffic(one[:2], 2)
    first, second, left_out = arrivals(one)
    assert first
    assert second
    assert (first + second, left_out) == (120, 0)
    one.pop().close()
    assert sum(arrivals(one)) == 120
    one += more(one, 1)
    direct_traffic(one, None)
    assert all(arrivals(one))


def test_an_overlapping_address_is_bound_only_with_sharing(one: list[SocketPair]) -> None:
    _, port = one[0].udp.getsockname()
    with pytest.raises(ListenError, match="another program listens there"):
        bind(HostPort("0.0.0.0", port), 1)
    with pytest.raises(ListenError, match="another program listens there"):
        bind(HostPort("0.0.0.0", port), 1, shared=True)
    allow_sharing(one)
    one += bind(HostPort("0.0.0.0", port), 2, shared=True)
    assert arrivals(one) == [120, 0, 0]
