"""The control socket: how commands reach the server that runs.

    command ──▶ one request ──▶ server ──▶ one response, and the end of the connection
                                       ├─▶ Dumped, Contents, Contents, …, the last one of them empty
                                       ╰─▶ ServicesListed, ServicesListed, …, the last one of them empty

Whoever may write to the socket may command the server, so it belongs to the server's user alone (mode 0600).
A server without one (its directory cannot be written to, another server has it) serves all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import structlog

from zkdns.config import Config
from zkdns.daemon.ipc.control_messages import (
    CountMembers,
    Explain,
    Explanation,
    HistoryPage,
    ListServices,
    MemberCount,
    ReadHistory,
    ServiceList,
)
from zkdns.daemon.ipc.framing import FrameCodec
from zkdns.errors import ZkdnsError
from zkdns.serverset.changes import Change

log = structlog.get_logger("zkdns.control")

_SECONDS = 5.0  # for a request to arrive, and for its answer
_LARGEST_REQUEST = 1 << 16
_UCRED = struct.Struct("3i")  # unix(7): pid, uid, gid


class AcceptLosses(msgspec.Struct, frozen=True, tag="accept"):
    """End limbo: what was lost is lost."""

    service: str | None
    """A service's name, with or without the zone, or its znode's path; None: all of them."""


class FlushCaches(msgspec.Struct, frozen=True, tag="flush"):
    """Forget what is cached of upstreams' answers."""

    name: str | None
    """Of this name and what lies below it; None: all of it."""


class Dump(msgspec.Struct, frozen=True, tag="dump"):
    """Hand out the table."""


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """Read the configuration again, and let it come into force. It is asked of the supervisor."""

    all: bool
    """Whether processes for which nothing has changed are replaced too."""


class ListNames(msgspec.Struct, frozen=True, tag="list-names"):
    """Say which services there are, for shells that complete what is typed."""

    beginning: str
    """What their names begin with, in whatever case."""
    only_held: bool
    """Only those of which members are held."""


class ReleasedMember(msgspec.Struct, frozen=True):
    """A member that was held until now."""

    service: str
    znode: str
    endpoint: str | None
    held_seconds: float


class LossesAccepted(msgspec.Struct, frozen=True, tag="accepted"):
    """Limbo has ended for these members."""

    members: tuple[ReleasedMember, ...]


class Flushed(msgspec.Struct, frozen=True, tag="flushed"):
    """The workers were told to forget."""

    flushed_workers: int
    """How many of them."""
    workers: int
    """How many there should be; one that is just being replaced caches nothing yet."""


class Dumped(msgspec.Struct, frozen=True, tag="dumped"):
    """The table follows, as it is at this moment, and with it what answers are made of."""

    config: Config
    serial: int
    is_stale: bool
    """Whether its source is out of reach, so that it is the last that was known."""


class Contents(msgspec.Struct, frozen=True, tag="contents"):
    """Some of the changes that make the table; none: that was all."""

    changes: tuple[Change, ...]


class Names(msgspec.Struct, frozen=True, tag="names"):
    """Services by their domain names, sorted; of very many only the first."""

    names: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Nothing was done; `sentence` says why."""

    reason: Literal["mistaken", "nothing"]
    sentence: str


class Reloaded(msgspec.Struct, frozen=True, tag="reloaded"):
    """The configuration is in force."""

    changed: tuple[str, ...]
    """The settings that are others than before."""
    replaced: tuple[str, ...]
    """The processes that others took the place of, by their roles."""
    seconds: float


class NotReloaded(msgspec.Struct, frozen=True, tag="not reloaded"):
    """The old configuration stays in force."""

    mistakes: tuple[str, ...]


Inquiry: TypeAlias = Explain | ReadHistory | ListServices | CountMembers
Request: TypeAlias = AcceptLosses | FlushCaches | Dump | Reload | ListNames | Inquiry
Response: TypeAlias = (
    LossesAccepted
    | Flushed
    | Dumped
    | Contents
    | Explanation
    | HistoryPage
    | ServiceList
    | MemberCount
    | Names
    | Reloaded
    | NotReloaded
    | Refused
)
Answered: TypeAlias = Response | Iterator[Response]
Respond: TypeAlias = Callable[[Request], Answered | Awaitable[Answered]]
REQUESTS: FrameCodec[Request] = FrameCodec(Request, most=_LARGEST_REQUEST)  # type: ignore[arg-type]  # as below
RESPONSES: FrameCodec[Response] = FrameCodec(Response)  # type: ignore[arg-type]  # a union is no type to mypy


def private_control_path(feed: str) -> str:
    """Where a watcher is asked by the server's own processes: beside its feed, in the private directory."""
    return f"{feed}.control"


class ControlError(ZkdnsError):
    """The server cannot be reached, or does not answer; the text says why and what would help."""


