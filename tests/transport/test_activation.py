"""Inherited sockets: which ones are taken, how they are paired, and the errors for others."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.waiting import eventually
from zkdns.address import HostPort
from zkdns.errors import ListenError
from zkdns.transport.activation import addresses_of, pair_sockets, take_inherited_sockets
from zkdns.transport.sockets import bind, bound_address, configure_inherited

Make = Callable[..., socket.socket]


@pytest.fixture
def make() -> Iterator[Make]:
    """Binds sockets that are closed at the end of the test."""
    with ExitStack() as stack:

        def bound(
            kind: socket.SocketKind, host: str = "127.0.0.1", port: int = 0, *, listening: bool = True
        ) -> socket.socket:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = stack.enter_context(socket.socket(family, kind))
            sock.bind((host, port))
            if kind == socket.SOCK_STREAM and listening:
                sock.listen(1)
            return sock

        yield bound


def both(make: Make, host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """UDP and TCP sockets at a port that is free for both."""

    def made() -> tuple[socket.socket, socket.socket]:
        udp = make(socket.SOCK_DGRAM, host)
        return udp, make(socket.SOCK_STREAM, host, udp.getsockname()[1])

    return eventually(made)


def refusal(inherited: list[socket.socket]) -> str:
    """The error of a process that inherits these."""
    program = (
        "import fcntl, os, sys\n"
        "numbers = [fcntl.fcntl(int(n), fcntl.F_DUPFD, 100) for n in sys.argv[1:]]\n"
        "[os.dup2(n, 3 + at) for at, n in enumerate(numbers)]\n"
        "os.environ.update(LISTEN_FDS=str(len(numbers)), LISTEN_PID=str(os.getpid()))\n"
        "from zkdns.errors import ListenError\n"
        "from zkdns.transport.activation import addresses_of, take_inherited_sockets\n"
        "try:\n"
        "    passed = take_inherited_sockets(os.environ)\n"
        "    print(*addresses_of(passed), os.get_inheritable(3), 'LISTEN_FDS' in os.environ)\n"
        "except ListenError as error:\n"
        "    print(error)\n"
    )
    numbers = [sock.fileno() for sock in inherited]
    command = [sys.executable, "-c", program, *map(str, numbers)]
    return subprocess.run(
        command, pass_fds=numbers, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_passed_sockets_are_taken_and_not_inherited_further(make: Make) -> None:
    udp, tcp = both(make)
    assert refusal([udp, tcp]) == f"127.0.0.1:{udp.getsockname()[1]} False False"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_variables_for_another_process_are_ignored(variables: dict[str, str]) -> None:
    environment = {**variables, "LISTEN_FDNAMES": "a", "PATH": "/bin"}
    assert take_inherited_sockets(environment) == []
    assert environment == {"PATH": "/bin"}


def test_an_unusable_file_is_named(make: Make) -> None:
    unix, other = socket.socketpair()
    with unix, other:
        assert refusal([unix]).startswith(
            "LISTEN_FDS: file descriptor 3 is a socket of AF_UNIX, SOCK_STREAM; pass UDP and TCP sockets"
        )
    assert "file descriptor 4 is not a listening socket" in refusal(
        [*both(make)[:1], make(socket.SOCK_STREAM, listening=False)]
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unbound:
        assert "file descriptor 3 is not bound to a port" in refusal([unbound])
    with open(os.devnull) as file:  # noqa: PTH123 - a file that is not a socket
        assert "file descriptor 3 is not a socket" in refusal([file])  # type: ignore[list-item]


def test_sockets_are_paired_by_address_in_any_order(make: Make) -> None:
    first, second = both(make), both(make, "127.0.0.2")
    inherited = [second[1], first[0], first[1], second[0]]
    pairs = pair_sockets(inherited)
    assert [(pair.udp, pair.tcp) for pair in pairs] == [second, first]
    assert addresses_of(inherited) == tuple(map(bound_address, pairs))


@pytest.mark.parametrize("there", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_a_socket_that_was_not_passed_is_bound(make: Make, there: socket.SocketKind) -> None:
    other = socket.SOCK_STREAM if there == socket.SOCK_DGRAM else socket.SOCK_DGRAM
    passed = make(there, "127.0.0.9")  # the other socket is most likely free
    (pair,) = pair_sockets([passed])
    assert passed in {pair.udp, pair.tcp}
    assert pair.udp.getsockname() == pair.tcp.getsockname()
    assert {pair.udp.type, pair.tcp.type} == {there, other}
    if other == socket.SOCK_STREAM:
        socket.create_connection(pair.tcp.getsockname(), 5.0).close()
    pair.close()


def test_a_socket_that_cannot_be_bound_is_an_error_and_all_are_closed(make: Make) -> None:
    udp, tcp = both(make)
    with pytest.raises(ListenError, match="another program listens there"):
        pair_sockets([udp])
    assert udp.fileno() == -1
    assert tcp.fileno() != -1


def test_several_sockets_at_one_address_are_several_pairs(make: Make) -> None:
    udp, tcp = both(make)
    with udp.dup() as udp2, tcp.dup() as tcp2:
        assert [(pair.udp, pair.tcp) for pair in pair_sockets([udp, udp2, tcp, tcp2])] == [
            (udp, tcp),
            (udp2, tcp2),
        ]


def test_a_passed_socket_gets_the_usual_options(make: Make) -> None:
    (own,) = bind(HostPort("127.0.0.1", 0), 1)
    udp, tcp = both(make)
    size = (socket.SOL_SOCKET, socket.SO_RCVBUF)
    udp.setsockopt(*size, 4096)
    for sock in (udp, tcp):
        configure_inherited(sock)
        assert not sock.getblocking()
    assert udp.getsockopt(*size) == own.udp.getsockopt(*size)
    own.close()


def test_a_larger_buffer_is_left_unchanged(make: Make) -> None:
    udp, _ = both(make)
    forced = 33  # SO_RCVBUFFORCE
    try:
        udp.setsockopt(socket.SOL_SOCKET, forced, 4 << 20)
    except PermissionError:
        pytest.skip("needs root")
    configure_inherited(udp)
    assert udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 8 << 20  # the kernel reports twice of it
