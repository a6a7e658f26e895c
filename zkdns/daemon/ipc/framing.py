"""Frames for messages between the processes of a server: a length of 4 bytes, then msgpack."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")

_LENGTH_BYTES = 4


class FrameCodec(Generic[T]):
    """Encodes and decodes frames of one type, usually a union of tagged structs.

    Args:
        message_type: the type.
        max_bytes: maximum length of a received message. Set it if the sender is another program.
    """

    def __init__(self, message_type: type[T], *, max_bytes: int = 0xFFFFFFFF) -> None:
        self._max_bytes = max_bytes
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(message_type)

    def encode(self, message: T) -> bytes:
        """Return the message as a frame."""
        body = self._encoder.encode(message)
        return len(body).to_bytes(_LENGTH_BYTES) + body

    async def read(self, reader: asyncio.StreamReader) -> T | None:
        """Return the next message. None: the other side has closed the connection.

        Raises:
            msgspec.DecodeError: it is too long, or of another type.
        """
        try:
            length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES))
            if length > self._max_bytes:
                raise msgspec.DecodeError(f"a frame has {length} bytes; the maximum is {self._max_bytes}")
            return self._decoder.decode(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
