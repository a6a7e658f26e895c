"""Responses with a line for each member: back-pressure, clients that stop reading, and their number."""

import contextlib
import itertools
import socket
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from tests.admin.helpers import QUICK, FakeBackend, serving_at
from tests.support.waiting import eventually
from zkdns.admin.api import MAX_COPIES
from zkdns.admin.client import ApiClient, RefusedError
from zkdns.admin.timing import Timing

PIECE = b'{"a":"' + b"x" * 99_000 + b'"}\n'
LINE = PIECE.removesuffix(b"\n")
REQUEST = b"GET /api/members HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENT = msgspec.structs.replace(QUICK, write=60.0)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(pieces=itertools.repeat(PIECE))


@pytest.fixture
def path(short_path: Path) -> Path:
    return short_path / "api"


def stalled(path: Path) -> socket.socket:
    """A client that reads only the beginning of the response."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(path))
    sock.sendall(REQUEST)
    assert sock.recv(100).startswith(b"HTTP/1.1 200")
    return sock


def test_pieces_are_made_as_the_client_reads(path: Path, backend: FakeBackend) -> None:
    """Only the kernel's buffers are filled for a client that does not read."""
    with serving_at(path, backend, PATIENT) as client, contextlib.closing(lines_of(client)) as lines:
        assert next(lines) == LINE
        client.status()
        assert backend.sent < 50
        for _ in range(200):
            next(lines)
        assert backend.sent >= 200


def test_a_client_that_does_not_read_is_disconnected(path: Path, backend: FakeBackend) -> None:
    timing = Timing(write=0.2)
    with serving_at(path, backend, timing), stalled(path):
        eventually(lambda: backend.closed == 1)


def test_a_client_that_has_gone_is_noticed(path: Path, backend: FakeBackend) -> None:
    with serving_at(path, backend, PATIENT):
        stalled(path).close()
        eventually(lambda: backend.closed == 1)


def test_the_number_of_copies_is_limited(path: Path, backend: FakeBackend) -> None:
    with serving_at(path, backend, PATIENT) as client, ExitStack() as stack:
        for _ in range(MAX_COPIES):
            stack.enter_context(stalled(path))
        with pytest.raises(RefusedError, match="copies are being sent, which is the limit") as caught:
            next(client.lines("members"))
        assert caught.value.status == 503
        assert client.count("web").answered == 3  # other requests are served
        stack.close()
        eventually(lambda: first_line(client) == LINE)


def first_line(client: ApiClient) -> bytes | None:
    with contextlib.closing(lines_of(client)) as lines:
        try:
            return next(lines)
        except RefusedError:
            return None


def lines_of(client: ApiClient) -> Generator[bytes]:
    lines = client.lines("members")
    assert isinstance(lines, Generator)
    return lines
