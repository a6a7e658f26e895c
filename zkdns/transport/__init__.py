"""Sockets: bound, read, and written to. What the bytes mean is somebody else's business.

`answers[query]` is all that this room knows of DNS: bytes in, bytes or silence out.
"""

from collections.abc import Iterator
from typing import Protocol


class Answers(Protocol):
    """What answers messages: looked up by a query without its id."""

    def __getitem__(self, query: bytes, /) -> Iterator[bytes]:
        """Responses without their ids, for ever, each time the one whose turn it is; an empty one is silence.

        Never raises, whatever the bytes are, and however few.
        """
