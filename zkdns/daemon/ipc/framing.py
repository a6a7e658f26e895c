"""Messages between our own processes: msgpack behind a length of four bytes."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")

_LENGTH = 4


class FrameCodec(Generic[T]):
    """Frames that carry one type (a union of tagged structs).

    Args:
        of: the type.
        most: bytes of the longest frame that is read, where the other side is not of our own making.
    """

    def __init__(self, of: type[T], *, most: int = 0xFFFFFFFF) -> None:
        self._most = most
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(of)

    def encode(self, message: T) -> bytes:
        """The message as a frame."""
        body = self._encoder.encode(message)
        return len(body).to_bytes(_LENGTH) + body

    async def read(self, reader: asyncio.StreamReader) -> T | None:
        """The next message; None where the other side has gone.

        Raises:
            msgspec.DecodeError: it is too long, or not of the type.
        """
        try:
            length = int.from_bytes(await reader.readexactly(_LENGTH))
            if length > self._most:
                raise msgspec.DecodeError(f"a frame has {length} bytes, at most {self._most} are read")
            return self._decoder.decode(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
