"""A TCP proxy for a ZooKeeper server that injects faults: lost replies, stalls, resets and wrong replies.

It parses the frames of the protocol (length, xid, type), so that a fault can target a single request.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

CREATE, DELETE, LIST, MULTI_READ, ADD_WATCH = 1, 2, 12, 22, 106  # request types (zookeeper.jute)
_EXISTS = 3  # a request type
UNIMPLEMENTED = -6  # an error code (zookeeper.jute)
_LIMIT = 10.0

_Frames = asyncio.Queue[tuple[float, bytes | None]]


class FaultProxy:
    """A proxy for the server at `port` on 127.0.0.1, initially without faults.

    As a context manager it runs in a separate thread.

    Attributes:
        lost_replies: the number of replies lost by `lose_reply_of`.
        garbled_replies: the number of replies replaced by `garble_reply_of`.
    """

    def __init__(self, port: int) -> None:
        self.lost_replies = 0
        self.garbled_replies = 0
        self.refused: frozenset[int] = frozenset()
        """Request types that get UNIMPLEMENTED and a closed connection, as from servers before 3.6."""
        self.sessions: list[tuple[int, bytes]] = []
        """ID and password of each session that was established or resumed, in order."""
        self.latency = 0.0
        """Seconds by which each reply is delayed."""
        self._upstream = port
        self._connections: set[_Connection] = set()
        self._is_down = False
        self._lost: int | None = None
        self._garbled: dict[int, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()

    @property
    def address(self) -> str:
        """The address of the proxy, as `host:port`."""
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def upstream(self) -> str:
        """The address of the server itself, as `host:port`."""
        return f"127.0.0.1:{self._upstream}"

    @property
    def connections(self) -> int:
        """The number of open client connections."""
        return len(self._connections)

    def lose_reply_of(self, request: int) -> None:
        """Pass the next request of this type to the server, and reset the connection instead of the reply."""
        self._do(lambda: setattr(self, "_lost", request))

    def garble_reply_of(self, request: int, error: int) -> None:
        """Pass the next request of this type to the server, and replace its reply with this error."""
        self._do(lambda: self._garbled.update({request: error}))

    def send_reply(self, xid: int, error: int) -> None:
        """Send an unsolicited reply to each client."""

        def send() -> None:
            for connection in self._connections:
                connection.send_reply(xid, error)

        self._do(send)

    def stall(self) -> None:
        """Stop forwarding, and keep all connections open."""
        self._do(self._flows.clear)

    def mute(self) -> None:
        """Drop all further frames of the present connections, which stay open. New connections work."""

        def mute_all() -> None:
            for connection in self._connections:
                connection.is_mute = True

        self._do(mute_all)

    def resume(self) -> None:
        """Forward the delayed frames, and continue."""
        self._do(self._flows.set)

    def reset(self) -> None:
        """Reset all connections. New connections are accepted."""
        self._do(self._reset_all)

    def go_down(self) -> None:
        """Reset all connections, and each new one."""
        self._do(self._down)

    def come_up(self) -> None:
        """Accept connections again."""
        self._do(lambda: self._down(False))

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LIMIT)
        self._loop.close()

    def _do(self, change: Callable[[], object]) -> None:
        async def done() -> None:
            change()

        self._wait(done())

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_LIMIT)

    # -- in the thread -------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._flows.set()
        self._server = await asyncio.start_server(self._accept, sock=self._socket)

    async def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        self._reset_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _down(self, is_down: bool = True) -> None:
        self._is_down = is_down
        self._reset_all()

    def _reset_all(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    async def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        connection = _Connection(to_client)
        self._connections.add(connection)
        try:
            if self._is_down:
                return
            server, to_server = await asyncio.open_connection("127.0.0.1", self._upstream)
            connection.writers.append(to_server)
            requests: _Frames = asyncio.Queue()
            replies: _Frames = asyncio.Queue()
            tasks = [
                asyncio.ensure_future(work)
                for work in (
                    self._read(client, requests, is_reply=False),
                    self._read(server, replies, is_reply=True),
                    self._write(requests, to_server, connection, connection.on_request),
                    self._write(replies, to_client, connection, connection.on_reply),
                )
            ]
            await asyncio.wait(tasks[2:], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        except OSError:  # the server is down: close the connection
            pass
        finally:
            self._connections.discard(connection)
            connection.reset()

    async def _read(self, source: asyncio.StreamReader, frames: "_Frames", *, is_reply: bool) -> None:
        """Read frames, with the times at which to forward them. None: the connection has ended."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                (length,) = struct.unpack(">i", await source.readexactly(4))
                frame = await source.readexactly(length)
                frames.put_nowait((self._loop.time() + (self.latency if is_reply else 0.0), frame))
        frames.put_nowait((self._loop.time(), None))

    async def _write(
        self,
        frames: "_Frames",
        target: asyncio.StreamWriter,
        connection: "_Connection",
        transform: Callable[[bytes, "FaultProxy"], bytes | None],
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, frame = await frames.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                await self._flows.wait()
                if frame is not None and connection.is_mute:
                    continue
                forwarded = None if frame is None else transform(frame, self)
                if forwarded is None:
                    return
                target.write(struct.pack(">i", len(forwarded)) + forwarded)
                await target.drain()

    def take_lost(self, request: int) -> bool:
        """Whether the reply to this request must be lost. The fault applies once."""
        if request != self._lost:
            return False
        self._lost = None
        return True

    def take_garbled(self, request: int) -> int | None:
        """The error that replaces the reply to this request, or None. The fault applies once."""
        return self._garbled.pop(request, None)


class _Connection:
    """The connection of one client, and its protocol state."""

    def __init__(self, to_client: asyncio.StreamWriter) -> None:
        self.writers = [to_client]
        self.is_mute = False
        self._has_connected = False  # the first frame in each direction has no xid
        self._is_accepted = False
        self._lost_xid: int | None = None
        self._refused_xid: int | None = None
        self._garbled: dict[int, int] = {}
        self._is_refused = False

    def on_request(self, frame: bytes, proxy: FaultProxy) -> bytes | None:
        """The request to forward, or None to close the connection."""
        if self._has_connected:
            xid, request = struct.unpack_from(">ii", frame)
            if request in proxy.refused:
                # The server replies to another request in its place, so that the replies keep their order.
                self._refused_xid = xid
                return struct.pack(">iii1s?", xid, _EXISTS, 1, b"/", False)
            if proxy.take_lost(request):
                self._lost_xid = xid
            if (error := proxy.take_garbled(request)) is not None:
                self._garbled[xid] = error
        self._has_connected = True
        return frame

    def on_reply(self, frame: bytes, proxy: FaultProxy) -> bytes | None:
        """The reply to forward, or None to close the connection."""
        if not self._is_accepted:
            self._is_accepted = True
            timeout, session, size = struct.unpack_from(">4xiqi", frame)
            if timeout:  # 0: the session does not exist
                proxy.sessions.append((session, frame[20 : 20 + size]))
            return frame
        xid, zxid = struct.unpack_from(">iq", frame)
        if xid == self._refused_xid:
            self.send_reply(xid, UNIMPLEMENTED)
            self._is_refused = True
            return None
        if xid == self._lost_xid:
            proxy.lost_replies += 1
            return None
        if xid in self._garbled:
            proxy.garbled_replies += 1
            return struct.pack(">iqi", xid, zxid, self._garbled.pop(xid))
        return frame

    def send_reply(self, xid: int, error: int) -> None:
        """Send a reply to the client."""
        self.writers[0].write(struct.pack(">iiqi", 16, xid, 0, error))

    def reset(self) -> None:
        """Reset both connections. After `refused`, close them, so that the client receives the error."""
        if self._is_refused:
            self._is_refused = False
            for writer in self.writers:
                writer.close()
            return
        for writer in self.writers:
            peer = writer.get_extra_info("socket")
            if peer is not None and not writer.is_closing():
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
