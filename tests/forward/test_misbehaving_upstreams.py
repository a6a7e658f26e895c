"""Upstreams that violate the rules: what the client gets, and the same in the docs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import zkdns
from tests.forward.forwarder_helpers import forwarding
from tests.forward.misbehaviours import CASES, Case, ask, describe, documented
from tests.forward.resolution_helpers import run
from tests.support.upstream import UpstreamServer
from zkdns.forward.upstreams import UDP_TIMES

PAGE = Path(zkdns.__file__).parent / "docs" / "forwarding.md"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_client_gets_the_right_response(case: Case) -> None:
    async def scenario() -> None:
        with UpstreamServer(case.act) as upstream:
            async with forwarding(upstream, udp_times=UDP_TIMES) as scene:
                for _ in range(2):  # the second one from the cache, if it is cached
                    response = await asyncio.to_thread(ask, scene.address.port, case.qtype)
                    assert describe(response) == case.ours

    run(scenario)


def test_the_page_has_the_table() -> None:
    assert documented() in PAGE.read_text(encoding="utf-8")
