"""Socket activation: sockets that a service manager has bound and passes to the server (sd_listen_fds(3)).

The service manager keeps the sockets open while the server restarts, so that queries wait in the kernel. The
server closes its own file descriptors, but never shuts the sockets down, since the next server uses them too.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, MutableMapping

from zkdns.address import HostPort
from zkdns.causes import cause_of
from zkdns.errors import ListenError
from zkdns.transport.sockets import SocketPair, address_of, bind_one, configure_inherited

_FIRST = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def take_inherited_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets that the service manager has passed to this process.

    Removes the variables from the environment, and prevents child processes from inheriting the sockets.

    Raises:
        ListenError: a passed file descriptor is not a suitable socket.
    """
    values = {name: environment.pop(name, "") for name in _VARIABLES}
    count = values["LISTEN_FDS"]
    if not count.isdecimal() or values["LISTEN_PID"] != str(os.getpid()):
        return []
    inherited = []
    for number in range(_FIRST, _FIRST + int(count)):
        try:
            os.set_inheritable(number, False)
            sock = socket.socket(fileno=number)
        except OSError as error:
            raise ListenError(f"{_named(number)} is not a socket ({cause_of(error)}); {_WANTED}") from None
        _check(sock)
        try:
            configure_inherited(sock)
            address_of(sock)
        except OSError as error:
            raise ListenError(f"{_named(number)} cannot be used to listen ({cause_of(error)})") from None
        inherited.append(sock)
    return inherited


def addresses_of(inherited: Iterable[socket.socket]) -> tuple[HostPort, ...]:
    """The addresses of these sockets, each once, in their order."""
    return tuple(dict.fromkeys(map(address_of, inherited)))


def pair_sockets(inherited: Iterable[socket.socket]) -> list[SocketPair]:
    """Pair the UDP and TCP sockets of each address, and bind the missing ones.

    Several sockets of one kind at one address (ReusePort=) make several pairs.

    Raises:
        ListenError: a socket cannot be bound.
    """
    inherited = list(inherited)
    pairs: list[SocketPair] = []
    with contextlib.ExitStack() as closed_on_error:
        for sock in inherited:
            closed_on_error.callback(sock.close)
        for address in addresses_of(inherited):
            at_address = [sock for sock in inherited if address_of(sock) == address]
            udp = [sock for sock in at_address if sock.type == socket.SOCK_DGRAM]
            tcp = [sock for sock in at_address if sock.type == socket.SOCK_STREAM]
            for socks, others, kind in ((udp, tcp, socket.SOCK_DGRAM), (tcp, udp, socket.SOCK_STREAM)):
                while len(socks) < len(others):
                    socks.append(bind_one(address, kind))
                    closed_on_error.callback(socks[-1].close)
            pairs += map(SocketPair, udp, tcp)
        closed_on_error.pop_all()
    return pairs


_WANTED = "pass UDP and TCP sockets (ListenDatagram=, ListenStream=) with Accept=no"


def _named(number: int) -> str:
    return f"LISTEN_FDS: file descriptor {number}"


def _check(sock: socket.socket) -> None:
    """Check that a socket can be served.

    Raises:
        ListenError: with the reason.
    """
    family, kind = socket.AddressFamily(sock.family).name, socket.SocketKind(sock.type).name
    if sock.family not in {socket.AF_INET, socket.AF_INET6} or sock.type not in {
        socket.SOCK_DGRAM,
        socket.SOCK_STREAM,
    }:
        raise ListenError(f"{_named(sock.fileno())} is a socket of {family}, {kind}; {_WANTED}")
    if sock.type == socket.SOCK_STREAM and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ListenError(f"{_named(sock.fileno())} is not a listening socket; {_WANTED}")
    if not sock.getsockname()[1]:
        raise ListenError(f"{_named(sock.fileno())} is not bound to a port; {_WANTED}")
