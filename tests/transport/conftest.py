"""Servers that answer UDP in both ways."""

import functools

import pytest

from tests.transport.helpers import serving
from tests.transport.udp_helpers import Serve
from zkdns.transport.batch import is_available


@pytest.fixture(params=[True, False], ids=["batched", "one by one"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """What holds in one of the ways holds in the other."""
    if request.param and not is_available():
        pytest.skip("this system has no calls for batches")
    return functools.partial(serving, batched=request.param)
