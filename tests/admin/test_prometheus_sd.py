"""Service discovery for Prometheus: targets and labels of members, in pieces."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import msgspec

from zkdns.admin.api_types import MemberRow
from zkdns.admin.prometheus_sd import target_pieces


def row(member: str, endpoint: str | None, **fields: Any) -> bytes:
    complete = MemberRow(
        service="web.staging.discovery",
        member=member,
        origin="/discovery/staging/web",
        endpoint=endpoint,
        additional=fields.get("additional", {}),
        status="ALIVE",
        shard=fields.get("shard"),
        weight=fields.get("weight", 1.0),
        metadata={},
        addresses=(),
        held_since=fields.get("held_since"),
    )
    return msgspec.json.encode(complete) + b"\n"


def targets(pieces: Iterable[bytes], endpoint: str | None = None) -> Any:
    async def lines() -> AsyncGenerator[bytes]:
        for piece in pieces:
            yield piece

    async def collect() -> bytes:
        return b"".join([piece async for piece in target_pieces(lines(), endpoint)])

    return json.loads(asyncio.run(collect()))


def test_each_member_is_a_target_with_labels() -> None:
    found = targets([row("m0", "10.0.0.1:80", shard=3, weight=0.5), row("m1", "[::1]:80", held_since=1.0)])
    assert [group["targets"] for group in found] == [["10.0.0.1:80"], ["[::1]:80"]]
    assert found[0]["labels"] == {
        "__meta_zkdns_service": "web.staging.discovery",
        "__meta_zkdns_member": "m0",
        "__meta_zkdns_status": "ALIVE",
        "__meta_zkdns_shard": "3",
        "__meta_zkdns_weight": "0.5",
        "__meta_zkdns_held": "0",
    }
    assert found[1]["labels"]["__meta_zkdns_held"] == "1"


def test_an_additional_endpoint_can_be_the_target() -> None:
    pieces = [
        row("m0", "10.0.0.1:80", additional={"admin": "10.0.0.1:9990"}) + row("m1", "10.0.0.2:80"),
        row("m2", "10.0.0.3:80"),
        row("m3", None, additional={"admin": "10.0.0.4:9990"}),
    ]
    assert [group["targets"] for group in targets(pieces, "admin")] == [["10.0.0.1:9990"], ["10.0.0.4:9990"]]
    assert [group["targets"] for group in targets(pieces)] == [
        ["10.0.0.1:80"],
        ["10.0.0.2:80"],
        ["10.0.0.3:80"],
    ]


def test_no_members_are_an_empty_list() -> None:
    assert targets([]) == targets([row("m0", None)]) == []
