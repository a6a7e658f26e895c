"""A TCP proxy before a ZooKeeper server that loses replies, stalls and resets, as networks do.

It reads ZooKeeper's frames (length, xid, type), so that a fault can hit one request and not just any byte.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

CREATE, DELETE = 1, 2  # types of requests, from zookeeper.jute
_LIMIT = 10.0


class FaultProxy:
    """A way to the server at `port` of this machine, without a fault until one is asked for.

    As a context manager it is started, in a thread of its own, and ended.
    """

    def __init__(self, port: int) -> None:
        self.lost_replies = 0
        self._upstream = port
        self._connections: set[_Connection] = set()
        self._is_down = False
        self._doomed: int | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def upstream(self) -> str:
        """Where the server is, for who wants no fault."""
        return f"127.0.0.1:{self._upstream}"

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    def lose_reply_of(self, request: int) -> None:
        """The server does the next request of this type; instead of its reply the connection is reset."""
        self._do(lambda: setattr(self, "_doomed", request))

    def stall(self) -> None:
        """Pass nothing on, and keep all connections open."""
        self._do(self._flows.clear)

    def resume(self) -> None:
        """Pass on what was held back, and everything again."""
        self._do(self._flows.set)

    def reset(self) -> None:
        """Reset all connections; the next may come at once."""
        self._do(self._reset_all)

    def go_down(self) -> None:
        """Reset all connections, and every new one."""
        self._do(self._down)

    def come_up(self) -> None:
        """Let connections live again."""
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
            asking = asyncio.ensure_future(self._pass(client, to_server, connection.sees_request, self))
            answering = asyncio.ensure_future(self._pass(server, to_client, connection.sees_reply, self))
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            asking.cancel()
            answering.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)
        except OSError:  # the server is down, and so are we
            pass
        finally:
            self._connections.discard(connection)
            connection.reset()

    async def _pass(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        may_pass: Callable[[bytes, "FaultProxy"], bool],
        proxy: "FaultProxy",
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                length = await source.readexactly(4)
                frame = await source.readexactly(struct.unpack(">i", length)[0])
                await self._flows.wait()
                if not may_pass(frame, proxy):
                    return
                target.write(length + frame)
                await target.drain()

    def take_doomed(self, request: int) -> bool:
        """Whether it is the request whose reply shall be lost; once."""
        if request != self._doomed:
            return False
        self._doomed = None
        return True


class _Connection:
    """One client's connection, and what is known of it."""

    def __init__(self, to_client: asyncio.StreamWriter) -> None:
        self.writers = [to_client]
        self._has_connected = False  # the first frame each way has no xid
        self._is_accepted = False
        self._doomed_xid: int | None = None

    def sees_request(self, frame: bytes, proxy: FaultProxy) -> bool:
        if self._has_connected:
            xid, request = struct.unpack_from(">ii", frame)
            if proxy.take_doomed(request):
                self._doomed_xid = xid
        self._has_connected = True
        return True

    def sees_reply(self, frame: bytes, proxy: FaultProxy) -> bool:
        if self._is_accepted and struct.unpack_from(">i", frame)[0] == self._doomed_xid:
            proxy.lost_replies += 1
            return False
        self._is_accepted = True
        return True

    def reset(self) -> None:
        for writer in self.writers:
            peer = writer.get_extra_info("socket")
            if peer is not None and not writer.is_closing():
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
