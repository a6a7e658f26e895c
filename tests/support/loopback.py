"""Ports of this machine for servers of tests."""

from __future__ import annotations

import random
import socket

_TRIES = 20
_CHANCE = random.SystemRandom()  # an example of Hypothesis has the other one begin anew, in all processes
_PORTS = 10_000, 32_768  # Linux gives those above this to whoever asks for any


def paired_sockets(port: int = 0, host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """Sockets for UDP and TCP on one port, bound and not listening; 0 means any that is free for both.

    That is none of those that the kernel gives to whoever wants any: when it is closed for a while, or until
    a server binds it, such a one could be another's, be it for a moment.
    """
    for last_try in (*[False] * (_TRIES - 1), True):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM)
        tcp = socket.socket(family, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind((host, port or _CHANCE.randrange(*_PORTS)))
            udp.bind((host, tcp.getsockname()[1]))
        except OSError:
            udp.close()
            tcp.close()
            if port or last_try:
                raise
        else:
            return udp, tcp
    raise AssertionError


def free_port() -> int:
    """A port that nobody has, for both protocols."""
    udp, tcp = paired_sockets()
    with udp, tcp:
        port: int = tcp.getsockname()[1]
    return port
