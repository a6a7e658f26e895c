"""The same queries at one server after the other, over UDP or TCP, many at a time."""

import socket
import struct
from collections.abc import Callable, Mapping

_AT_ONCE = 32
_SECONDS, _TRIES = 2.0, 4
_LARGEST = 65535
_BUFFER = 1 << 20


def over_udp(port: int, queries: Mapping[int, bytes]) -> dict[int, bytes]:
    """The responses by their ids, which are the queries' keys; what stays silent is missing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.settimeout(_SECONDS)
        sock.connect(("127.0.0.1", port))
        responses: dict[int, bytes] = {}
        waiting: dict[int, bytes] = {}
        for ident, query in queries.items():
            waiting[ident] = query
            sock.send(query)
            if len(waiting) == _AT_ONCE:
                _receive_one(sock, waiting, responses)
        while waiting:
            _receive_one(sock, waiting, responses)
        return responses


def _receive_one(sock: socket.socket, waiting: dict[int, bytes], responses: dict[int, bytes]) -> None:
    """Take the next response; where none comes, ask again, and at last wait no more."""
    for is_last in (*[False] * (_TRIES - 1), True):
        try:
            response = sock.recv(_LARGEST)
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
    """The same on one connection, where nothing is lost."""
    with (
        socket.create_connection(("127.0.0.1", port), _SECONDS * _TRIES) as sock,
        sock.makefile("rb") as stream,
    ):
        responses: dict[int, bytes] = {}
        asked = 0
        for query in queries.values():
            sock.sendall(struct.pack("!H", len(query)) + query)
            asked += 1
            if asked - len(responses) == _AT_ONCE:
                _take(stream.read, responses)
        while len(responses) < asked:
            _take(stream.read, responses)
        return responses


def _take(read: Callable[[int], bytes], responses: dict[int, bytes]) -> None:
    length = int.from_bytes(read(2))
    response = read(length)
    assert 0 < len(response) == length, "the connection was closed amid the answers"
    responses[int.from_bytes(response[:2])] = response
