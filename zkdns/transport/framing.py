"""Messages on a stream, each preceded by its length (RFC 1035 §4.2.2); many are answered at a time.

data ──▶ messages ──▶ responses ──▶ lengths, ids and responses, for one write
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from zkdns.transport.contract import ResponseLookup

LENGTH: Final = struct.Struct(">H")
"""The length before each message."""
NO_MESSAGE: Final = LENGTH.pack(0)

_MAX_WRITE_BYTES = 65536
"""Bytes of responses in one write; a connection has hardly more waiting."""


def answer_messages(
    data: bytes,
    at: int,
    answers: ResponseLookup,
    resolve_empty: Callable[[bytes, bytes], bytes],
    classify: Callable[[bytes], int],
) -> tuple[list[bytes], int, bytearray]:
    """Answer messages until one is incomplete or has length 0, or the responses fill a write.

    Args:
        data: framed messages; the last one may be incomplete.
        at: offset of the first one.
        answers: the responses.
        resolve_empty: called with an empty response and the query's id; returns a per-client response, or
            empty bytes.
        classify: the class of a response; `NOT_COUNTED` if it is empty.

    Returns:
        the framed responses in pieces, the offset of the first message that was not answered, and the classes
        of the responses.
    """
    pieces: list[bytes] = []
    size, marks = len(data), bytearray()
    room = _MAX_WRITE_BYTES
    while at + 2 <= size and room > 0:
        begin_at = at + 2
        end = begin_at + (data[at] << 8 | data[at + 1])
        if end > size or end == begin_at:
            break
        query = min(begin_at + 2, end)
        body = next(answers[data[query:end]])
        if not body:
            body = resolve_empty(body, data[begin_at:query])
        if body:
            length = query - begin_at + len(body)
            pieces += (LENGTH.pack(length), data[begin_at:query], body)
            room -= length
        marks.append(classify(body))
        at = end
    return pieces, at, marks
