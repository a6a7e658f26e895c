"""ZooKeeper servers without recursive watches, and unexpected replies."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.conftest import ONE_SHOT, RECURSIVE
from tests.faults.scenario import fault_scenario
from tests.support.fault_proxy import LIST, MULTI_READ, FaultProxy
from tests.support.waiting import eventually

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

_THROTTLED = -127  # ThrottledOp
_UNKNOWN = -999  # not an error code of ZooKeeper


@pytest.mark.parametrize("proxy", [ONE_SHOT], indirect=True)
def test_one_shot_watches_are_used_if_recursive_ones_are_refused(
    direct_client: Any, proxy: FaultProxy
) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        scenario.check_changes()
        with scenario.fault(rereads=True):
            proxy.reset()
        scenario.check_changes()
        assert [entry["strategy"] for entry in scenario.server.events("zookeeper_watch_started")] == [
            "one-shot watches"
        ]
        (refused,) = scenario.server.events("recursive_watch_refused")
        assert "UnimplementedError" in refused["reason"]
        # The refusal is not repeated: it ended one connection, the next was reset, and the third one is open.
        assert len(proxy.sessions) == 3


@pytest.mark.parametrize("proxy", [RECURSIVE], indirect=True)
def test_recursive_watches_are_used_if_supported(direct_client: Any, proxy: FaultProxy) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        scenario.check_changes()
        assert [entry["strategy"] for entry in scenario.server.events("zookeeper_watch_started")] == [
            "a recursive watch"
        ]


@pytest.mark.parametrize("error", [_THROTTLED, _UNKNOWN], ids=["throttled", "unknown"])
@pytest.mark.parametrize(
    ("proxy", "request_type"), [(RECURSIVE, MULTI_READ), (ONE_SHOT, LIST)], indirect=["proxy"]
)
def test_unexpected_error_is_handled(
    direct_client: Any, proxy: FaultProxy, request_type: int, error: int
) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        with scenario.fault():
            proxy.garble_reply_of(request_type, error)
            scenario.history.register(direct_client, "web")
            eventually(lambda: proxy.garbled_replies)
        scenario.check_changes()


def test_unsolicited_reply_is_handled(direct_client: Any, proxy: FaultProxy) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        with scenario.fault():
            proxy.send_reply(12345, 0)
            scenario.history.register(direct_client, "web")
        scenario.check_changes()


def test_failed_authentication_is_handled(direct_client: Any, proxy: FaultProxy) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        with scenario.fault():
            proxy.send_reply(-4, -115)  # a reply to an auth packet: AuthFailed
            scenario.history.register(direct_client, "web")
        scenario.check_changes()
