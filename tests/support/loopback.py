"""Ports on loopback for servers of tests."""

from __future__ import annotations

import random
import socket

_TRIES = 20
# Hypothesis seeds the global generator, with the same seed in all processes.
_RANDOM = random.SystemRandom()
_PORTS = 10_000, 32_768  # below the ephemeral ports of Linux


def paired_sockets(port: int = 0, host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """Sockets for UDP and TCP on one port, bound but not listening.

    Port 0 selects a port that is free for both, below the ephemeral ports, which the kernel could assign to
    another socket while it is closed.
    """
    for last_try in (*[False] * (_TRIES - 1), True):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM)
        tcp = socket.socket(family, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind((host, port or _RANDOM.randrange(*_PORTS)))
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
    """A port that is free for UDP and TCP."""
    udp, tcp = paired_sockets()
    with udp, tcp:
        port: int = tcp.getsockname()[1]
    return port
