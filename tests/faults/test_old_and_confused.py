"""A ZooKeeper that knows no recursive watches, and one whose replies nobody expects."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.conftest import ONE_SHOT, RECURSIVE
from tests.faults.scene import playing
from tests.support.fault_proxy import LIST, MULTI_READ, FaultProxy
from tests.support.waiting import eventually

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes, pytest.mark.alone]

_THROTTLED = -127  # ThrottledOp: not now
_UNKNOWN = -999  # no error of ZooKeeper's


@pytest.mark.parametrize("proxy", [ONE_SHOT], indirect=True)
def test_the_one_shot_way_is_taken_by_itself_and_said(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        scene.changes_flow()
        with scene.fault(rereads=True):
            proxy.reset()
        scene.changes_flow()
        assert [entry["strategy"] for entry in scene.server.events("zookeeper_watch_started")] == [
            "one-shot watches"
        ]
        (refused,) = scene.server.events("recursive_watch_refused")
        assert "UnimplementedError" in refused["reason"]
        # Refused once and not asked again: one connection that ended so, the next, the one after the reset.
        assert len(proxy.sessions) == 3


@pytest.mark.parametrize("proxy", [RECURSIVE], indirect=True)
def test_the_recursive_way_is_taken_where_it_can_be(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        scene.changes_flow()
        assert [entry["strategy"] for entry in scene.server.events("zookeeper_watch_started")] == [
            "a recursive watch"
        ]


@pytest.mark.parametrize("error", [_THROTTLED, _UNKNOWN], ids=["throttled", "unknown"])
@pytest.mark.parametrize(
    ("proxy", "request_type"), [(RECURSIVE, MULTI_READ), (ONE_SHOT, LIST)], indirect=["proxy"]
)
def test_an_unexpected_error_costs_a_connection_at_most(
    reach: Any, proxy: FaultProxy, request_type: int, error: int
) -> None:
    with playing(proxy.address, reach) as scene:
        with scene.fault():
            proxy.garble_reply_of(request_type, error)
            scene.history.register(reach, "web")
            eventually(lambda: proxy.garbled_replies)
        scene.changes_flow()


def test_a_reply_to_nothing_costs_a_connection_at_most(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        with scene.fault():
            proxy.send_reply(12345, 0)
            scene.history.register(reach, "web")
        scene.changes_flow()


def test_a_failed_authentication_costs_a_connection_at_most(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        with scene.fault():
            proxy.send_reply(-4, -115)  # to an auth packet: AuthFailed
            scene.history.register(reach, "web")
        scene.changes_flow()
