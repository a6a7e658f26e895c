"""Messages between our own processes: msgpack behind a length of four bytes."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")

_LENGTH = 4


class Frames(Generic[T]):
    """Frames that carry one type (a union of tagged structs)."""

    def __init__(self, of: type[T]) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(of)

    def encode(self, message: T) -> bytes:
        """The message as a frame."""
        body = self._encoder.encode(message)
        return len(body).to_bytes(_LENGTH) + body

    async def read(self, reader: asyncio.StreamReader) -> T | None:
        """The next message; None where the other side has gone."""
        try:
            length = int.from_bytes(await reader.readexactly(_LENGTH))
            return self._decoder.decode(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