class ControlServer:
    """Answers requests at a Unix socket.

    Args:
        path: where; a dead server's socket is replaced. None: nowhere.
        respond: called in the event loop with each request; what it returns may be waited for. Where it
            returns an iterator, each response of that is made when those before it are on their way, and
            other things may happen in between.
    """

    def __init__(self, path: str | None, respond: Respond) -> None:
        self._path = Path(path) if path is not None else None
        self._respond = respond
        self._server: asyncio.Server | None = None
        self._inode: int | None = None

    async def start(self, predecessor: int | None = None) -> None:
        """Listen; where that cannot be, say so and go on.

        Args:
            predecessor: the process whose place this takes; it may listen there still, and nobody else.
        """
        if self._path is None:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        succeeds = predecessor is not None and _owner(self._path) == predecessor
        # To be put in the place of the other one when this listens, so that nobody finds nothing there.
        bound = self._path.with_name(f"{self._path.name}.new") if succeeds else self._path
        try:
            _bind(sock, bound)
        except (OSError, ControlError) as error:
            sock.close()
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            log.warning("control_socket_failed", path=str(self._path), reason=reason)
            return
        self._inode = bound.stat().st_ino
        self._server = await asyncio.start_unix_server(self._connected, sock=sock)
        bound.replace(self._path)

    def close(self) -> None:
        """Listen no more, and leave nothing behind."""
        if self._server is None or self._path is None:
            return
        self._server.close()
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:  # and not another server's by now
                self._path.unlink()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                request = await REQUESTS.read(reader)
            if request is None:
                return
            async with contextlib.aclosing(self._answer(request)) as all_of_them:
                async for response in all_of_them:
                    writer.write(RESPONSES.encode(response))
                    async with asyncio.timeout(_SECONDS):
                        await writer.drain()
                    await asyncio.sleep(0)  # draining alone lets nobody else have a turn
        except msgspec.DecodeError:
            sentence = "the request is none that this version of zkdns understands"
            writer.write(RESPONSES.encode(Refused("mistaken", sentence)))
        except asyncio.CancelledError:
            return  # this process ends; what is raised here Python 3.11's asyncio takes for a mistake
        except (TimeoutError, ConnectionError):
            writer.transport.abort()  # whoever asks and does not listen needs no answer
        finally:
            writer.close()

    async def _answer(self, request: Request) -> AsyncGenerator[Response]:
        try:
            response = self._respond(request)
            if isinstance(response, Awaitable):
                response = await response
            if isinstance(response, Iterator):
                for part in response:
                    yield part
            else:
                yield response
        except Exception:  # a mistake of ours must not cost the server
            log.exception("control_request_failed", request=repr(request))
            yield Refused("mistaken", "the server could not do it; its log says why")


def _bind(sock: socket.socket, path: Path) -> None:
    """Bind a socket to a path that nobody else listens at.

    Raises:
        OSError, ControlError: why not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ControlError("there is a file of that name that is no socket")
        if _is_alive(path):
            raise ControlError("another server has it")
        path.unlink()
    before = os.umask(0o177)  # from the first moment on it is nobody else's
    try:
        sock.bind(os.fspath(path))
    finally:
        os.umask(before)


def _owner(path: Path) -> int | None:
    """The process that listens at a socket; None: nobody does, or the system does not tell who."""
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.settimeout(_SECONDS)
        probe.connect(os.fspath(path))
        pid, _, _ = _UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return int(pid)
    return None


def _is_alive(path: Path) -> bool:
    """Whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except TimeoutError:
            return True
    return True


def reload_socket(control: str) -> str:
    """Where the supervisor hears of `Reload`: beside the socket of the watcher, which that may replace."""
    return f"{control}.reload"


async def command(path: str, request: Request, seconds: float = _SECONDS) -> Response:
    """Ask the server whose control socket this is; what it responds first.

    Args:
        path: that socket.
        request: what to ask.
        seconds: how long the answer may take.

    Raises:
        ControlError: there is none, it may not be asked, or it does not answer.
    """
    async with contextlib.aclosing(responses(path, request, seconds)) as all_of_them:
        return await anext(all_of_them)


async def responses(path: str, request: Request, seconds: float = _SECONDS) -> AsyncGenerator[Response]:
    """All that a server responds, without an end: whoever asks knows which one is the last.

    Raises:
        ControlError: as above; also where no further response follows.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
        writer.write(REQUESTS.encode(request))
        while True:
            async with asyncio.timeout(seconds):
                response = await RESPONSES.read(reader)
            if response is None:
                raise ControlError(f"the server at {path} hung up without an answer")
            yield response
    except (FileNotFoundError, ConnectionRefusedError):
        raise ControlError(
            f"no server listens at {path}; start one, or name another's socket with --control"
        ) from None
    except PermissionError:
        raise ControlError(f"{path} is not this user's; ask as the user that the server runs as") from None
    except TimeoutError:
        raise ControlError(f"the server at {path} does not answer within {seconds:g} s") from None
    except msgspec.DecodeError:
        raise ControlError(f"the server at {path} is of another version of zkdns") from None
    except OSError as error:
        raise ControlError(f"{path} cannot be reached: {error.strerror or error}") from None
    finally:
        if writer is not None:
            writer.close()
