"""Sockets: bound, read, and written to. What the bytes mean is somebody else's business.

`respond(message, stream=…)` is all that this room knows of DNS: bytes in, bytes or silence out.
"""

from typing import Protocol


class Respond(Protocol):
    """What turns a message into a response; it never raises."""

    def __call__(self, message: bytes, *, stream: bool) -> bytes | None:
        """The response, or None for silence; `stream`: whether the message came over TCP."""
