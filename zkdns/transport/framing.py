"""Messages on a stream, each behind its length (RFC 1035 §4.2.2): many are answered at a time.

data ──▶ messages ──▶ answers ──▶ lengths, ids and answers, for one write
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from zkdns.transport.contract import ResponseLookup

LENGTH: Final = struct.Struct(">H")
"""What stands before each message."""
NO_MESSAGE: Final = LENGTH.pack(0)

_MAX_WRITE_BYTES = 65536
"""So many bytes of answers go into one write; what one connection has waiting is hardly more."""


def answer_messages(
    data: bytes,
    at: int,
    answers: ResponseLookup,
    resolve_empty: Callable[[bytes, bytes], bytes],
    mark_of: Callable[[bytes], int],
) -> tuple[list[bytes], int, bytearray]:
    """Answer whole messages until one is not whole, or has a length of zero, or the answers fill a write.

    Args:
        data: framed messages; the last may be cut off.
        at: where the first one begins.
        answers: what answers them.
        resolve_empty: given what is silence, and its query's id, returns what it is after all.
        mark_of: the mark of an answer, of silence `UNMARKED`.

    Returns:
        The framed answers in pieces, where the messages begin that were not answered, and the marks of those
        that were.
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
        marks.append(mark_of(body))
        at = end
    return pieces, at, marks
