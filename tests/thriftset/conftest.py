"""Real thrift servers for the tests of ThriftSet."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.support.thrift import EchoServer
from tests.support.web import refusing as refused


@pytest.fixture
def servers() -> Iterator[list[EchoServer]]:
    """Three running servers."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(EchoServer()) for _ in range(3)]


@pytest.fixture
def server(servers: list[EchoServer]) -> EchoServer:
    """One of the servers."""
    return servers[0]


@pytest.fixture
def refusing() -> Iterator[list[str]]:
    """Two endpoints that refuse connections."""
    with refused() as one, refused() as other:
        yield [one, other]
