"""Sends the same queries to each server, over UDP or TCP, with many in flight."""

import socket
import struct
from collections.abc import Callable, Mapping

_WINDOW = 32
_SECONDS, _ATTEMPTS = 2.0, 4
_MAX_MESSAGE = 65535
_BUFFER = 1 << 20


def over_udp(port: int, queries: Mapping[int, bytes]) -> dict[int, bytes]:
    """Send queries, given by id, and return the responses by id. Unanswered queries are missing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.settimeout(_SECONDS)
        sock.connect(("127.0.0.1", port))
        responses: dict[int, bytes] = {}
        waiting: dict[int, bytes] = {}
        for ident, query in queries.items():
            waiting[ident] = query
            sock.send(query)
            if len(waiting) == _WINDOW:
                _receive_one(sock, waiting, responses)
        while waiting:
            _receive_one(sock, waiting, responses)
        return responses


def _receive_one(sock: socket.socket, waiting: dict[int, bytes], responses: dict[int, bytes]) -> None:
    """Receive a response. On time-out send all waiting queries again; after the last attempt give them up."""
    for is_last in (*[False] * (_ATTEMPTS - 1), True):
        try:
            response = sock.recv(_MAX_MESSAGE)
        except TimeoutError:
            if is_last:
                waiting.clear()
                return
            for query in waiting.values():
                sock.send(query)
        else:
            ident = int.from_bytes(response[:2])
            if waiting.pop(ident, None) is not None:
                responses[ident] = response
            return


def over_tcp(port: int, queries: Mapping[int, bytes]) -> dict[int, bytes]:
    """Send queries over one TCP connection and return the responses by id."""
    with (
        socket.create_connection(("127.0.0.1", port), _SECONDS * _ATTEMPTS) as sock,
        sock.makefile("rb") as stream,
    ):
        responses: dict[int, bytes] = {}
        sent = 0
        for query in queries.values():
            sock.sendall(struct.pack("!H", len(query)) + query)
            sent += 1
            if sent - len(responses) == _WINDOW:
                _read_one(stream.read, responses)
        while len(responses) < sent:
            _read_one(stream.read, responses)
        return responses


def _read_one(read: Callable[[int], bytes], responses: dict[int, bytes]) -> None:
    length = int.from_bytes(read(2))
    response = read(length)
    assert 0 < len(response) == length, "the connection was closed before the last answer"
    responses[int.from_bytes(response[:2])] = response
