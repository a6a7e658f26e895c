"""A TCP proxy before a ZooKeeper server that loses replies, stalls and resets, as networks do.

It also answers as servers do that are old or confused. It reads ZooKeeper's frames (length, xid, type), so
that a fault can hit one request and not just any byte.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

CREATE, DELETE, LIST, MULTI_READ, ADD_WATCH = 1, 2, 12, 22, 106  # types of requests, from zookeeper.jute
UNIMPLEMENTED = -6  # an error, from there too
_LIMIT = 10.0


class FaultProxy:
    """A way to the server at `port` of this machine, without a fault until one is asked for.

    As a context manager it is started, in a thread of its own, and ended.
    """

    def __init__(self, port: int) -> None:
        self.lost_replies = 0
        self.garbled_replies = 0
        self.refused: frozenset[int] = frozenset()
        """Types of requests that are unknown: it says so and hangs up, as servers before 3.6 do."""
        self.sessions: list[tuple[int, bytes]] = []
        """Number and password of every session that was begun or resumed, in their order."""
        self._upstream = port
        self._connections: set[_Connection] = set()
        self._is_down = False
        self._doomed: int | None = None
        self._garbled: dict[int, int] = {}
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

    def garble_reply_of(self, request: int, error: int) -> None:
        """The server does the next request of this type; its reply is this error, be there one or not."""
        self._do(lambda: self._garbled.update({request: error}))

    def send_reply(self, xid: int, error: int) -> None:
        """Send a reply to each client that has asked for none such."""

        def tell() -> None:
            for connection in self._connections:
                connection.tell(xid, error)

        self._do(tell)

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
        may_pass: Callable[[bytes, "FaultProxy"], bytes | None],
        proxy: "FaultProxy",
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                (length,) = struct.unpack(">i", await source.readexactly(4))
                frame = await source.readexactly(length)
                await self._flows.wait()
                passed = may_pass(frame, proxy)
                if passed is None:
                    return
                target.write(struct.pack(">i", len(passed)) + passed)
                await target.drain()

    def take_doomed(self, request: int) -> bool:
        """Whether it is the request whose reply shall be lost; once."""
        if request != self._doomed:
            return False
        self._doomed = None
        return True

    def take_garbled(self, request: int) -> int | None:
        """The error that is the reply to this request, of which there is another; once."""
        return self._garbled.pop(request, None)


class _Connection:
    """One client's connection, and what is known of it."""

    def __init__(self, to_client: asyncio.StreamWriter) -> None:
        self.writers = [to_client]
        self._has_connected = False  # the first frame each way has no xid
        self._is_accepted = False
        self._doomed_xid: int | None = None
        self._garbled: dict[int, int] = {}
        self._hangs_up = False

    def sees_request(self, frame: bytes, proxy: FaultProxy) -> bytes | None:
        """What to pass on of a request; None: nothing, and the connection ends."""
        if self._has_connected:
            xid, request = struct.unpack_from(">ii", frame)
            if request in proxy.refused:
                self._hangs_up = True
                self.tell(xid, UNIMPLEMENTED)
                return None
            if proxy.take_doomed(request):
                self._doomed_xid = xid
            if (error := proxy.take_garbled(request)) is not None:
                self._garbled[xid] = error
        self._has_connected = True
        return frame

    def sees_reply(self, frame: bytes, proxy: FaultProxy) -> bytes | None:
        """What to pass on of a reply; None: nothing, and the connection ends."""
        if not self._is_accepted:
            self._is_accepted = True
            timeout, session, size = struct.unpack_from(">4xiqi", frame)
            if timeout:  # else there is no such session
                proxy.sessions.append((session, frame[20 : 20 + size]))
            return frame
        xid, zxid = struct.unpack_from(">iq", frame)
        if xid == self._doomed_xid:
            proxy.lost_replies += 1
            return None
        if xid in self._garbled:
            proxy.garbled_replies += 1
            return struct.pack(">iqi", xid, zxid, self._garbled.pop(xid))
        return frame

    def tell(self, xid: int, error: int) -> None:
        """Reply to the client."""
        self.writers[0].write(struct.pack(">iiqi", 16, xid, 0, error))

    def reset(self) -> None:
        """End it at once; where the server has hung up by itself, when the client has been told."""
        if self._hangs_up:
            self._hangs_up = False
            for writer in self.writers:
                writer.close()
            return
        for writer in self.writers:
            peer = writer.get_extra_info("socket")
            if peer is not None and not writer.is_closing():
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
