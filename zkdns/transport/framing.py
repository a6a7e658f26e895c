"""Messages on a stream, each preceded by its length (RFC 1035 §4.2.2): answers many of them for one write.

data ──▶ messages ──▶ responses ──▶ length, id and response of each
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from zkdns.transport.contract import ResponseLookup

LENGTH: Final = struct.Struct(">H")
"""The length before each message."""
NO_MESSAGE: Final = LENGTH.pack(0)
"""The length 0, after which no valid message can follow."""

MAX_WRITE_BYTES: Final = 65536
"""After this many bytes of responses, the rest is left for another write.

The socket buffer rarely takes more.
"""


def answer_messages(
    data: bytes,
    at: int,
    answers: ResponseLookup,
    resolve_empty: Callable[[bytes, bytes], bytes | None],
    classify: Callable[[bytes], int],
) -> tuple[list[bytes], int, bytearray]:
    """Answer messages until one is incomplete or has length 0, or the responses fill a write.

    Args:
        data: framed messages; the last one may be incomplete.
        at: offset of the first one.
        answers: the responses.
        resolve_empty: called with an empty response (deferred, per-client or none) and its query; returns
            the response to send now, or empty bytes; None: empty, and no more messages may be answered now.
        classify: the class of a response; `NOT_COUNTED` if it is empty.

    Returns:
        the framed responses in pieces, the offset of the first message that was not answered, and the classes
        of the responses.
    """
    pieces: list[bytes] = []
    size, classes = len(data), bytearray()
    room = MAX_WRITE_BYTES
    while at + 2 <= size and room > 0:
        id_at = at + 2
        end = id_at + (data[at] << 8 | data[at + 1])
        if end > size or end == id_at:
            break
        query_at = min(id_at + 2, end)
        body = next(answers[data[query_at:end]])
        if not body:
            resolved = resolve_empty(body, data[id_at:end])
            if resolved is None:
                room = 0
            body = resolved or b""
        if body:
            length = query_at - id_at + len(body)
            pieces += (LENGTH.pack(length), data[id_at:query_at], body)
            room -= length
        classes.append(classify(body))
        at = end
    return pieces, at, classes


def queries_in(data: bytes, at: int, end: int) -> Iterator[bytes]:
    """Yield the complete messages between these offsets, without their ids."""
    while at < end:
        id_at = at + LENGTH.size
        at = id_at + (data[at] << 8 | data[at + 1])
        yield data[id_at + 2 : at]
