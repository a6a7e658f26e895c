"""Service discovery for Prometheus (`http_sd_configs`): a target for each member."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import msgspec

from zkdns.admin.api_types import MemberRow, TargetGroup


async def target_pieces(lines: AsyncGenerator[bytes], endpoint: str | None) -> AsyncGenerator[bytes]:
    """Yield the list of target groups as JSON, in pieces.

    Args:
        lines: lines of `MemberRow`, several in each piece.
        endpoint: name of an additional endpoint; None: the service endpoint.
    """
    decoder = msgspec.json.Decoder(MemberRow)
    separator = b"["
    async with contextlib.aclosing(lines):
        async for piece in lines:
            groups = [
                group for row in decoder.decode_lines(piece) if (group := _group(row, endpoint)) is not None
            ]
            if groups:
                yield separator + msgspec.json.encode(groups)[1:-1]
                separator = b","
    yield b"[]\n" if separator == b"[" else b"]\n"


def _group(row: MemberRow, endpoint: str | None) -> TargetGroup | None:
    """Return the target of a member. None: it has no such endpoint."""
    target = row.endpoint if endpoint is None else row.additional.get(endpoint)
    if target is None:
        return None
    labels = {
        "service": row.service,
        "member": row.member,
        "status": row.status,
        "shard": "" if row.shard is None else str(row.shard),
        "weight": f"{row.weight:g}",
        "held": "1" if row.held_since is not None else "0",
    }
    return TargetGroup((target,), {f"__meta_zkdns_{name}": value for name, value in labels.items()})
