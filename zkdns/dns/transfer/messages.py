"""The messages of AXFR (RFC 5936 §2.2) and IXFR (RFC 1995 §4), and single responses, without signatures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from zkdns.dns.edns import MIN_UDP_SIZE, Ede, response_opt
from zkdns.dns.message import (
    AA,
    HEADER,
    HEADER_SIZE,
    MAX_MESSAGE,
    QR,
    RD,
    Query,
    Rcode,
    Response,
)
from zkdns.dns.transfer.contents import Block, SoaTemplate
from zkdns.dns.transfer.versions import Difference, Version


def full_zone(query: Query, version: Version, reserved: int) -> Iterator[bytes]:
    """The messages with all records of a version, between two copies of its SOA.

    Args:
        query: its name is the apex.
        version: the version.
        reserved: bytes to leave free in each message, for the signature.
    """
    soa = Block(1, version.soa.record(version.serial))
    return _pack(query, _between(soa, version.blocks), reserved)


def differences(
    query: Query, soa: SoaTemplate, found: Sequence[Difference], serial: int, reserved: int
) -> Iterator[bytes]:
    """The messages with differences: for each the older SOA, removed records, the newer SOA, added records.

    Args:
        query: its name is the apex.
        soa: the SOA record of the zone.
        found: the differences. None: the client has the present version, and gets only its SOA.
        serial: that of the present version.
        reserved: as above.
    """
    return _pack(query, _difference_blocks(soa, found, serial), reserved)


def single_soa(query: Query, version: Version) -> bytes:
    """The response with only the SOA: the client is up to date, or has to use TCP (RFC 1995 §2, §4)."""
    return next(_pack(query, (Block(1, version.soa.record(version.serial)),), 0))


def error(query: Query, rcode: Rcode, ede: Ede | None = None, text: str = "") -> bytes:
    """An error response."""
    return Response(query, rcode, ede=ede, ede_text=text).pack(MIN_UDP_SIZE)


def _between(soa: Block, blocks: Iterable[Block]) -> Iterator[Block]:
    yield soa
    yield from blocks
    yield soa


def _difference_blocks(soa: SoaTemplate, found: Sequence[Difference], serial: int) -> Iterator[Block]:
    newest = Block(1, soa.record(serial))
    yield newest
    for difference in found:
        yield Block(1, soa.record(difference.before))
        yield from difference.removed
        yield Block(1, soa.record(difference.after))
        yield from difference.added
    if found:
        yield newest


def _pack(query: Query, blocks: Iterable[Block], reserved: int) -> Iterator[bytes]:
    """Messages with these blocks, each as long as possible.

    All of them repeat the question, to which the owner names point (RFC 5936 §2.2.1 permits this).
    """
    flags = QR | AA | (RD if query.rd else 0)
    opt = response_opt(query.edns, Rcode.NOERROR, b"", MIN_UDP_SIZE)
    limit = MAX_MESSAGE - HEADER_SIZE - len(query.question) - len(opt) - reserved
    pieces: list[bytes] = []
    count = size = 0

    def message() -> bytes:
        header = HEADER.pack(query.id, flags, 1, count, 0, bool(opt))
        return b"".join((header, query.question, *pieces, opt))

    for block in blocks:
        if size + len(block.data) > limit:
            yield message()
            pieces, count, size = [], 0, 0
        pieces.append(block.data)
        count += block.records
        size += len(block.data)
    yield message()
