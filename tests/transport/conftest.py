"""Servers with both kinds of UDP handling, and network namespaces for tests."""

import functools
from collections.abc import Iterator

import pytest

from tests.support.network import Network, new_network
from tests.transport.helpers import serving
from tests.transport.udp_client import Serve
from zkdns.transport.batch import is_available


@pytest.fixture(params=[True, False], ids=["batched", "one by one"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Run the test with batches and with single datagrams."""
    if request.param and not is_available():
        pytest.skip("this system has no calls for batches")
    return functools.partial(serving, batched=request.param)


@pytest.fixture
def own_network() -> Iterator[Network]:
    """A network namespace of the test, which its thread has entered."""
    with new_network() as network, network.entered():
        yield network
